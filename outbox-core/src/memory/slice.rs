//! The rows of one partition, and which keys in it are blocked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::identity::{Identity, RowId};
use crate::store::{Content, Position};
use crate::time::Timestamp;

/// How many of the first rows of a key may be due at a time after a release. Bounds the work of one settle call and what a relay
/// reads of the key, as in the SQL stores; each of them that is delivered makes room for another one.
pub(super) const RELEASE_CHUNK: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    Ready,
    Scheduled {
        at: Timestamp,
    },
    Retrying {
        at: Timestamp,
        blocks: bool,
    },
    /// Waits behind an earlier message of its key. `not_before` is what is left of its own backoff.
    Held {
        not_before: Option<Timestamp>,
    },
    /// Was held and is due now. Goes on blocking, so that the ready rows behind it stay behind it.
    Released,
}

impl RowState {
    pub(super) fn blocks(self) -> bool {
        matches!(self, Self::Retrying { blocks: true, .. } | Self::Held { .. } | Self::Released)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) content: Content,
    pub(super) attempts: u32,
    pub(super) enqueued_at: Timestamp,
    pub(super) last_error: Option<String>,
    pub(super) state: RowState,
    /// Tells it from all other rows. Set at the commit.
    pub(super) serial: i64,
    /// Its entry in the log of late rows, while it is ready.
    late: Option<u64>,
}

impl Row {
    pub(super) fn new(content: Content, enqueued_at: Timestamp, state: RowState) -> Self {
        Self { content, attempts: 0, enqueued_at, last_error: None, state, serial: 0, late: None }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::new([0; 16], self.serial)
    }

    pub(super) fn key(&self) -> Option<&str> {
        match &self.content {
            Content::Message(message) => message.key(),
            Content::Malformed { key, .. } => key.as_deref(),
        }
    }

    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Message(message) => message.size(),
            Content::Malformed { .. } => 0,
        }
    }
}

/// Where a row that blocks its key is. A dead letter and an undelivered row may be at one position.
type Place = (Position, i64);

/// What blocks a key at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocker {
    /// Nothing behind it may be released: it is retrying or dead.
    Wall,
    Held,
    Released,
}

#[derive(Debug, Default)]
pub(super) struct Slice {
    rows: BTreeMap<Position, Row>,
    /// Rows whose time has not come, by time.
    waiting: BTreeSet<(Timestamp, Position)>,
    /// Rows whose time has come.
    due: BTreeSet<Position>,
    /// The highest position that was ever visible. A row that appears there again or below is late.
    newest: Option<Position>,
    /// Ready rows that were late, by the order of their appearance, for readers that have passed them.
    late: BTreeMap<u64, Position>,
    late_count: u64,
    /// Everything that blocks, dead letters included, by key. Empty in quiet times.
    /// In order, so that whoever repairs some of them always repairs the same.
    keys: BTreeMap<String, BTreeMap<Place, Blocker>>,
}

impl Slice {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn newest(&self) -> Option<Position> {
        self.newest
    }

    pub(super) fn row(&self, position: Position) -> Option<&Row> {
        self.rows.get(&position)
    }

    pub(super) fn has(&self, row: RowId) -> bool {
        self.rows.get(&row.position).is_some_and(|found| found.identity() == row.identity)
    }

    /// Returns the position if it is free, else a free one before all others.
    pub(super) fn free_position(&self, wanted: Position) -> Position {
        match self.rows.first_key_value() {
            Some((first, _)) if self.rows.contains_key(&wanted) => Position(first.0.min(0).saturating_sub(1)),
            _ => wanted,
        }
    }

    /// Removes all rows at this position and behind it.
    pub(super) fn lose_from(&mut self, position: Position) {
        let lost: Vec<Position> = self.rows.range(position..).map(|(position, _)| *position).collect();
        for position in lost {
            self.remove(position);
        }
    }

    pub(super) fn row_mut(&mut self, position: Position) -> Option<&mut Row> {
        self.rows.get_mut(&position)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (Position, &Row)> {
        self.rows.iter().map(|(position, row)| (*position, row))
    }

    /// Ready rows past a position, in position order.
    pub(super) fn ready_after(&self, cursor: Option<Position>) -> impl Iterator<Item = Position> + '_ {
        let from = cursor.map_or(Unbounded, Excluded);
        self.rows
            .range((from, Unbounded))
            .filter(|(_, row)| row.state == RowState::Ready)
            .map(|(position, _)| *position)
    }

    pub(super) fn is_ready(&self, position: Position) -> bool {
        self.rows.get(&position).is_some_and(|row| row.state == RowState::Ready)
    }

    /// The number of late rows so far: where a new reader begins to read the log of them.
    pub(super) fn late_count(&self) -> u64 {
        self.late_count
    }

    /// Rows that appeared late after the log had `seen` entries.
    pub(super) fn late_since(&self, seen: u64) -> impl Iterator<Item = Position> + '_ {
        self.late.range(seen..).map(|(_, position)| *position)
    }

    pub(super) fn due(&self) -> impl Iterator<Item = Position> + '_ {
        self.due.iter().copied()
    }

    pub(super) fn next_due_at(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Moves the rows whose time has come to the due ones.
    pub(super) fn promote(&mut self, now: Timestamp) {
        while self.waiting.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, position)) = self.waiting.pop_first() {
                self.due.insert(position);
            }
        }
    }

    pub(super) fn insert(&mut self, position: Position, mut row: Row) {
        if row.state == RowState::Ready && self.newest.is_some_and(|newest| position <= newest) {
            row.late = Some(self.late_count);
            self.late.insert(self.late_count, position);
            self.late_count += 1;
        }
        self.newest = self.newest.max(Some(position));
        self.index(position, &row);
        self.rows.insert(position, row);
    }

    pub(super) fn remove(&mut self, position: Position) -> Option<Row> {
        let mut row = self.rows.remove(&position)?;
        self.unindex(position, &mut row);
        Some(row)
    }

    pub(super) fn set_state(&mut self, position: Position, state: RowState) {
        let Some(mut row) = self.rows.remove(&position) else { return };
        self.unindex(position, &mut row);
        row.state = state;
        self.index(position, &row);
        self.rows.insert(position, row);
    }

    fn index(&mut self, position: Position, row: &Row) {
        match row.state {
            RowState::Scheduled { at } | RowState::Retrying { at, .. } => {
                self.waiting.insert((at, position));
            }
            RowState::Released => {
                self.due.insert(position);
            }
            RowState::Ready | RowState::Held { .. } => {}
        }
        let blocker = match row.state {
            RowState::Retrying { blocks: true, .. } => Blocker::Wall,
            RowState::Held { .. } => Blocker::Held,
            RowState::Released => Blocker::Released,
            _ => return,
        };
        if let Some(key) = row.key() {
            self.keys.entry(key.to_owned()).or_default().insert((position, row.serial), blocker);
        }
    }

    fn unindex(&mut self, position: Position, row: &mut Row) {
        if let RowState::Scheduled { at } | RowState::Retrying { at, .. } = row.state {
            self.waiting.remove(&(at, position));
        }
        self.due.remove(&position);
        if let Some(late) = row.late.take() {
            self.late.remove(&late);
        }
        if row.state.blocks()
            && let Some(key) = row.key()
        {
            unblock(&mut self.keys, key, (position, row.serial));
        }
    }

    /// A dead letter that blocks its key.
    pub(super) fn block_by_dead_letter(&mut self, key: &str, place: Place) {
        self.keys.entry(key.to_owned()).or_default().insert(place, Blocker::Wall);
    }

    pub(super) fn unblock_by_dead_letter(&mut self, key: &str, place: Place) {
        unblock(&mut self.keys, key, place);
    }

    /// Whether something before this position blocks the key.
    pub(super) fn is_blocked(&self, key: Option<&str>, position: Position) -> bool {
        key.and_then(|key| self.keys.get(key))
            .is_some_and(|blockers| blockers.range(..(position, i64::MIN)).next().is_some())
    }

    /// Whether the row is here. A dead letter is not, even if another row is at its position.
    fn is_at(&self, position: Position, serial: i64) -> bool {
        self.rows.get(&position).is_some_and(|row| row.serial == serial)
    }

    /// Holds whatever of the key is behind this position and was retrying or released.
    pub(super) fn hold_later(&mut self, key: &str, position: Position) {
        let Some(blockers) = self.keys.get(key) else { return };
        let later: Vec<Position> = blockers
            .range((Excluded((position, i64::MAX)), Unbounded))
            .filter(|(_, blocker)| **blocker != Blocker::Held)
            .filter(|((position, serial), _)| self.is_at(*position, *serial))
            .map(|((position, _), _)| *position)
            .collect();
        for position in later {
            let not_before = match self.rows.get(&position).map(|row| row.state) {
                Some(RowState::Retrying { at, .. }) => Some(at),
                _ => None,
            };
            self.set_state(position, RowState::Held { not_before });
        }
    }

    /// Makes the first held rows of the key due, as far as nothing in front of them forbids it.
    pub(super) fn release(&mut self, key: &str, now: Timestamp, limit: usize) -> u64 {
        let Some(blockers) = self.keys.get(key) else { return 0 };
        let held: Vec<Position> = blockers
            .iter()
            .take(RELEASE_CHUNK)
            .take_while(|(_, blocker)| **blocker != Blocker::Wall)
            .filter(|(_, blocker)| **blocker == Blocker::Held)
            .map(|((position, _), _)| *position)
            .take(limit)
            .collect();
        let mut released = 0;
        for position in held {
            let backoff = match self.rows.get(&position).map(|row| row.state) {
                Some(RowState::Held { not_before: Some(at) }) if at > now => Some(at),
                _ => None,
            };
            released += 1;
            let Some(at) = backoff else {
                self.set_state(position, RowState::Released);
                continue;
            };
            // It still has to sit out its own backoff, and everything behind waits for it.
            self.set_state(position, RowState::Retrying { at, blocks: true });
            break;
        }
        released
    }

    /// Keys whose first blocking message is held by nothing.
    pub(super) fn stuck_keys(&self) -> Vec<String> {
        let stuck = |blockers: &BTreeMap<Place, Blocker>| {
            blockers.first_key_value().is_some_and(|(_, blocker)| *blocker == Blocker::Held)
        };
        self.keys.iter().filter(|(_, blockers)| stuck(blockers)).map(|(key, _)| key.clone()).collect()
    }
}

fn unblock(keys: &mut BTreeMap<String, BTreeMap<Place, Blocker>>, key: &str, place: Place) {
    if let Some(blockers) = keys.get_mut(key) {
        blockers.remove(&place);
        if blockers.is_empty() {
            keys.remove(key);
        }
    }
}
