//! The writers: transactions of several messages, some rolled back, some long, some committed late.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use integration_tests::eventually;
use outbox_core::{Message, Result, Timestamp};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::books::{Books, Page};

const WRITERS: u64 = 8;
const KEYS: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(300);

/// The shared state of the writers.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Number of messages in transactions whose commit was answered.
    pub(crate) written: AtomicU64,
    /// Set when enough has been written, for long enough.
    pub(crate) enough: AtomicBool,
}

/// Starts the writers, each with separate keys.
pub(crate) fn start(
    books: &Arc<dyn Books>,
    topic: &str,
    seed: u64,
    rate: f64,
    progress: &Arc<Progress>,
) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    // A file has one writer at a time, and an open transaction there blocks all other writers.
    let most_late = if books.address().is_some() { 2 } else { 0 };
    for number in 0..WRITERS {
        let writer = Writer {
            number,
            rng: fastrand::Rng::with_seed(seed.wrapping_add(number)),
            books: books.clone(),
            topic: topic.to_owned(),
            most_late,
            counters: HashMap::new(),
            progress: progress.clone(),
        };
        writers.spawn(writer.run(rate / WRITERS as f64));
    }
    writers
}

struct Writer {
    number: u64,
    rng: fastrand::Rng,
    books: Arc<dyn Books>,
    topic: String,
    most_late: usize,
    /// The last number used for each key. Gaps are allowed; only the order counts.
    counters: HashMap<i64, i64>,
    progress: Arc<Progress>,
}

/// A transaction that stays open while others of the same writer begin, end, and are delivered.
struct Late {
    page: Box<dyn Page>,
    keys: HashSet<i64>,
    messages: u64,
    left: u32,
}

impl Writer {
    /// The key of a message: one of this writer's, or its own negative one, which stands for no key.
    fn key(&mut self) -> i64 {
        if self.rng.u32(0..20) == 0 {
            -1 - self.number as i64
        } else {
            (self.rng.u64(0..KEYS / WRITERS) * WRITERS + self.number) as i64
        }
    }

    /// Writes some messages with keys to which no open transaction writes: a row lock would serialise two
    /// writers of one key, and concurrent transactions have no order to keep.
    async fn write(&mut self, page: &mut dyn Page, busy: &HashSet<i64>) -> Result<(HashSet<i64>, u64)> {
        let (mut messages, mut numbers) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.usize(1..40) {
            let key = self.key();
            if busy.contains(&key) {
                continue;
            }
            let counter = self.counters.entry(key).or_default();
            *counter += 1;
            let payload = format!("{key}:{counter}:{}", "x".repeat(self.rng.usize(0..300)));
            let mut message = Message::bytes(&self.topic, payload);
            if key >= 0 {
                message = message.key(format!("key-{key}"));
            } else if self.rng.bool() {
                let later = Timestamp::now().as_micros() + self.rng.i64(0..3_000_000);
                message = message.deliver_at(Timestamp::from_micros(later));
            }
            messages.push(message.build()?);
            numbers.push((key, *counter));
        }
        page.write(&numbers, &messages).await?;
        Ok((numbers.iter().map(|(key, _)| *key).collect(), messages.len() as u64))
    }

    async fn turn(&mut self, late: &mut Vec<Late>) -> Result<u64> {
        let mut written = 0;
        for index in (0..late.len()).rev() {
            late[index].left -= 1;
            if late[index].left == 0 {
                let Late { page, messages, .. } = late.swap_remove(index);
                page.commit().await?;
                written += messages;
            }
        }
        let busy: HashSet<i64> = late.iter().flat_map(|late| late.keys.iter().copied()).collect();
        let mut page = self.books.begin().await?;
        let (keys, messages) = self.write(&mut *page, &busy).await?;
        match self.rng.u32(0..20) {
            0 => page.rollback().await?,
            1..=2 if late.len() < self.most_late => {
                // Some of them for a very long time.
                let left = if self.rng.u32(0..10) == 0 { 300 } else { self.rng.u32(2..60) };
                late.push(Late { page, keys, messages, left });
            }
            _ => {
                page.commit().await?;
                written += messages;
            }
        }
        Ok(written)
    }

    /// Continues until the run is long enough, at this rate of messages per second.
    async fn run(mut self, rate: f64) {
        let mut late: Vec<Late> = Vec::new();
        let mut due = Instant::now();
        while !self.progress.enough.load(Ordering::Relaxed) {
            match self.turn(&mut late).await {
                Ok(written) => {
                    self.progress.written.fetch_add(written, Ordering::Relaxed);
                    due += Duration::from_secs_f64(written as f64 / rate);
                    // The time lost in an outage is made up for, but not immediately.
                    due = due.max(Instant::now() - Duration::from_secs(30));
                    tokio::time::sleep_until(due).await;
                }
                // The database is down: open transactions are lost, or were committed without an answer.
                Err(_) => {
                    late.clear();
                    let books = self.books.clone();
                    eventually("the database to be back", PATIENCE, || async {
                        books.answers().await.then_some(())
                    })
                    .await;
                }
            }
        }
        for Late { page, .. } in late {
            let _ = page.commit().await;
        }
    }
}

/// The key and number in a payload, as a ledger records them. Messages without a key have numbers that those
/// of no other writer have.
pub(crate) fn entry(key: i64, number: i64) -> (Option<String>, u64) {
    if key >= 0 {
        (Some(format!("key-{key}")), number as u64)
    } else {
        (None, number as u64 * WRITERS + (-1 - key) as u64)
    }
}

/// The same for a payload; `None` if this program did not write it.
pub(crate) fn entry_of(payload: &str) -> Option<(Option<String>, u64)> {
    let mut parts = payload.splitn(3, ':').map(str::parse::<i64>);
    match (parts.next(), parts.next()) {
        (Some(Ok(key)), Some(Ok(number))) => Some(entry(key, number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_tell_whose_they_are() {
        assert_eq!(entry_of("17:3:xxx"), Some((Some("key-17".to_owned()), 3)));
        assert_eq!(entry_of("-1:3:"), Some((None, 24)));
        assert_eq!(entry_of("-8:3:x:y"), Some((None, 31)));
        assert_eq!(entry_of("nonsense"), None);
    }
}
