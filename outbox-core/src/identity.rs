//! Which message is at a position.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::message::MessageId;
use crate::store::Position;
use crate::time::Timestamp;

/// Distinguishes a row from every other row that was or will be at the same position.
///
/// A database that loses its latest commits assigns their positions again: after a crash with asynchronous commits, a failover to
/// a replica that lags, a restored backup, or `TRUNCATE … RESTART IDENTITY`. What the relay then knows about a position may
/// concern a message that is gone, and must not be written to the message that is there now.
///
/// A store builds the identity from values that are stored with the row and never change: the message id as it is stored, and the
/// time of enqueueing. Message ids may repeat, so neither is enough by itself. The relay compares identities and returns them to the
/// store unchanged; it does not interpret them.
///
/// # Examples
/// ```
/// use outbox_core::{Identity, MessageId, Timestamp};
///
/// let id = MessageId::new();
/// let first = Identity::of(id, Timestamp::from_micros(1));
/// assert_ne!(first, Identity::of(id, Timestamp::from_micros(2)));
/// assert_eq!(first.id(), *id.as_uuid().as_bytes());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    id: [u8; 16],
    time: i64,
}

impl Identity {
    /// Creates an identity from 16 bytes that stand for the stored message id, and a number that stands for the time of enqueueing.
    /// Only the store that created it interprets them. An id of another length is represented by a digest.
    pub const fn new(id: [u8; 16], time: i64) -> Self {
        Self { id, time }
    }

    /// Creates the identity of a row whose id is a UUID and whose time of enqueueing is stored with microseconds.
    pub fn of(id: MessageId, enqueued_at: Timestamp) -> Self {
        Self::new(*id.as_uuid().as_bytes(), enqueued_at.as_micros())
    }

    /// Returns the bytes that stand for the stored message id.
    pub const fn id(self) -> [u8; 16] {
        self.id
    }

    /// Returns the number that stands for the time of enqueueing.
    pub const fn time(self) -> i64 {
        self.time
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:032x}, {})", u128::from_be_bytes(self.id), self.time)
    }
}

/// A row: its position, and which of the messages that were ever there.
///
/// Ordered by position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RowId {
    /// Position of the row.
    pub position: Position,
    /// Identity of the row.
    pub identity: Identity,
}

impl RowId {
    /// Creates the id of a row.
    pub const fn new(position: Position, identity: Identity) -> Self {
        Self { position, identity }
    }

    /// Returns an id that is ordered before those of all rows at the position.
    pub(crate) const fn first_at(position: Position) -> Self {
        Self { position, identity: Identity { id: [0; 16], time: i64::MIN } }
    }
}

/// Two rows at one position are rare, so the position alone decides where a row is in a table of hashes.
impl Hash for RowId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.position.hash(state);
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.position.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_ordered_by_position_first() {
        let identity = |byte: u8, time| Identity::new([byte; 16], time);
        let row = |position, identity| RowId::new(Position(position), identity);
        let rows = [
            row(1, identity(9, 9)),
            RowId::first_at(Position(2)),
            row(2, identity(0, i64::MIN + 1)),
            row(2, identity(1, i64::MIN)),
            RowId::first_at(Position(3)),
        ];
        assert!(rows.is_sorted());
        assert_eq!(row(7, identity(1, 1)).to_string(), "7");
        assert_eq!(format!("{:?}", identity(1, -5)), "Identity(01010101010101010101010101010101, -5)");
    }
}
