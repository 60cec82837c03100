//! Everything behind the memory store's lock.

use std::collections::BTreeMap;

use crate::message::{Message, MessageId};
use crate::store::{Content, Count, Partition, Position, Stats};
use crate::time::Timestamp;

use super::lease::Leases;
use super::slice::{Row, RowState, Slice};

#[derive(Clone, Debug)]
pub(super) struct DeadRow {
    pub(super) row: Row,
    pub(super) partition: Partition,
    pub(super) error: String,
    pub(super) blocks_key: bool,
    pub(super) died_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct State {
    last_position: i64,
    last_serial: i64,
    pub(super) slices: Vec<Slice>,
    pub(super) leases: Leases,
    /// By position and serial number, since several may be at one position.
    pub(super) dead: BTreeMap<(Position, i64), DeadRow>,
    /// Kept delivered rows by the time of their delivery, position and serial number.
    pub(super) delivered: BTreeMap<(Timestamp, Position, i64), Content>,
}

impl State {
    pub(super) fn new(partitions: u16) -> Self {
        let partitions = usize::from(partitions);
        Self {
            last_position: 0,
            last_serial: 0,
            slices: (0..partitions).map(|_| Slice::default()).collect(),
            leases: Leases::new(partitions),
            dead: BTreeMap::new(),
            delivered: BTreeMap::new(),
        }
    }

    /// Hands out a position, as a sequence does: at once, whether or not the row is ever committed.
    pub(super) fn draw_position(&mut self) -> Position {
        self.last_position += 1;
        Position(self.last_position)
    }

    /// Makes sure that this position is not handed out any more.
    pub(super) fn skip_position(&mut self, position: Position) {
        self.last_position = self.last_position.max(position.0);
    }

    /// Removes the undelivered rows from this position on and hands these positions out again.
    pub(super) fn lose_from(&mut self, position: Position) {
        for slice in &mut self.slices {
            slice.lose_from(position);
        }
        self.last_position = self.last_position.min(position.0.saturating_sub(1)).max(0);
    }

    pub(super) fn slice_mut(&mut self, partition: Partition) -> Option<&mut Slice> {
        self.slices.get_mut(usize::from(partition.0))
    }

    /// From the key, or from the id where there is none.
    pub(super) fn partition_of(&self, content: &Content, position: Position) -> Partition {
        let hash = match content {
            Content::Message(message) => match message.key() {
                Some(key) => fnv1a(key.as_bytes()),
                None => fnv1a(message.id().as_uuid().as_bytes()),
            },
            Content::Malformed { key: Some(key), .. } => fnv1a(key.as_bytes()),
            Content::Malformed { id: Some(id), .. } => fnv1a(id.as_uuid().as_bytes()),
            Content::Malformed { .. } => fnv1a(&position.0.to_le_bytes()),
        };
        let partitions = self.slices.len().max(1) as u64;
        Partition(u16::try_from(hash % partitions).unwrap_or(0))
    }

    /// Makes rows visible.
    pub(super) fn commit(&mut self, rows: Vec<(Position, Row)>) {
        for (mut position, mut row) in rows {
            let partition = self.partition_of(&row.content, position);
            self.last_serial += 1;
            row.serial = self.last_serial;
            // Only if the position was lost and handed out again while the transaction was open.
            while self.slice_mut(partition).is_some_and(|slice| slice.row(position).is_some()) {
                position = self.draw_position();
            }
            if let Some(slice) = self.slice_mut(partition) {
                slice.insert(position, row);
            }
        }
    }

    /// Deletes a message wherever it is, behind the store's back.
    pub(super) fn delete(&mut self, id: MessageId) -> bool {
        for slice in &mut self.slices {
            let found = slice.rows().find(|(_, row)| content_id(&row.content) == Some(id));
            if let Some(position) = found.map(|(position, _)| position) {
                slice.remove(position);
                return true;
            }
        }
        let found = self.dead.iter().find(|(_, dead)| content_id(&dead.row.content) == Some(id));
        let Some(place) = found.map(|(place, _)| *place) else { return false };
        if let Some(dead) = self.dead.remove(&place)
            && let (true, Some(key)) = (dead.blocks_key, dead.row.key())
            && let Some(slice) = self.slice_mut(dead.partition)
        {
            slice.unblock_by_dead_letter(key, place);
        }
        true
    }

    pub(super) fn undelivered(&self) -> Vec<(Position, Content)> {
        let rows = self.slices.iter().flat_map(Slice::rows);
        let mut all: Vec<_> = rows.map(|(position, row)| (position, row.content.clone())).collect();
        all.sort_unstable_by_key(|(position, _)| *position);
        all
    }

    pub(super) fn stats(&self, limit: u64, now: Timestamp) -> Stats {
        let backlog: usize = self.slices.iter().map(Slice::len).sum();
        let oldest = self.slices.iter().filter_map(|slice| {
            slice.rows().find(|(_, row)| !matches!(row.state, RowState::Scheduled { at } if at > now))
        });
        Stats {
            backlog: Count::limited(backlog as u64, limit),
            dead_letters: Count::limited(self.dead.len() as u64, limit),
            lag: oldest.min_by_key(|(position, _)| *position).map(|(_, row)| now.since(row.enqueued_at)),
        }
    }
}

pub(super) fn content_id(content: &Content) -> Option<MessageId> {
    match content {
        Content::Message(message) => Some(message.id()),
        Content::Malformed { id, .. } => *id,
    }
}

pub(super) fn fresh_row(message: &Message, now: Timestamp) -> Row {
    let state = match message.deliver_at() {
        Some(at) => RowState::Scheduled { at },
        None => RowState::Ready,
    };
    Row::new(Content::Message(message.clone()), now, state)
}

/// A small hash that stays the same between runs, so that tests see the same partitions each time.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
