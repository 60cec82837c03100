//! The interface that a test of an inbox implements.

use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{MessageId, Result};

/// Creates fixtures, each with a separate inbox.
#[async_trait]
pub trait InboxHarness: Send + Sync {
    /// A new, empty inbox.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn create(&self) -> Result<Box<dyn InboxFixture>>;

    /// Names of cases that do not apply to this inbox.
    fn not_applicable(&self) -> &[&str] {
        &[]
    }
}

/// One inbox.
#[async_trait]
pub trait InboxFixture: Send + Sync {
    /// Begins a transaction on a separate connection, as a consumer would. A database with one writer at a
    /// time may wait here.
    ///
    /// # Errors
    /// Any error of the database.
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>>;

    /// Deletes at most `limit` entries that are older than `older_than`, and returns their number.
    ///
    /// # Errors
    /// Any error of the inbox.
    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64>;

    /// Whether several transactions may write concurrently. Default: `true`.
    fn concurrent_writers(&self) -> bool {
        true
    }

    /// Ends the fixture.
    async fn destroy(self: Box<Self>) {}
}

/// A consumer's transaction. Dropping it rolls it back.
#[async_trait]
pub trait InboxTransaction: Send {
    /// Returns whether the message is new to the consumer.
    ///
    /// # Errors
    /// Any error of the inbox.
    async fn accept(&mut self, consumer: &str, id: MessageId) -> Result<bool>;

    /// Commits.
    ///
    /// # Errors
    /// Any error of the database.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Rolls back.
    ///
    /// # Errors
    /// Any error of the database.
    async fn rollback(self: Box<Self>) -> Result<()>;
}
