//! The store in memory, with every call delayed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::memory::MemoryStore;
use outbox_core::{
    Batch, Count, DeadLetter, DeadLetterFilter, DeadLetters, FetchLimit, Finding, Group, Inspection,
    Membership, Message, MessageId, Partition, Position, Reader, RelayId, Result, RowId, Settle, Stats,
    Store, Timestamp, Waiting, Wakeups,
};

use crate::pace::Pace;
use crate::support::MemoryHarness;

/// Longer than all delays of a case together. It passes on a paused clock.
const DEADLINE: Duration = Duration::from_secs(3600);

pub(crate) struct SlowHarness {
    inner: MemoryHarness,
    pace: Arc<Pace>,
}

impl SlowHarness {
    pub(crate) fn new(pace: Arc<Pace>) -> Self {
        let for_handles = pace.clone();
        let mut inner = MemoryHarness::new(Arc::new(move || {
            let pace = for_handles.clone();
            Box::new(move |inner| Arc::new(SlowStore { inner, pace: pace.clone() }))
        }));
        inner.traits = StoreTraits::default().deadline(DEADLINE);
        Self { inner, pace }
    }
}

#[async_trait]
impl StoreHarness for SlowHarness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        let inner = self.inner.create().await?;
        Ok(Box::new(SlowFixture { inner, pace: self.pace.clone() }))
    }
}

struct SlowFixture {
    inner: Box<dyn StoreFixture>,
    pace: Arc<Pace>,
}

/// Delays the way to a call, and the way back.
macro_rules! delayed {
    ($pace:expr, $call:expr) => {{
        $pace.step().await;
        let answer = $call.await;
        $pace.step().await;
        answer
    }};
}

#[async_trait]
impl StoreFixture for SlowFixture {
    fn traits(&self) -> StoreTraits {
        self.inner.traits()
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        delayed!(self.pace, self.inner.store())
    }

    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>> {
        let inner = delayed!(self.pace, self.inner.begin())?;
        Ok(Box::new(SlowTransaction { inner, pace: self.pace.clone() }))
    }

    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>> {
        delayed!(self.pace, self.inner.insert_malformed())
    }

    async fn delete_by_hand(&self, id: MessageId) -> Result<()> {
        delayed!(self.pace, self.inner.delete_by_hand(id))
    }

    async fn replace(&self, position: Position, message: &Message) -> Result<()> {
        delayed!(self.pace, self.inner.replace(position, message))
    }

    async fn break_connections(&self) -> Result<bool> {
        delayed!(self.pace, self.inner.break_connections())
    }

    async fn pass_time(&self, duration: Duration) {
        delayed!(self.pace, self.inner.pass_time(duration));
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }
}

struct SlowTransaction {
    inner: Box<dyn EnqueueTransaction>,
    pace: Arc<Pace>,
}

#[async_trait]
impl EnqueueTransaction for SlowTransaction {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        delayed!(self.pace, self.inner.enqueue(messages))
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        delayed!(self.pace, self.inner.commit())
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        delayed!(self.pace, self.inner.rollback())
    }
}

struct SlowStore {
    inner: MemoryStore,
    pace: Arc<Pace>,
}

#[async_trait]
impl Store for SlowStore {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        delayed!(self.pace, self.inner.heartbeat(relay, ttl))
    }

    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        delayed!(self.pace, self.inner.release(relay, partitions))
    }

    async fn leave(&self, relay: RelayId) -> Result<()> {
        delayed!(self.pace, self.inner.leave(relay))
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(SlowReader { inner: self.inner.reader(), pace: self.pace.clone(), on_its_way: None })
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        delayed!(self.pace, self.inner.settle(relay, batch, keep_delivered))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        delayed!(self.pace, self.inner.purge(older_than, limit))
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        delayed!(self.pace, self.inner.repair(relay, partitions, limit))
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        delayed!(self.pace, self.inner.stats(limit))
    }

    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        let inner = delayed!(self.pace, self.inner.wakeups())?;
        let pace = self.pace.clone();
        Ok(inner.map(|inner| -> Box<dyn Wakeups> { Box::new(SlowWakeups { inner, pace }) }))
    }

    async fn set_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        delayed!(self.pace, self.inner.set_idle(relay, idle))
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        Some(self)
    }
}

#[async_trait]
impl DeadLetters for SlowStore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        delayed!(self.pace, self.inner.list(filter, after, limit))
    }

    async fn count(&self, filter: &DeadLetterFilter, limit: u64) -> Result<Count> {
        delayed!(self.pace, self.inner.count(filter, limit))
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        delayed!(self.pace, self.inner.redrive(filter, limit))
    }

    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        delayed!(self.pace, self.inner.discard(filter, limit))
    }
}

#[async_trait]
impl Inspection for SlowStore {
    async fn group(&self) -> Result<Option<Group>> {
        delayed!(self.pace, self.inner.group())
    }

    async fn peek(&self, after: Option<Position>, limit: usize) -> Result<Option<Vec<Waiting>>> {
        delayed!(self.pace, self.inner.peek(after, limit))
    }

    async fn clock(&self) -> Result<Option<Timestamp>> {
        delayed!(self.pace, self.inner.clock())
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        delayed!(self.pace, self.inner.diagnose())
    }
}

struct SlowReader {
    inner: Box<dyn Reader>,
    pace: Arc<Pace>,
    /// The answer to a fetch that was dropped while the answer was on its way. The next fetch returns it.
    on_its_way: Option<Batch>,
}

impl SlowReader {
    /// Drops rows of a partition that the reader stops reading or reads again from its start.
    fn forget(&mut self, partition: Partition) {
        if let Some(batch) = &mut self.on_its_way {
            batch.rows.retain(|row| row.partition != partition);
        }
    }
}

#[async_trait]
impl Reader for SlowReader {
    fn assign(&mut self, partition: Partition) {
        self.forget(partition);
        self.inner.assign(partition);
    }

    fn revoke(&mut self, partition: Partition) {
        self.forget(partition);
        self.inner.revoke(partition);
    }

    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        self.pace.step().await;
        if self.on_its_way.is_none() {
            self.on_its_way = Some(self.inner.fetch(limit, in_flight).await?);
        }
        self.pace.step().await;
        Ok(self.on_its_way.take().unwrap_or_default())
    }
}

struct SlowWakeups {
    inner: Box<dyn Wakeups>,
    pace: Arc<Pace>,
}

#[async_trait]
impl Wakeups for SlowWakeups {
    async fn wait(&mut self) -> Result<()> {
        self.pace.step().await;
        // A hint that has been taken must not be dropped with the future, so there is no delay after it.
        self.inner.wait().await
    }
}
