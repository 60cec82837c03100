//! What arrived, and whether that is what had to: no figure without it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use outbox_conformance::{Ledger, Rules};
use outbox_core::{Error, Message, Outcome, Publisher, PublisherCapabilities};
use tokio::sync::Notify;

use crate::load::{Load, number};

/// Stands between a contender and the broker, or for the broker: counts what is confirmed, and knows when it is all.
pub struct Watched {
    inner: Option<Arc<dyn Publisher>>,
    delay: Option<Duration>,
    arrived: Mutex<Vec<u64>>,
    confirmed: AtomicU64,
    target: u64,
    reached: Notify,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Watched {
    /// A publisher without a broker: what it is given has arrived. `delay` is how long each call takes.
    pub fn noop(target: u64, delay: Option<Duration>) -> Arc<Self> {
        Arc::new(Self::new(None, target, delay))
    }

    /// In front of a real publisher.
    pub fn before(inner: Arc<dyn Publisher>, target: u64) -> Arc<Self> {
        Arc::new(Self::new(Some(inner), target, None))
    }

    fn new(inner: Option<Arc<dyn Publisher>>, target: u64, delay: Option<Duration>) -> Self {
        let room = if inner.is_some() { 0 } else { usize::try_from(target).unwrap_or(0) };
        Self {
            inner,
            delay,
            arrived: Mutex::new(Vec::with_capacity(room)),
            confirmed: AtomicU64::new(0),
            target,
            reached: Notify::new(),
        }
    }

    /// How many messages have been confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Waits until as many messages are confirmed as there are.
    pub async fn all_confirmed(&self) {
        loop {
            let reached = self.reached.notified();
            if self.confirmed() >= self.target {
                return;
            }
            reached.await;
        }
    }

    /// The numbers of the messages in the order of their arrival, if there is no real broker.
    pub fn arrivals(&self) -> Vec<u64> {
        std::mem::take(&mut self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Publisher for Watched {
    fn name(&self) -> &'static str {
        self.inner.as_ref().map_or("noop", |inner| inner.name())
    }

    fn capabilities(&self) -> PublisherCapabilities {
        match &self.inner {
            Some(inner) => inner.capabilities(),
            None => PublisherCapabilities::default().ordered_batches(true),
        }
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        if let Some(delay) = self.delay {
            tokio::time::sleep(delay).await;
        }
        let outcomes: Vec<Outcome> = match &self.inner {
            Some(inner) => inner.publish(batch).await,
            None => {
                let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
                let read = |message: &Message| {
                    arrived.push(
                        number(message.payload()).map_err(|error| Error::malformed(error.to_string()))?,
                    );
                    Ok(())
                };
                batch.iter().map(read).collect()
            }
        };
        let confirmed = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
        if self.confirmed.fetch_add(confirmed, Ordering::AcqRel) + confirmed >= self.target {
            self.reached.notify_waiters();
        }
        outcomes
    }

    async fn close(&self) {
        if let Some(inner) = &self.inner {
            inner.close().await;
        }
    }
}

/// Refuses a run in which something was lost, invented, repeated, or came out of order.
///
/// # Errors
/// What was wrong.
pub fn verify(load: &Load, arrivals: &[u64], ordered: bool) -> Result<()> {
    let mut ledger = Ledger::new();
    for number in 0..load.messages {
        ledger.committed(Some(&load.key(number)), number);
    }
    for number in arrivals {
        ledger.arrived(Some(&load.key(*number)), *number);
    }
    let verdict = ledger.verdict(&Rules::new().ordered(ordered).most_duplicates(0));
    ensure!(verdict.is_clean(), "no figure, since the run was not right: {verdict}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arrivals: &[u64]) -> String {
        verify(&Load::new(4, 16, 2), arrivals, true).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_right_is_refused() {
        verify(&Load::new(4, 16, 2), &[0, 1, 3, 2], true).unwrap();
        assert!(refusal(&[0, 1, 2]).contains("lost: 3"));
        assert!(refusal(&[0, 1, 2, 3, 3]).contains("duplicates: 1"));
        assert!(refusal(&[2, 0, 1, 3]).contains("overtaken: 0"));
        assert!(refusal(&[0, 1, 2, 3, 4]).contains("invented: 4"));
    }
}
