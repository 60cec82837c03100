//! A relay's connection to the store, on which calls fail, lose their answers, and are late and slow.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::memory::{MemoryReader, MemoryStore};
use outbox_core::relay::RetryPolicy;
use outbox_core::{
    Batch, Content, Error, ErrorKind, FetchLimit, Membership, Partition, Reader, RelayId, Result, RowId,
    Settle, Stats, Store, Wakeups,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::broker::number;
use crate::process::Process;
use crate::trace::Trace;
use crate::weather::{Fate, Weather};
use crate::witness::Witness;

/// Longer than a relay waits for any call.
const HANGS: Duration = Duration::from_secs(45);

/// The store as one relay sees it.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) store: MemoryStore,
    pub(crate) relay: u32,
    pub(crate) weather: Arc<Weather>,
    pub(crate) process: Process,
    pub(crate) witness: Witness,
    pub(crate) retry: RetryPolicy,
    pub(crate) trace: Trace,
    pub(crate) rng: Arc<Mutex<fastrand::Rng>>,
}

impl Link {
    /// The relay's own ids are new in each run, and shares are assigned in the order of ids.
    fn id(&self) -> RelayId {
        RelayId(Uuid::from_u128(u128::from(self.relay)))
    }

    fn fate(&self, what: &'static str, detail: u64) -> Fate {
        self.trace.note(self.relay, what, detail);
        let conditions = self.weather.now();
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fate = Fate::draw(&mut rng, conditions.store, conditions.store_down);
        if conditions.hangs == Some(what) {
            fate.before += HANGS;
        }
        fate
    }

    /// A call that takes effect at one moment.
    async fn call<T, F>(&self, fate: Fate, effect: F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let _under_way = self.weather.under_way(&fate);
        sleep_if(fate.before).await;
        self.process.step().await;
        if fate.fails {
            self.trace.note(self.relay, "failed", 0);
            return Err(Error::new(ErrorKind::Unavailable, "the dice say that the store is not there"));
        }
        let answer = effect.await;
        sleep_if(fate.after).await;
        self.process.step().await;
        if fate.is_lost {
            self.trace.note(self.relay, "lost", 0);
            return Err(Error::new(ErrorKind::Interrupted, "the dice say that the answer is lost"));
        }
        answer
    }
}

/// Even a sleep of zero waits for the timer.
pub(crate) async fn sleep_if(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

#[async_trait]
impl Store for Link {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn heartbeat(&self, _: RelayId, ttl: Duration) -> Result<Membership> {
        let fate = self.fate("heartbeat", 0);
        if fate.fails || fate.is_lost || fate.before + fate.after > Duration::from_secs(1) {
            // The lease may expire.
            self.weather.may_repeat();
        }
        let began = Instant::now();
        let effect = async {
            let answer = self.store.heartbeat(self.id(), ttl).await?;
            self.witness.renewed(self.relay, began, &answer, ttl);
            Ok(answer)
        };
        self.call(fate, effect).await
    }

    async fn release(&self, _: RelayId, partitions: &[Partition]) -> Result<()> {
        let fate = self.fate("release", partitions.len() as u64);
        let effect = async {
            self.witness.released(self.relay, Some(partitions));
            self.store.release(self.id(), partitions).await
        };
        self.call(fate, effect).await
    }

    async fn leave(&self, _: RelayId) -> Result<()> {
        let fate = self.fate("leave", 0);
        let effect = async {
            self.witness.released(self.relay, None);
            self.store.leave(self.id()).await
        };
        self.call(fate, effect).await
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(LinkedReader { link: self.clone(), reader: self.store.memory_reader() })
    }

    async fn settle(&self, _: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        let fate = self.fate("settle", batch.len() as u64);
        for settle in batch {
            self.witness.settling(self.relay, settle, &self.retry);
            self.trace.tell(self.relay, || format!("{} {:?}", settle.position, settle.settlement));
        }
        let unsettled = self.weather.now().unsettled;
        let effect = async {
            if unsettled > 0 && batch.iter().any(|settle| settle.position.0 % unsettled == 0) {
                // It is published again if the relay has to give it up.
                self.weather.may_repeat();
                return Err(Error::new(ErrorKind::Malformed, "the dice say that a row is refused"));
            }
            self.store.settle(self.id(), batch, keep_delivered).await
        };
        self.call(fate, effect).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let fate = self.fate("purge", limit as u64);
        self.call(fate, self.store.purge(older_than, limit)).await
    }

    async fn repair(&self, _: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        let fate = self.fate("repair", partitions.len() as u64);
        self.call(fate, self.store.repair(self.id(), partitions, limit)).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        let fate = self.fate("stats", limit);
        self.call(fate, self.store.stats(limit)).await
    }

    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        let fate = self.fate("wakeups", 0);
        let answer = self.call(fate, self.store.wakeups()).await?;
        Ok(answer.map(|wakeups| Box::new(LinkedWakeups { link: self.clone(), wakeups }) as Box<dyn Wakeups>))
    }

    async fn set_idle(&self, _: RelayId, idle: bool) -> Result<()> {
        let fate = self.fate("set_idle", u64::from(idle));
        self.call(fate, self.store.set_idle(self.id(), idle)).await
    }
}

struct LinkedReader {
    link: Link,
    reader: MemoryReader,
}

#[async_trait]
impl Reader for LinkedReader {
    fn assign(&mut self, partition: Partition) {
        self.reader.assign(partition);
    }

    fn revoke(&mut self, partition: Partition) {
        self.reader.revoke(partition);
    }

    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        if self.link.witness.spins(self.link.relay) {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        let mut fate = self.link.fate("fetch", limit.messages as u64);
        // A fetch whose answer is lost has not happened: the next one returns the same rows.
        fate.fails |= fate.is_lost;
        fate.is_lost = false;
        let Self { link, reader } = self;
        // The same holds for a fetch that was dropped before its answer arrived.
        let mut ahead = reader.clone();
        let answer = link.call(fate, ahead.fetch(limit, in_flight)).await?;
        *reader = ahead;
        link.trace.note(link.relay, "fetched", answer.rows.len() as u64);
        for row in &answer.rows {
            if let Content::Message(message) = &row.content {
                link.witness.fetched(row.row(), row.partition, number(message));
            }
            let about = || {
                let number = match &row.content {
                    Content::Message(message) => number(message),
                    Content::Malformed { .. } => 0,
                };
                let marks = (if row.due { " due" } else { "" }, if row.blocked { " blocked" } else { "" });
                format!("{number} of {:?} at {}{}{}", row.key(), row.position, marks.0, marks.1)
            };
            link.trace.tell(link.relay, about);
        }
        Ok(answer)
    }
}

struct LinkedWakeups {
    link: Link,
    wakeups: Box<dyn Wakeups>,
}

#[async_trait]
impl Wakeups for LinkedWakeups {
    async fn wait(&mut self) -> Result<()> {
        self.wakeups.wait().await?;
        self.link.process.step().await;
        let fate = self.link.fate("wake-up", 0);
        if fate.fails {
            return Err(Error::new(ErrorKind::Unavailable, "the dice say that wake-ups break off"));
        }
        if fate.is_lost {
            // Hints may be lost. The next one may arrive.
            self.wakeups.wait().await?;
        }
        Ok(())
    }
}
