//! The interface that a test of a store implements.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Message, MessageId, Position, Result, Store, Timestamp};

/// Creates empty outboxes of the store under test.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// Creates a new, empty outbox that no other case uses, for example with new tables. Called once per
    /// case.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn create(&self) -> Result<Box<dyn StoreFixture>>;

    /// The names of the cases that do not apply to this store, such as
    /// `"reading::late_commits_are_delivered"`.
    ///
    /// A case that does not apply and is not listed here fails, so that no case is skipped silently. A listed
    /// case that does apply fails too. Default: none.
    fn not_applicable(&self) -> &[&str] {
        &[]
    }
}

/// One empty outbox, for one case.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// The optional features of the store.
    fn traits(&self) -> StoreTraits;

    /// Returns a handle of the store. Every call returns an independent one, as another process would have
    /// it, with separate connections if that makes a difference.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn store(&self) -> Result<Arc<dyn Store>>;

    /// Begins a transaction of an enqueuing service, on a separate connection.
    ///
    /// Several are open concurrently only if [`StoreTraits::concurrent_writers`] is set.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>>;

    /// Writes rows that the store cannot read, as another program or a person could write them, each with a
    /// different defect. Writes nothing if the store's tables refuse such rows.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>>;

    /// Deletes the undelivered message or the dead letter with this id, as a person with a database shell
    /// would: only that row.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn delete_by_hand(&self, id: MessageId) -> Result<()>;

    /// Deletes the undelivered message at this position and inserts this one there, as a database does that has lost its latest
    /// commits and assigns their positions again. Dead letters stay. The message has an id, a topic, a payload, and possibly a
    /// key.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn replace(&self, position: Position, message: &Message) -> Result<()>;

    /// Ends the open connections of all handles returned so far, from the server's side; new ones work.
    /// Returns whether the fixture can do this. Default: `false`.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn break_connections(&self) -> Result<bool> {
        Ok(false)
    }

    /// Waits for a time on the database's clock. Default: sleeps. Cases call it only if they test the passing
    /// of time, or between two checks of a condition that will soon hold.
    async fn pass_time(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Returns the current time of the database's clock. Default: that of this machine.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Removes everything that [`StoreHarness::create`] created, after the case, whether or not it passed.
    /// Default: nothing.
    async fn destroy(&self) {}
}

/// A transaction of an enqueuing service. Dropping it must not commit it.
#[async_trait]
pub trait EnqueueTransaction: Send {
    /// Enqueues messages, in this order.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()>;

    /// Commits.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Rolls back.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn rollback(self: Box<Self>) -> Result<()>;
}

/// The optional features of a store. Start from [`StoreTraits::default`], which has all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreTraits {
    /// Whether several enqueuing transactions can be open concurrently, also while relays work, so that they
    /// may commit in another order than that of their positions. Default: `true`.
    pub concurrent_writers: bool,
    /// Whether [`Store::wakeups`] returns hints. Default: `true`.
    pub wakeups: bool,
    /// Whether [`Store::dead_letters`] is supported. Default: `true`.
    pub dead_letters: bool,
    /// The largest payload to try. Default: 1 MiB.
    pub payload_bytes: usize,
    /// Maximum time to wait for a condition that the store fulfils without further calls. Only a failing case
    /// waits this long. Default: 2 minutes, for slow and busy machines.
    pub deadline: Duration,
}

impl Default for StoreTraits {
    fn default() -> Self {
        Self {
            concurrent_writers: true,
            wakeups: true,
            dead_letters: true,
            payload_bytes: 1 << 20,
            deadline: Duration::from_secs(120),
        }
    }
}

impl StoreTraits {
    /// Sets [`concurrent_writers`](Self::concurrent_writers).
    #[must_use]
    pub fn concurrent_writers(mut self, yes: bool) -> Self {
        self.concurrent_writers = yes;
        self
    }

    /// Sets [`wakeups`](Self::wakeups).
    #[must_use]
    pub fn wakeups(mut self, yes: bool) -> Self {
        self.wakeups = yes;
        self
    }

    /// Sets [`dead_letters`](Self::dead_letters).
    #[must_use]
    pub fn dead_letters(mut self, yes: bool) -> Self {
        self.dead_letters = yes;
        self
    }

    /// Sets [`payload_bytes`](Self::payload_bytes).
    #[must_use]
    pub fn payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes;
        self
    }

    /// Sets [`deadline`](Self::deadline).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// An unreadable row that a fixture has written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MalformedRow {
    /// A substring that the reason of [`Content::Malformed`](outbox_core::Content::Malformed) must contain,
    /// such as the name of the column. The comparison ignores case.
    pub mentions: String,
    /// Its id, if readable.
    pub id: Option<MessageId>,
    /// Its topic, if readable.
    pub topic: Option<String>,
    /// Its key, if readable.
    pub key: Option<String>,
}

impl MalformedRow {
    /// Creates a row whose reason must contain this string.
    pub fn new(mentions: impl Into<String>) -> Self {
        Self { mentions: mentions.into(), id: None, topic: None, key: None }
    }

    /// Sets the id.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the topic.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}
