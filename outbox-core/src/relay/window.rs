//! The messages in memory, and which of them may go to the broker now.
//!
//! A row enters by [`Window::offer`] and leaves by [`Window::forget`], when the store has recorded what became of
//! it. In between it waits, or is in flight. Nothing here does I/O or reads a clock.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

// Every message is looked up a dozen times. Seeded, as keys are what anybody may have sent us.
use foldhash::{HashMap, HashSet};
use tokio::time::Instant;

use super::blame::Record;
use crate::identity::{Identity, RowId};
use crate::message::Message;
use crate::store::{Content, Fetched, Partition, Position};

/// What the relay knows of a row besides its content.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) position: Position,
    pub(crate) identity: Identity,
    pub(crate) partition: Partition,
    pub(crate) attempts: u32,
    pub(crate) due: bool,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) size: usize,
    /// Its age when it was fetched, by the database's clock, and when that was, by ours.
    pub(crate) age: Duration,
    pub(crate) fetched_at: Instant,
    /// What it has to do with calls that failed as a whole.
    pub(crate) record: Record,
}

impl Meta {
    pub(crate) fn row(&self) -> RowId {
        RowId::new(self.position, self.identity)
    }
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) meta: Meta,
    pub(crate) content: Content,
}

impl Row {
    pub(crate) fn new(fetched: Fetched, now: Instant) -> Self {
        let meta = Meta {
            position: fetched.position,
            identity: fetched.identity,
            partition: fetched.partition,
            attempts: fetched.attempts,
            due: fetched.due,
            key: fetched.key().map(Arc::from),
            size: fetched.size(),
            age: fetched.age,
            fetched_at: now,
            record: Record::new(fetched.attempts),
        };
        Self { meta, content: fetched.content }
    }

    pub(crate) fn of(meta: Meta, message: Message) -> Self {
        Self { meta, content: Content::Message(message) }
    }
}

/// Rows on their way from the window to a call. They are in boxes there, and moving them out would be the copying that the
/// boxes avoid.
pub(crate) type Rows = Vec<Box<Row>>;

/// What became of an offered row.
#[derive(Debug)]
pub(crate) enum Offer {
    /// It waits for its turn.
    Waiting,
    /// Its key is blocked by an earlier message: to be settled as held.
    Blocked(Box<Row>),
    /// It is in the window already, left over from an earlier lease on its partition.
    Known,
}

/// Limits of one publish call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLimit {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// Whether a call may hold several messages of one key.
    pub(crate) many_per_key: bool,
    /// Whether a message may go that is to be in flight alone.
    pub(crate) alone: bool,
}

/// How much of the window one key may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// Which keys are slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The time that a quick key needs for each row.
    pub(crate) quick: Duration,
    /// Rows that were fetched before have waited since then.
    pub(crate) since: Instant,
    pub(crate) now: Instant,
}

/// A key that has more.
#[derive(Debug)]
pub(crate) struct Excess {
    pub(crate) key: Arc<str>,
    /// The last row that is kept.
    pub(crate) boundary: RowId,
    /// Whether the store can hold what is behind that row. If all of it is due, it would be released again by the next delivery.
    pub(crate) can_be_held: bool,
    /// What waits behind that row.
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Member {
    partition: Partition,
    size: usize,
}

/// Whose turn it is: a row without a key, or the next row of a key.
#[derive(Debug)]
enum Turn {
    Row(Box<Row>),
    Key(Arc<str>),
}

#[derive(Debug, Default)]
struct Key {
    /// In boxes, since a tree moves what it holds.
    waiting: BTreeMap<RowId, Box<Row>>,
    in_flight: usize,
    has_turn: bool,
    /// Rows behind one of these positions must not be published. A position is in here until the store itself holds back what is
    /// behind it, with the number of outcomes that have yet to be recorded.
    blocked: BTreeMap<Position, u32>,
}

impl Key {
    fn blocks(&self, position: Position) -> bool {
        self.blocked.first_key_value().is_some_and(|(first, _)| position > *first)
    }

    fn block(&mut self, position: Position) {
        *self.blocked.entry(position).or_default() += 1;
    }

    fn is_unused(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0 && !self.has_turn && self.blocked.is_empty()
    }

    /// What waits behind the share of this key, if the key is slow. The last row that is kept is one that is not due, if there is one.
    fn excess(&self, name: &Arc<str>, share: Share, pace: Pace) -> Option<Excess> {
        let (_, first) = self.waiting.first_key_value()?;
        // As many rows have passed since then as wait now.
        let waited = pace.now.duration_since(first.meta.fetched_at.max(pace.since));
        let rows = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        if rows == 1 || waited < pace.quick.saturating_mul(rows) {
            return None;
        }
        let (mut kept, mut kept_bytes) = (0, 0);
        let mut excess: Option<Excess> = None;
        for row in self.waiting.values() {
            let (size, due) = (row.meta.size, row.meta.due);
            match &mut excess {
                Some(excess) if excess.can_be_held || due => {
                    excess.rows += 1;
                    excess.bytes += size;
                }
                _ => {
                    kept += 1;
                    kept_bytes += size;
                    if kept >= share.rows || kept_bytes >= share.bytes {
                        let (key, can_be_held) = (name.clone(), !due);
                        excess =
                            Some(Excess { key, boundary: row.meta.row(), can_be_held, rows: 0, bytes: 0 });
                    }
                }
            }
        }
        excess.filter(|excess| excess.rows > 0)
    }

    /// Takes along what may go of this key. Gives how many.
    fn load(&mut self, load: &mut Load) -> usize {
        let before = self.in_flight;
        while load.has_room()
            && let Some(first) = self.waiting.first_entry()
            && load.fits(&first.get().meta)
            && (self.in_flight == 0 || load.limit.many_per_key)
        {
            self.in_flight += 1;
            load.push(first.remove());
        }
        self.in_flight - before
    }
}

/// The rows of one call.
#[derive(Debug)]
struct Load {
    rows: Rows,
    bytes: usize,
    limit: CallLimit,
}

impl Load {
    fn new(limit: CallLimit, waiting: usize) -> Self {
        Self { rows: Vec::with_capacity(limit.messages.min(waiting)), bytes: 0, limit }
    }

    fn has_room(&self) -> bool {
        let limit = self.rows.first().map_or(1, |row| row.meta.record.limit(self.limit.messages));
        self.rows.len() < limit
    }

    fn fits(&self, next: &Meta) -> bool {
        match self.rows.first() {
            Some(first) => {
                self.bytes + next.size <= self.limit.bytes && next.record.goes_with(first.meta.record)
            }
            None => self.limit.alone || !next.record.is_alone(),
        }
    }

    fn push(&mut self, row: Box<Row>) {
        self.bytes += row.meta.size;
        self.rows.push(row);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Window {
    members: HashMap<RowId, Member>,
    /// Those among them that came as due; usually none.
    due: HashSet<RowId>,
    /// Those that were taken out to be parked, and come back.
    parking: HashSet<RowId>,
    by_partition: HashMap<Partition, usize>,
    bytes: usize,
    waiting: usize,
    turns: VecDeque<Turn>,
    keys: HashMap<Arc<str>, Key>,
}

impl Window {
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty_of(&self, partition: Partition) -> bool {
        !self.by_partition.contains_key(&partition)
    }

    /// The rows that came as due, which the store would otherwise return again.
    pub(crate) fn due_rows(&self) -> Vec<RowId> {
        self.due.iter().copied().collect()
    }

    /// Counts a row in without queueing it, for rows that are settled without being published.
    /// Says whether it was new.
    pub(crate) fn admit(&mut self, meta: &Meta) -> bool {
        let row = meta.row();
        if self.members.contains_key(&row) {
            return false;
        }
        self.members.insert(row, Member { partition: meta.partition, size: meta.size });
        if meta.due {
            self.due.insert(row);
        }
        *self.by_partition.entry(meta.partition).or_default() += 1;
        self.bytes += meta.size;
        true
    }

    /// Takes a fetched row in.
    pub(crate) fn offer(&mut self, row: Box<Row>) -> Offer {
        if !self.admit(&row.meta) {
            return Offer::Known;
        }
        self.queue(row).map_or(Offer::Waiting, Offer::Blocked)
    }

    /// Queues a row, or gives it back if its key is blocked in front of it.
    pub(crate) fn queue(&mut self, row: Box<Row>) -> Option<Box<Row>> {
        let Some(name) = row.meta.key.clone() else {
            self.turns.push_back(Turn::Row(row));
            self.waiting += 1;
            return None;
        };
        let key = self.keys.entry(name.clone()).or_default();
        if key.blocks(row.meta.position) {
            return Some(row);
        }
        key.waiting.insert(row.meta.row(), row);
        self.waiting += 1;
        if key.in_flight == 0 && !key.has_turn {
            key.has_turn = true;
            self.turns.push_back(Turn::Key(name));
        }
        None
    }

    /// Takes the next call's worth of rows. Empty if nothing may go now.
    pub(crate) fn take(&mut self, limit: CallLimit) -> Rows {
        let mut load = Load::new(limit, self.waiting);
        while load.has_room()
            && let Some(turn) = self.turns.front()
        {
            let mut unused = false;
            match turn {
                Turn::Row(row) if !load.fits(&row.meta) => break,
                Turn::Row(_) => {}
                Turn::Key(name) => {
                    if let Some(key) = self.keys.get_mut(name) {
                        if key.waiting.values().next().is_some_and(|row| !load.fits(&row.meta)) {
                            break;
                        }
                        key.has_turn = false;
                        self.waiting -= key.load(&mut load);
                        unused = key.is_unused();
                    }
                }
            }
            match self.turns.pop_front() {
                Some(Turn::Row(row)) => {
                    self.waiting -= 1;
                    load.push(row);
                }
                Some(Turn::Key(name)) if unused => {
                    self.keys.remove(&name);
                }
                _ => {}
            }
        }
        load.rows
    }

    /// Whether the next turn is that of a message that is to be in flight alone.
    pub(crate) fn next_is_alone(&self) -> bool {
        self.turns.front().and_then(|turn| self.first_of(turn)).is_some_and(|row| row.meta.record.is_alone())
    }

    fn first_of<'a>(&'a self, turn: &'a Turn) -> Option<&'a Row> {
        match turn {
            Turn::Row(row) => Some(row),
            Turn::Key(name) => self.keys.get(name)?.waiting.values().next().map(|row| &**row),
        }
    }

    /// Takes the message whose outcome says most about the broker: one that has not failed, else, unless `fresh`, the one
    /// that is least suspicious.
    pub(crate) fn take_probe(&mut self, fresh: bool) -> Option<Box<Row>> {
        let candidates = self.turns.iter().enumerate();
        let ranks = candidates.filter_map(|(i, turn)| Some((self.first_of(turn)?.meta.record.rank(), i)));
        let (rank, index) = ranks.min()?;
        if fresh && rank.0 {
            return None;
        }
        match self.turns.remove(index)? {
            Turn::Row(row) => {
                self.waiting -= 1;
                Some(row)
            }
            Turn::Key(name) => {
                let key = self.keys.get_mut(&name)?;
                key.has_turn = false;
                let (_, row) = key.waiting.pop_first()?;
                key.in_flight += 1;
                self.waiting -= 1;
                Some(row)
            }
        }
    }

    /// Takes out a row that waits. It stays in the window.
    pub(crate) fn take_out(&mut self, wanted: RowId, key: Option<&Arc<str>>) -> Option<Box<Row>> {
        let row = match key {
            Some(name) => self.keys.get_mut(name)?.waiting.remove(&wanted)?,
            None => {
                let is_it = |turn: &Turn| matches!(turn, Turn::Row(row) if row.meta.row() == wanted);
                match self.turns.remove(self.turns.iter().position(is_it)?)? {
                    Turn::Row(row) => row,
                    Turn::Key(_) => return None,
                }
            }
        };
        self.waiting -= 1;
        Some(row)
    }

    /// What waits behind the shares of slow keys.
    pub(crate) fn excesses(&self, share: Share, pace: Pace) -> Vec<Excess> {
        self.keys.iter().filter_map(|(name, key)| key.excess(name, share, pace)).collect()
    }

    /// Takes out a row that waits, to come back when the store holds what is behind it.
    pub(crate) fn take_to_park(&mut self, row: RowId, key: &Arc<str>) -> Option<Box<Row>> {
        let taken = self.take_out(row, Some(key))?;
        self.parking.insert(row);
        Some(taken)
    }

    /// Drops the rows of a key that wait behind a position. Returns where they are.
    pub(crate) fn drop_behind(&mut self, name: &Arc<str>, position: Position) -> Vec<RowId> {
        let Some(key) = self.keys.get_mut(name) else { return Vec::new() };
        let dropped = key.waiting.split_off(&RowId::first_at(Position(position.0.saturating_add(1))));
        self.waiting -= dropped.len();
        dropped.into_keys().inspect(|row| self.forget(*row)).collect()
    }

    /// How many rows of a key wait. Rows without a key do not wait for each other.
    pub(crate) fn waiting_of(&self, name: Option<&Arc<str>>) -> usize {
        name.and_then(|name| self.keys.get(name)).map_or(0, |key| key.waiting.len())
    }

    /// The partition of a row.
    pub(crate) fn partition_of(&self, row: RowId) -> Option<Partition> {
        self.members.get(&row).map(|member| member.partition)
    }

    /// Whether a row is on its way to be parked.
    pub(crate) fn is_parking(&self) -> bool {
        !self.parking.is_empty()
    }

    /// The store has recorded what became of a row. Returns whether it is one that comes back.
    pub(crate) fn end_parking(&mut self, row: RowId) -> bool {
        self.parking.remove(&row)
    }

    /// The store returns this row as a due one from now on.
    pub(crate) fn is_due(&mut self, row: RowId) {
        self.due.insert(row);
    }

    /// The broker was down: nothing that waits is narrowed down any further.
    pub(crate) fn forgive(&mut self) {
        for turn in &mut self.turns {
            if let Turn::Row(row) = turn {
                row.meta.record.forgive();
            }
        }
        for row in self.keys.values_mut().flat_map(|key| key.waiting.values_mut()) {
            row.meta.record.forgive();
        }
    }

    /// A row of this key is not in flight any more; the next one of the key may go.
    pub(crate) fn landed(&mut self, key: Option<&Arc<str>>) {
        let Some(name) = key else { return };
        let Some(key) = self.keys.get_mut(name) else { return };
        key.in_flight = key.in_flight.saturating_sub(1);
        if key.in_flight == 0 && !key.waiting.is_empty() && !key.has_turn {
            key.has_turn = true;
            self.turns.push_back(Turn::Key(name.clone()));
        } else if key.is_unused() {
            self.keys.remove(name);
        }
    }

    /// A row that was in flight waits again, or is given back because its key is blocked in front of it.
    pub(crate) fn put_back(&mut self, row: Box<Row>) -> Option<Box<Row>> {
        let name = row.meta.key.clone();
        let blocked = self.queue(row);
        self.landed(name.as_ref());
        blocked
    }

    /// Blocks a key behind a position. Returns the rows that waited there: to be settled as held. The key is blocked behind each of
    /// them as well, and each block ends by a call of [`unblock`](Self::unblock).
    pub(crate) fn block(&mut self, name: &Arc<str>, position: Position) -> Rows {
        let key = self.keys.entry(name.clone()).or_default();
        key.block(position);
        let after = RowId::first_at(Position(position.0.saturating_add(1)));
        let held = key.waiting.split_off(&after);
        held.keys().for_each(|row| key.block(row.position));
        self.waiting -= held.len();
        held.into_values().collect()
    }

    /// Whether a row of this key at this position would have to be held.
    pub(crate) fn is_blocked(&self, name: &Arc<str>, position: Position) -> bool {
        self.keys.get(name).is_some_and(|key| key.blocks(position))
    }

    /// The store itself now holds back what comes behind this row, and no older view of it is under way.
    pub(crate) fn unblock(&mut self, name: &Arc<str>, position: Position) {
        if let Some(key) = self.keys.get_mut(name) {
            if let Entry::Occupied(mut outcomes) = key.blocked.entry(position) {
                *outcomes.get_mut() -= 1;
                if *outcomes.get() == 0 {
                    outcomes.remove();
                }
            }
            if key.is_unused() {
                self.keys.remove(name);
            }
        }
    }

    /// The store has recorded what became of this row, or the row was dropped.
    pub(crate) fn forget(&mut self, row: RowId) {
        let Some(member) = self.members.remove(&row) else { return };
        self.due.remove(&row);
        self.parking.remove(&row);
        self.bytes -= member.size;
        if let Some(count) = self.by_partition.get_mut(&member.partition) {
            *count -= 1;
            if *count == 0 {
                self.by_partition.remove(&member.partition);
            }
        }
    }

    /// Drops the waiting rows of the partitions for which `drop` is true; they are in the store as they were.
    pub(crate) fn drop_waiting(&mut self, drop: impl Fn(Partition) -> bool) {
        let mut dropped = Vec::new();
        self.turns.retain(|turn| match turn {
            Turn::Row(row) if drop(row.meta.partition) => {
                dropped.push(row.meta.row());
                false
            }
            _ => true,
        });
        for key in self.keys.values_mut() {
            key.waiting.retain(|id, row| {
                let gone = drop(row.meta.partition);
                if gone {
                    dropped.push(*id);
                }
                !gone
            });
        }
        self.waiting -= dropped.len();
        for row in dropped {
            self.forget(row);
        }
        // What is in front of them was dropped, so they must not come back.
        let members = &self.members;
        self.parking.retain(|row| members.get(row).is_some_and(|member| !drop(member.partition)));
    }

    /// Whether rows wait, and all of them for the answer to another one of their key.
    pub(crate) fn waits_for_answers(&self) -> bool {
        self.waiting > 0 && self.turns.is_empty()
    }

    /// Whether anything of a key is in memory.
    pub(crate) fn has_key(&self, name: &Arc<str>) -> bool {
        self.keys.contains_key(name)
    }

    /// Whether anything waits.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
