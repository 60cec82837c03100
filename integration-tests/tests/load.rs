//! The relay's load on PostgreSQL: with an old snapshot, when idle, and with a large backlog. The broker is
//! an in-process publisher that accepts everything, so that only the database's work is measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use integration_tests::postgres::Database;
use integration_tests::{Postgres, Server, eventually};
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities, Relay, RelayHandle, Settings, Store};
use outbox_postgres::sqlx::{self, PgPool};
use outbox_postgres::{Config, Outbox};
use tokio::sync::Mutex;

/// Maximum time to wait for a condition. Only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(1200);

/// Measurements must not disturb each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Confirms everything and keeps a count.
struct Sink(Arc<AtomicU64>);

#[async_trait]
impl Publisher for Sink {
    fn name(&self) -> &'static str {
        "sink"
    }
    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::default().ordered_batches(true)
    }
    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.iter().map(|_| Ok(())).collect()
    }
}

struct Setup {
    pool: PgPool,
    outbox: Outbox,
    database: Database,
}

impl Setup {
    async fn new(postgres: &Postgres) -> Self {
        let database = postgres.database().await;
        let pool = database.pool(8).await;
        let outbox = Outbox::new(Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        Self { pool, outbox, database }
    }

    async fn fill(&self, messages: i64) {
        sqlx::query(
            "INSERT INTO outbox_message (topic, key, payload) \
             SELECT 'orders', 'key-' || number % 1000, convert_to(repeat('x', 200), 'UTF8') \
             FROM generate_series(1, $1) AS number",
        )
        .bind(messages)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    fn relay(&self) -> (RelayHandle, Arc<AtomicU64>) {
        self.relay_with(|_| {})
    }

    fn relay_with(&self, change: impl FnOnce(&mut Settings)) -> (RelayHandle, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        let store = self.outbox.store(self.pool.clone());
        let relay = Relay::builder(store, Sink(count.clone())).configure(|settings| {
            settings.stats_interval = None;
            // The slowness of the machine must not cause repeats.
            settings.lease_ttl = DEADLINE;
            change(settings);
        });
        (relay.build().unwrap().spawn(), count)
    }

    /// Waits until the relay has recorded in the database that it sleeps.
    async fn relay_sleeps(&self) {
        eventually("the relay to sleep", DEADLINE, || async {
            let asleep = "SELECT last_value = 1 AND (SELECT count(*) = 1 FROM outbox_relay WHERE idle) FROM outbox_sleepers";
            let asleep: bool = sqlx::query_scalar(asleep).fetch_one(&self.pool).await.unwrap();
            asleep.then_some(())
        })
        .await;
    }

    /// Number of pages that the sessions of this test have read. Closes the pool, because sessions report
    /// when they end.
    async fn pages(&self, watcher: &PgPool) -> i64 {
        self.pool.close().await;
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'";
        eventually("the sessions to end", DEADLINE, || async {
            let sessions: i64 =
                sqlx::query_scalar(sessions).bind(self.database.name()).fetch_one(watcher).await.unwrap();
            (sessions == 0).then_some(())
        })
        .await;
        sqlx::query_scalar("SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = $1")
            .bind(self.database.name())
            .fetch_one(watcher)
            .await
            .unwrap()
    }

    /// Drains this many messages and returns the time it took.
    async fn drain(&self, messages: i64) -> Duration {
        self.fill(messages).await;
        let store = self.outbox.store(self.pool.clone());
        let started = Instant::now();
        let (relay, count) = self.relay();
        eventually("all to be published", DEADLINE, || async {
            (count.load(Ordering::Relaxed) >= messages as u64).then_some(())
        })
        .await;
        eventually("all to be settled", DEADLINE, || async {
            (store.stats(1).await.unwrap().backlog.value == 0).then_some(())
        })
        .await;
        let took = started.elapsed();
        relay.shutdown().await.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), messages as u64, "each was published once");
        took
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_snapshot_elsewhere_does_not_slow_the_drain() {
    let Some(postgres) = Postgres::start().await else { return };
    let _alone = ALONE.lock().await;
    const MESSAGES: i64 = 200_000;
    let elsewhere = postgres.database().await;
    let watcher = elsewhere.pool(1).await;
    // On a busy machine neither processor time nor elapsed time proves anything. The number of pages that the
    // database has read does not depend on the load.
    let (mut free, mut held) = ((Duration::MAX, i64::MAX), (Duration::MAX, i64::MAX));
    let least = |a: (Duration, i64), b: (Duration, i64)| (a.0.min(b.0), a.1.min(b.1));
    for _ in 0..3 {
        let setup = Setup::new(&postgres).await;
        let took = setup.drain(MESSAGES).await;
        free = least(free, (took, setup.pages(&watcher).await));

        let setup = Setup::new(&postgres).await;
        let mut old = setup.pool.begin().await.unwrap();
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox_message")
            .execute(&mut *old)
            .await
            .unwrap();
        let took = setup.drain(MESSAGES).await;
        old.rollback().await.unwrap();
        held = least(held, (took, setup.pages(&watcher).await));
    }
    println!("{MESSAGES} messages: {free:.2?} free, {held:.2?} with an old snapshot");
    assert!(
        held.1 as f64 <= free.1 as f64 * 1.5,
        "the database read {} pages, and with an old snapshot {}",
        free.1,
        held.1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_relay_issues_at_most_two_statements_a_second() {
    let Some(postgres) = Postgres::start().await else { return };
    let _alone = ALONE.lock().await;
    let setup = Setup::new(&postgres).await;
    let (relay, count) = setup.relay();
    // Observed from another database, so that the observation is not counted.
    let elsewhere = postgres.database().await;
    let watcher = elsewhere.pool(1).await;
    // Each statement of an idle relay is a separate transaction, so the transactions count the statements.
    let transactions = async || -> i64 {
        sqlx::query_scalar("SELECT pg_stat_get_db_xact_commit(oid) + pg_stat_get_db_xact_rollback(oid) FROM pg_database WHERE datname = $1")
            .bind(setup.database.name())
            .fetch_one(&watcher)
            .await
            .unwrap()
    };
    // Autovacuum workers start once a minute, and their transactions would be counted as the relay's.
    for sql in ["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&watcher).await.unwrap();
    }
    setup.relay_sleeps().await;
    // The test measures long-term behaviour. A session that has become idle reports its initial work after
    // ten seconds, or later on a busy machine, where another attempt shows its behaviour when idle.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut rates = Vec::new();
    while !rates.last().is_some_and(|rate| *rate > 0.0 && *rate <= 2.0) {
        assert!(rates.len() < 5, "transactions a second while idle: {rates:.2?}");
        let (before, started) = (transactions().await, Instant::now());
        tokio::time::sleep(Duration::from_secs(20)).await;
        rates.push((transactions().await - before) as f64 / started.elapsed().as_secs_f64());
    }
    println!("transactions a second while idle: {rates:.2?}");
    relay.shutdown().await.unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 0);

    // This relay polls so rarely that only a commit can wake it.
    let (relay, count) = setup.relay_with(|settings| settings.poll_interval = DEADLINE * 10);
    setup.relay_sleeps().await;
    let mut latencies = Vec::new();
    for number in 1..=20_u64 {
        let message = Message::bytes("orders", "x").build().unwrap();
        setup.outbox.enqueue(&setup.pool, &message).await.unwrap();
        let committed = Instant::now();
        let published = async {
            while count.load(Ordering::Relaxed) < number {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, published).await.expect("a commit wakes it");
        latencies.push(committed.elapsed());
        setup.relay_sleeps().await;
    }
    latencies.sort();
    println!(
        "from commit to publish call, idle relay: p50 {:.2?}, worst of 20 {:.2?}",
        latencies[10], latencies[19]
    );
    relay.shutdown().await.unwrap();
}

/// The memory of this process, by the kernel.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_with_the_backlog() {
    let Some(postgres) = Postgres::start().await else { return };
    let _alone = ALONE.lock().await;
    // The first drain warms up pools and allocator.
    let setup = Setup::new(&postgres).await;
    setup.drain(20_000).await;
    let before = resident_bytes();

    let setup = Setup::new(&postgres).await;
    const MESSAGES: u64 = 1_000_000;
    setup.fill(MESSAGES as i64).await;
    let (relay, count) = setup.relay();
    let mut peak = 0;
    eventually("all to be published", DEADLINE, || {
        peak = peak.max(resident_bytes());
        let done = count.load(Ordering::Relaxed) >= MESSAGES;
        async move { done.then_some(()) }
    })
    .await;
    relay.shutdown().await.unwrap();
    let grown = peak.saturating_sub(before);
    println!("{MESSAGES} waiting: {} MiB at most, {} MiB more than before", peak >> 20, grown >> 20);
    assert!(grown < 48 << 20, "{} MiB more than with a small backlog", grown >> 20);
}
