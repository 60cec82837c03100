//! The writers of the small ledgers, and the comparison of their ledgers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outbox_conformance::{Ledger, Rules};
use outbox_core::Message;
use tokio::task::JoinSet;

use fault_runs::books::Books;

const WRITERS: u64 = 4;
const KEYS: u64 = 200;

/// The number of messages to write, and the random seed, which is printed.
pub(crate) fn size_and_seed() -> (u64, u64) {
    let variable = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let goal = variable("OUTBOX_LEDGER_MESSAGES").unwrap_or(2_000);
    let seed = variable("OUTBOX_LEDGER_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ledger of {goal} messages, seed {seed}");
    (goal, seed)
}

/// Starts writers, each with separate keys. They count in `written`. When they have committed `goal` messages
/// together, they continue slowly until the failures are over, so that every failure meets unpublished
/// messages.
pub(crate) fn write(
    books: &Arc<dyn Books>,
    topic: &str,
    goal: u64,
    seed: u64,
    written: &Arc<AtomicU64>,
    faults_are_over: &Arc<AtomicBool>,
) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let writer = Writer {
            number,
            rng: fastrand::Rng::with_seed(seed.wrapping_add(number)),
            books: books.clone(),
            topic: topic.to_owned(),
            counters: HashMap::new(),
        };
        writers.spawn(writer.run(written.clone(), goal, faults_are_over.clone()));
    }
    writers
}

struct Writer {
    number: u64,
    rng: fastrand::Rng,
    books: Arc<dyn Books>,
    topic: String,
    /// The last number used for each key. Gaps are allowed; only the order counts.
    counters: HashMap<u64, i64>,
}

impl Writer {
    async fn run(mut self, written: Arc<AtomicU64>, goal: u64, faults_are_over: Arc<AtomicBool>) {
        loop {
            if written.load(Ordering::Relaxed) >= goal {
                if faults_are_over.load(Ordering::Relaxed) {
                    return;
                }
                // Slower than the slowest broker of these tests delivers, so that the backlog does not grow
                // meanwhile.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            let (mut messages, mut numbers) = (Vec::new(), Vec::new());
            for _ in 0..self.rng.usize(1..40) {
                let key = self.rng.u64(0..KEYS / WRITERS) * WRITERS + self.number;
                let counter = self.counters.entry(key).or_default();
                *counter += 1;
                let payload = format!("{key}:{counter}:{}", "x".repeat(self.rng.usize(0..300)));
                messages
                    .push(Message::bytes(&self.topic, payload).key(format!("key-{key}")).build().unwrap());
                numbers.push((key as i64, *counter));
            }
            let mut page = self.books.begin().await.unwrap();
            page.write(&numbers, &messages).await.unwrap();
            if self.rng.u32(0..20) == 0 {
                page.rollback().await.unwrap();
            } else {
                page.commit().await.unwrap();
                written.fetch_add(messages.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

/// The key and number of a message.
pub(crate) fn number(body: &str) -> (i64, i64) {
    let mut parts = body.split(':').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

/// The delivered messages in the order of their first arrival, and the number of repeats.
pub(crate) fn audit(
    books: &str,
    bodies: &[String],
    committed: &HashSet<(i64, i64)>,
) -> (HashSet<(i64, i64)>, usize) {
    let seen: HashSet<(i64, i64)> = bodies.iter().map(|body| number(body)).collect();
    let mut ledger = Ledger::new();
    let key = |key: i64| format!("key-{key}");
    // Missing messages are checked elsewhere.
    for (of, number) in seen.intersection(committed) {
        ledger.committed(Some(&key(*of)), *number as u64);
    }
    for (of, number) in bodies.iter().map(|body| number(body)) {
        ledger.arrived(Some(&key(of)), number as u64);
    }
    let verdict = ledger.verdict(&Rules::new());
    assert!(verdict.is_clean(), "{books}: {verdict}");
    (seen, verdict.duplicates as usize)
}
