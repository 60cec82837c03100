//! What somebody who tests an inbox provides.

use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{MessageId, Result};

/// Makes fixtures with an inbox of their own each.
#[async_trait]
pub trait InboxHarness: Send + Sync {
    /// A new, empty inbox.
    ///
    /// # Errors
    /// Whatever goes wrong; the case fails with it.
    async fn create(&self) -> Result<Box<dyn InboxFixture>>;

    /// Names of cases that say nothing about this inbox.
    fn not_applicable(&self) -> &[&str] {
        &[]
    }
}

/// One inbox.
#[async_trait]
pub trait InboxFixture: Send + Sync {
    /// Begins a transaction on a connection of its own, as a consumer would. A database with one writer at a time may
    /// wait here.
    ///
    /// # Errors
    /// Whatever the database says.
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>>;

    /// Deletes at most `limit` entries that are older than `older_than`, and says how many.
    ///
    /// # Errors
    /// Whatever the inbox says.
    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64>;

    /// Whether several transactions may be writing at the same time. Default: yes.
    fn concurrent_writers(&self) -> bool {
        true
    }

    /// Ends the fixture.
    async fn destroy(self: Box<Self>) {}
}

/// A consumer's transaction. Dropping it rolls it back.
#[async_trait]
pub trait InboxTransaction: Send {
    /// Whether the message is new to the consumer.
    ///
    /// # Errors
    /// Whatever the inbox says.
    async fn accept(&mut self, consumer: &str, id: MessageId) -> Result<bool>;

    /// Commits.
    ///
    /// # Errors
    /// Whatever the database says.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Rolls back.
    ///
    /// # Errors
    /// Whatever the database says.
    async fn rollback(self: Box<Self>) -> Result<()>;
}
