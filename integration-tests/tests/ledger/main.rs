//! The ledger: what was committed in a database against what arrived in RabbitMQ, while writers roll back and
//! commit late, relays are killed and join, and both servers die and come back.
//!
//! Each transaction writes its messages into the outbox and, as its "business", the same numbers into a table
//! `ledger`. So the database itself says what was committed, even where the answer to a commit was lost. The queue
//! is read only at the end, by one plain consumer, so that the order in it is the order of publishing.
//!
//! `OUTBOX_LEDGER_MESSAGES` sets how many messages are written (default 100 000); the seed is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions beside the test are tests, too"
)]

mod books;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use books::{Books, OnMariaDb, OnPostgres, Page};
use integration_tests::{RabbitMq, Server, Subprocess, eventually};
use outbox_core::Message;

const WRITERS: u64 = 8;
const KEYS: u64 = 1_000;
const QUEUE: &str = "events";
/// As in `relay-process`.
const WINDOW: usize = 1_000;

fn relay_process(database: &str, amqp: &str) -> Subprocess {
    let mut program: PathBuf = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    program.push("examples/relay-process");
    assert!(program.exists(), "build it first: cargo build -p integration-tests --examples");
    let mut command = Command::new(program);
    command.args([database, amqp]).env("RUST_BACKTRACE", "1");
    Subprocess::start("relay-process", command)
}

/// What writers have put into the ledger so far, roughly, and how much it shall become.
struct Progress {
    written: AtomicU64,
    goal: u64,
}

struct Writer {
    number: u64,
    rng: fastrand::Rng,
    books: Arc<dyn Books>,
    /// The last number given out for each key. Gaps are fine; order is what counts.
    counters: HashMap<u64, i64>,
}

/// A transaction that stays open while others of the same writer begin, end, and are delivered.
struct Late {
    transaction: Box<dyn Page>,
    keys: HashSet<u64>,
    messages: u64,
    left: u32,
}

impl Writer {
    /// Writes some messages of keys that nobody else writes to at the moment: a row lock would serialise two
    /// writers of one key, and between concurrent transactions there is no order to keep.
    async fn write(
        &mut self,
        transaction: &mut dyn Page,
        busy: &HashSet<u64>,
    ) -> outbox_core::Result<HashSet<u64>> {
        let mut messages = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..self.rng.usize(1..40) {
            let key = self.rng.u64(0..KEYS / WRITERS) * WRITERS + self.number;
            if busy.contains(&key) {
                continue;
            }
            let counter = self.counters.entry(key).or_default();
            *counter += 1;
            let payload = format!("{key}:{counter}:{}", "x".repeat(self.rng.usize(0..300)));
            messages.push(Message::bytes(QUEUE, payload).key(format!("key-{key}")).build()?);
            numbers.push((key as i64, *counter));
        }
        transaction.write(&numbers, &messages).await?;
        Ok(numbers.into_iter().map(|(key, _)| key as u64).collect())
    }

    async fn turn(&mut self, late: &mut Vec<Late>) -> outbox_core::Result<u64> {
        let mut written = 0;
        for index in (0..late.len()).rev() {
            late[index].left -= 1;
            if late[index].left == 0 {
                let Late { transaction, messages, .. } = late.swap_remove(index);
                transaction.commit().await?;
                written += messages;
            }
        }
        let busy: HashSet<u64> = late.iter().flat_map(|late| late.keys.iter().copied()).collect();
        let mut transaction = self.books.begin().await?;
        let keys = self.write(&mut *transaction, &busy).await?;
        let messages = keys.len() as u64;
        match self.rng.u32(0..20) {
            0 => transaction.rollback().await?,
            1..=2 if late.len() < 2 => {
                let left = self.rng.u32(2..60);
                late.push(Late { transaction, keys, messages, left });
            }
            _ => {
                transaction.commit().await?;
                written += messages;
            }
        }
        Ok(written)
    }

    async fn run(mut self, progress: Arc<Progress>) {
        let mut late: Vec<Late> = Vec::new();
        while progress.written.load(Ordering::Relaxed) < progress.goal {
            match self.turn(&mut late).await {
                Ok(written) => drop(progress.written.fetch_add(written, Ordering::Relaxed)),
                // The database is down: what was open is gone, or committed without our knowing.
                Err(_) => {
                    late.clear();
                    let books = self.books.clone();
                    eventually("the database to be back", Duration::from_secs(60), || async {
                        books.answers().await.then_some(())
                    })
                    .await;
                }
            }
        }
        for Late { transaction, .. } in late {
            let _ = transaction.commit().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_invented_or_reordered_while_everything_dies_once() {
    let Some(books) = OnPostgres::start().await else { return };
    keep_the_ledger(Arc::new(books)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_invented_or_reordered_on_mariadb_either() {
    let Some(books) = OnMariaDb::start().await else { return };
    keep_the_ledger(Arc::new(books)).await;
}

async fn keep_the_ledger(books: Arc<dyn Books>) {
    // One at a time, or they would take the machine from each other and run into deadlines.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let variable = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let goal = variable("OUTBOX_LEDGER_MESSAGES").unwrap_or(100_000);
    let seed = variable("OUTBOX_LEDGER_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ledger of {goal} messages, seed {seed}");

    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue(QUEUE).await;
    rabbitmq.sync_declarations().await;
    let start_relay = || relay_process(books.url(), vhost.uri());
    let mut relays = vec![start_relay(), start_relay(), start_relay()];
    let progress = Arc::new(Progress { written: AtomicU64::new(0), goal });
    let started = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let writer = Writer {
            number,
            rng: fastrand::Rng::with_seed(seed.wrapping_add(number)),
            books: books.clone(),
            counters: HashMap::new(),
        };
        writers.spawn(writer.run(progress.clone()));
    }
    let reached = async |part: u64| {
        eventually("the writers to get on", Duration::from_secs(300), || async {
            (progress.written.load(Ordering::Relaxed) >= goal * part / 10).then_some(())
        })
        .await;
    };

    let mut faults = 0;
    reached(2).await;
    relays.remove(0).kill();
    faults += 1;
    reached(3).await;
    rabbitmq.kill().await;
    faults += 1;
    reached(4).await;
    rabbitmq.restart().await;
    relays.push(start_relay());
    reached(6).await;
    books.kill().await;
    faults += 1;
    books.restart().await;
    reached(8).await;
    // A relay that stands still for longer than its lease, and then goes on as if nothing had happened.
    relays[0].stop();
    faults += 1;
    while writers.join_next().await.is_some_and(|writer| writer.map(|()| true).unwrap()) {}
    let written = started.elapsed();
    relays[0].cont();

    let store = books.store();
    eventually("the outbox to drain", Duration::from_secs(240), || async {
        store.stats(1).await.ok().filter(|stats| stats.backlog.value == 0).map(drop)
    })
    .await;
    let drained = started.elapsed();
    for relay in &mut relays {
        relay.terminate();
        let status = relay.wait(Duration::from_secs(30)).await;
        assert!(status.success(), "a relay did not stop cleanly: {status}\n{}", relay.log());
    }
    assert_eq!(store.stats(1_000).await.unwrap().dead_letters.value, 0, "nothing was given up");

    let committed = books.committed().await;
    let count = vhost.queue_depth(QUEUE).await as usize;
    let deliveries = vhost.consume(QUEUE, count, Duration::from_secs(120)).await;

    let mut seen: HashSet<(i64, i64)> = HashSet::new();
    let mut last: HashMap<i64, i64> = HashMap::new();
    let mut duplicates = 0;
    for delivery in &deliveries {
        let text = std::str::from_utf8(&delivery.data).unwrap();
        let mut parts = text.split(':').map(|part| part.parse::<i64>());
        let (Some(Ok(key)), Some(Ok(number))) = (parts.next(), parts.next()) else {
            panic!("not ours: {text}")
        };
        assert!(committed.contains(&(key, number)), "{key}:{number} was never committed (seed {seed})");
        if seen.insert((key, number)) {
            let before = last.insert(key, number).unwrap_or(0);
            assert!(number > before, "key {key}: {number} came after {before} (seed {seed})");
        } else {
            duplicates += 1;
        }
    }
    let missing: Vec<_> = committed.difference(&seen).take(10).collect();
    assert!(missing.is_empty(), "committed and never published, among others: {missing:?} (seed {seed})");
    let bound = faults * WINDOW * 4;
    assert!(
        duplicates <= bound,
        "{duplicates} duplicates from {faults} faults, more than {bound} (seed {seed})"
    );
    println!(
        "{} committed, {} published, {duplicates} duplicates, {faults} faults; written in {written:.1?}, drained in {drained:.1?}",
        committed.len(),
        deliveries.len(),
    );
}
