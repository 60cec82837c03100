//! What somebody who tests a store has to provide.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Message, MessageId, Result, Store, Timestamp};

/// Makes empty outboxes of the store under test.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// A new, empty outbox that nobody else uses: fresh tables, say. Called once per case.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn create(&self) -> Result<Box<dyn StoreFixture>>;

    /// The names of the cases that do not apply to this store, such as `"reading::late_commits_are_delivered"`.
    ///
    /// A case that finds that it does not apply, and is not listed here, fails: nothing is skipped silently. So
    /// does one that is listed and applies after all. Default: none.
    fn not_applicable(&self) -> &[&str] {
        &[]
    }
}

/// One empty outbox, for one case.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// What the store offers beyond what every store must.
    fn traits(&self) -> StoreTraits;

    /// A handle of the store. Every call gives an independent one, as another process would have it, where that
    /// makes a difference: with connections of its own.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn store(&self) -> Result<Arc<dyn Store>>;

    /// Begins a transaction of an enqueuing service, on a connection of its own.
    ///
    /// Several are open at once only if [`StoreTraits::concurrent_writers`] is set.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>>;

    /// Writes rows that the store cannot understand, as another program or a person could write them, each in a
    /// way of its own. Nothing if the store's tables do not let such rows in.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>>;

    /// Deletes the undelivered message or the dead letter with this id, as a person with a database shell would:
    /// that row and nothing else.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn delete_by_hand(&self, id: MessageId) -> Result<()>;

    /// Ends the open connections of all handles given out so far, from the server's side; new ones work. Says
    /// whether it could. Default: it cannot.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn break_connections(&self) -> Result<bool> {
        Ok(false)
    }

    /// Lets time pass on the database's clock. Default: sleeps. Cases call it only where the passing of time is
    /// what they test, or between two looks at something that has to happen soon.
    async fn pass_time(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// The present by the database's clock. Default: by this machine's.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Removes what [`StoreHarness::create`] made, after the case, whether or not it passed. Default: nothing.
    async fn destroy(&self) {}
}

/// A transaction of an enqueuing service. Dropping it must not commit it.
#[async_trait]
pub trait EnqueueTransaction: Send {
    /// Enqueues messages, in this order.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()>;

    /// Commits.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Rolls back.
    ///
    /// # Errors
    /// Whatever went wrong; the case fails with it.
    async fn rollback(self: Box<Self>) -> Result<()>;
}

/// What a store offers beyond what every store must. Start from [`StoreTraits::default`], which has everything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreTraits {
    /// Whether several enqueuing transactions can be open at once, so that they may commit in another order than
    /// that of their positions, and beside the work of relays. Default: `true`.
    pub concurrent_writers: bool,
    /// Whether [`Store::wakeups`] gives hints. Default: `true`.
    pub wakeups: bool,
    /// Whether [`Store::dead_letters`] is there. Default: `true`.
    pub dead_letters: bool,
    /// The largest payload to try. Default: 1 MiB.
    pub payload_bytes: usize,
    /// Maximum time to wait for a condition that the store fulfils without further calls. Only a failing case waits
    /// this long. Default: 2 minutes, for slow and busy machines.
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
    /// What the reason of [`Content::Malformed`](outbox_core::Content::Malformed) must mention, such as the name
    /// of the column. Compared without regard to case.
    pub mentions: String,
    /// Its id, where that can be read.
    pub id: Option<MessageId>,
    /// Its topic, where that can be read.
    pub topic: Option<String>,
    /// Its key, where there is a readable one.
    pub key: Option<String>,
}

impl MalformedRow {
    /// A row whose reason must mention this.
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
