//! The memory store.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::dead_letter::DeadLetters;
use crate::error::{Error, Result};
use crate::inspection::Inspection;
use crate::message::{Message, MessageId};
use crate::store::{
    Content, Membership, Partition, Position, Reader, RelayId, Settle, Stats, Store, Wakeups,
};
use crate::time::Timestamp;

use super::clock::Clock;
use super::faults::{Faults, Operation};
use super::reader::MemoryReader;
use super::state::{State, fresh_row};
use super::transaction::MemoryTransaction;
use super::wakeups::{Hints, MemoryWakeups};

/// A store in memory. Clones share the same messages.
///
/// It keeps the whole contract of [`Store`]: leases, blocked keys, retries, dead letters, retention, and wake-ups
/// that are given only while some living relay has said by [`Store::set_idle`] that it sleeps. Positions are drawn
/// when a message is enqueued and rows appear at the commit, so transactions can commit late.
///
/// Its clock is [`tokio::time::Instant`]; see the [module](super).
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    clock: Clock,
    faults: Faults,
    hints: Option<Hints>,
}

/// Settings of a [`MemoryStore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct MemoryStoreBuilder {
    partitions: u16,
    wakeups: bool,
}

impl MemoryStoreBuilder {
    /// Sets how many partitions there are. Default: 16, as in the other stores.
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets whether the store has wake-ups. Default: `true`; without, it is like a database that is only polled.
    pub fn wakeups(mut self, wakeups: bool) -> Self {
        self.wakeups = wakeups;
        self
    }

    /// Makes the store.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if there are no partitions.
    pub fn build(self) -> Result<MemoryStore> {
        if self.partitions == 0 {
            return Err(Error::config("partitions must be at least 1"));
        }
        Ok(MemoryStore::with(self))
    }
}

impl MemoryStore {
    /// An empty store with 16 partitions and wake-ups.
    pub fn new() -> Self {
        Self::with(Self::builder())
    }

    /// Settings other than the default ones.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { partitions: 16, wakeups: true }
    }

    fn with(settings: MemoryStoreBuilder) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new(settings.partitions)),
                clock: Clock::new(),
                faults: Faults::default(),
                hints: settings.wakeups.then(Hints::default),
            }),
        }
    }

    /// Begins a transaction. Any number may be open.
    pub fn begin(&self) -> MemoryTransaction {
        MemoryTransaction::new(self.clone())
    }

    /// Enqueues one message in a transaction of its own.
    pub fn enqueue(&self, message: &Message) -> Position {
        let mut transaction = self.begin();
        let position = transaction.enqueue(message);
        transaction.commit();
        position
    }

    /// Puts a row that nobody can read, as a person or another program might, with what is left of it.
    pub fn insert_malformed(
        &self,
        id: Option<MessageId>,
        topic: Option<&str>,
        key: Option<&str>,
        reason: &str,
    ) -> Position {
        let mut transaction = self.begin();
        let position = transaction.enqueue_content(Content::Malformed {
            id,
            topic: topic.map(str::to_owned),
            key: key.map(str::to_owned),
            reason: reason.to_owned(),
        });
        transaction.commit();
        position
    }

    /// Deletes a message, undelivered or dead, as a person with a database shell might: nothing else follows from
    /// it. Says whether it was there. Looks at every row.
    pub fn delete_by_hand(&self, id: MessageId) -> bool {
        self.lock().delete(id)
    }

    /// Puts a message at a position that was assigned before, in the place of what is undelivered there, as a database does that has lost
    /// commits and assigns their positions again.
    pub fn replace(&self, position: Position, message: &Message) {
        let now = self.now();
        {
            let mut state = self.lock();
            for slice in &mut state.slices {
                slice.remove(position);
            }
            state.commit(vec![(position, fresh_row(message, now))]);
        }
        self.wake();
    }

    /// Loses the undelivered messages at this position and behind it and hands their positions out again, as a database does that
    /// crashes before its latest commits are on disk. Dead letters and kept messages stay.
    pub fn lose_from(&self, position: Position) {
        self.lock().lose_from(position);
    }

    /// What [`Store::reader`] gives, by its own name.
    pub fn memory_reader(&self) -> MemoryReader {
        MemoryReader::new(self.clone())
    }

    /// What is undelivered, in position order.
    pub fn undelivered(&self) -> Vec<(Position, Content)> {
        self.lock().undelivered()
    }

    /// The delivered messages that were kept, in the order of their delivery.
    pub fn kept_delivered(&self) -> Vec<(Position, Content)> {
        let kept = |((_, position, _), content): (&(_, Position, _), &Content)| (*position, content.clone());
        self.lock().delivered.iter().map(kept).collect()
    }

    /// The living relays that have said they sleep.
    pub fn idle_relays(&self) -> Vec<RelayId> {
        self.lock().leases.idle_relays(self.now())
    }

    /// What goes wrong with which calls.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The present by the store's clock. Under paused time it differs from the machine's clock; base the delivery
    /// times of messages on it.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the caller runs under the lock, so a poisoned one still holds whole rows.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn perform<T>(
        &self,
        operation: Operation,
        effect: impl FnOnce(&mut State, Timestamp) -> T,
    ) -> Result<T> {
        self.faults().run(operation, || effect(&mut self.lock(), self.now())).await
    }

    /// Gives a hint, if some relay wants one.
    pub(super) fn wake(&self) {
        if let Some(hints) = &self.shared.hints
            && !self.idle_relays().is_empty()
        {
            hints.give();
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (partitions, stats) = {
            let state = self.lock();
            (state.slices.len(), state.stats(u64::MAX - 1, self.now()))
        };
        f.debug_struct("MemoryStore").field("partitions", &partitions).field("stats", &stats).finish()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        self.perform(Operation::Heartbeat, |state, now| state.leases.heartbeat(relay, ttl, now)).await
    }

    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        self.perform(Operation::Release, |state, _| state.leases.release(relay, partitions)).await
    }

    async fn leave(&self, relay: RelayId) -> Result<()> {
        self.perform(Operation::Leave, |state, _| state.leases.leave(relay)).await
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(self.memory_reader())
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        self.faults().check_settlements(batch).await?;
        self.perform(Operation::Settle, |state, now| state.settle(relay, batch, keep_delivered, now)).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.perform(Operation::Purge, |state, now| state.purge(older_than, limit, now)).await
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        self.perform(Operation::Repair, |state, now| state.repair(relay, partitions, limit, now)).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        self.perform(Operation::Stats, |state, now| state.stats(limit, now)).await
    }

    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        let store = self.clone();
        self.faults()
            .run_answered(Operation::Wakeups, move || {
                let wakeups = MemoryWakeups::new(store.clone(), store.shared.hints.as_ref()?);
                Some(Box::new(wakeups) as Box<dyn Wakeups>)
            })
            .await
    }

    async fn set_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        self.perform(Operation::SetIdle, |state, _| state.leases.set_idle(relay, idle)).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        Some(self)
    }
}
