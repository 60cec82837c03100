//! The messages that arrived, and the check that they are correct: without it there is no figure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use outbox_conformance::{Ledger, Rules};
use outbox_core::{Error, Message, Outcome, Publisher, PublisherCapabilities};
use tokio::sync::Notify;

use crate::load::{Load, number};

/// Wraps the publisher of a contender, or replaces it: counts confirmed messages, and detects when all are
/// confirmed.
pub struct Watched {
    inner: Option<Arc<dyn Publisher>>,
    delay: Option<Duration>,
    arrived: Mutex<Vec<u64>>,
    confirmed: AtomicU64,
    target: u64,
    reached: Notify,
    on_confirm: OnceLock<Box<dyn Fn(u64) + Send + Sync>>,
    most: Option<usize>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Watched {
    /// A publisher without a broker: every message it receives has arrived. `delay` is the duration of each
    /// call.
    pub fn noop(target: u64, delay: Option<Duration>) -> Arc<Self> {
        Arc::new(Self::new(None, target, delay))
    }

    /// Wraps a real publisher.
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
            on_confirm: OnceLock::new(),
            most: None,
        }
    }

    /// A publisher without a broker, with a duration and a maximum number of messages of each call.
    pub fn slow(target: u64, delay: Duration, most: usize) -> Arc<Self> {
        Arc::new(Self { most: Some(most), ..Self::new(None, target, Some(delay)) })
    }

    /// Sets a function that is called for each confirmed message, with its number. Only the first call of
    /// this method has an effect.
    pub fn on_confirm(&self, act: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.on_confirm.set(Box::new(act));
    }

    /// Returns the number of confirmed messages.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Waits until all messages are confirmed.
    pub async fn all_confirmed(&self) {
        loop {
            let reached = self.reached.notified();
            if self.confirmed() >= self.target {
                return;
            }
            reached.await;
        }
    }

    /// Waits until at least this many messages are confirmed, with frequent polling.
    pub async fn some_confirmed(&self, messages: u64) {
        while self.confirmed() < messages {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// Returns the numbers of the messages in the order of their arrival, if there is no real broker.
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
            None => {
                let capabilities = PublisherCapabilities::default().ordered_batches(true);
                let most = self.most.unwrap_or(capabilities.max_batch_messages);
                capabilities.max_batch_messages(most)
            }
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
        if let Some(act) = self.on_confirm.get() {
            let ok = batch.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
            ok.filter_map(|(message, _)| number(message.payload()).ok()).for_each(act);
        }
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

/// A publisher without a broker that checks each message immediately, in constant memory and with few
/// instructions: each message must be the next one of its key. For runs in which storing the numbers of all
/// messages would dominate the measurement.
#[derive(Debug)]
pub struct InOrder {
    keys: u64,
    target: u64,
    books: Mutex<Books>,
    reached: Notify,
}

#[derive(Debug)]
struct Books {
    /// The expected next number of each key.
    next: Vec<u64>,
    count: u64,
    breach: Option<String>,
}

impl InOrder {
    /// Expects this number of messages over this number of keys, numbered as those of a [`Load`].
    ///
    /// # Errors
    /// If there are so many keys that they would dominate the measurement.
    pub fn new(target: u64, keys: u64) -> Result<Self> {
        ensure!(keys > 0 && keys <= 1_000_000, "too many keys");
        let books = Books { next: (0..keys).collect(), count: 0, breach: None };
        Ok(Self { keys, target, books: Mutex::new(books), reached: Notify::new() })
    }

    /// Waits until all messages have arrived, or one that was not the next.
    pub async fn all_confirmed(&self) {
        self.reached.notified().await;
    }

    /// Checks that all arrived, and in order.
    ///
    /// # Errors
    /// The first error.
    pub fn verdict(&self) -> Result<()> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(breach) = &books.breach {
            bail!("no figure, since the run was not right: {breach}");
        }
        ensure!(books.count == self.target, "no figure: {} of {} arrived", books.count, self.target);
        Ok(())
    }
}

#[async_trait]
impl Publisher for InOrder {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::default().ordered_batches(true)
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        for message in batch {
            let number = number(message.payload()).unwrap_or(u64::MAX);
            let place = usize::try_from(number % self.keys).unwrap_or_default();
            let expected = books.next.get(place).copied().unwrap_or_default();
            if number != expected && books.breach.is_none() {
                books.breach = Some(format!("{number} arrived in place of {expected}"));
            }
            if let Some(next) = books.next.get_mut(place) {
                *next = number.saturating_add(self.keys);
            }
            books.count += 1;
        }
        if books.count >= self.target || books.breach.is_some() {
            self.reached.notify_one();
        }
        batch.iter().map(|_| Ok(())).collect()
    }
}

/// Returns an error if a message was lost, invented, repeated or reordered.
///
/// # Errors
/// The error that was found.
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

/// Returns an error if a part of a run repeated or reordered a message.
///
/// # Errors
/// The error that was found.
pub fn verify_part(load: &Load, arrivals: &[u64]) -> Result<()> {
    let mut ledger = Ledger::new();
    for number in arrivals {
        let key = load.key(*number);
        ledger.committed(Some(&key), *number);
        ledger.arrived(Some(&key), *number);
    }
    let verdict = ledger.verdict(&Rules::new().most_duplicates(0));
    ensure!(verdict.is_clean(), "no figure, since the run was not right: {verdict}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_judges_as_it_goes_wants_the_next_of_each_key() {
        let load = Load::new(4, 16, 2);
        let verdict = async |numbers: &[u64]| {
            let judge = InOrder::new(4, 2).unwrap();
            let batch: Vec<Message> = numbers.iter().map(|number| load.message(*number).unwrap()).collect();
            judge.publish(&batch).await;
            judge.verdict()
        };
        verdict(&[1, 0, 3, 2]).await.unwrap();
        for wrong in [&[0, 1, 2][..], &[0, 1, 2, 2], &[2, 0, 1, 3], &[0, 1, 2, 5]] {
            verdict(wrong).await.unwrap_err();
        }
    }

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
