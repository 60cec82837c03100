//! Transactions of the memory store.

use std::fmt;

use crate::message::Message;
use crate::store::{Content, Position};

use super::slice::{Row, RowState};
use super::state::fresh_row;
use super::store::MemoryStore;

/// A transaction on a [`MemoryStore`]: its messages exist once it commits, and never if it does not.
///
/// Dropping it rolls it back.
#[must_use = "dropping a transaction rolls it back"]
pub struct MemoryTransaction {
    store: MemoryStore,
    rows: Vec<(Position, Row)>,
}

impl MemoryTransaction {
    pub(super) fn new(store: MemoryStore) -> Self {
        Self { store, rows: Vec::new() }
    }

    /// Enqueues a message. It gets its position now and is visible after the commit, so that transactions that
    /// commit out of order make rows appear below others, as in a database.
    pub fn enqueue(&mut self, message: &Message) -> Position {
        let now = self.store.now();
        let position = self.store.lock().draw_position();
        self.rows.push((position, fresh_row(message, now)));
        position
    }

    /// Enqueues a row that nobody can read, as another program might write one. `content` should be
    /// [`Content::Malformed`].
    pub fn enqueue_content(&mut self, content: Content) -> Position {
        let now = self.store.now();
        let position = self.store.lock().draw_position();
        self.rows.push((position, Row::new(content, now, RowState::Ready)));
        position
    }

    /// Makes the messages visible, all at once.
    pub fn commit(self) {
        self.store.lock().commit(self.rows);
        self.store.wake();
    }

    /// Forgets the messages. Their positions stay unused.
    pub fn rollback(self) {}
}

impl fmt::Debug for MemoryTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransaction").field("messages", &self.rows.len()).finish_non_exhaustive()
    }
}
