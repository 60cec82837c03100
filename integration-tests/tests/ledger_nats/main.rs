//! The ledger for NATS: compares what was committed in PostgreSQL or SQLite with what a stream has stored, while writers roll
//! back, the server is killed and comes back, twice, and once its answers are lost.
//!
//! The stream itself is the book of what has arrived: the server keeps what it confirmed when it is killed. It shows
//! that every committed message is in the stream, that no other is, and that those of a key are in their order. It does not
//! show what a power failure does to a server, or how a cluster elects a leader.
//!
//! `OUTBOX_LEDGER_MESSAGES` sets how many messages are written (default 2 000); the seed is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions beside the tests are tests, too"
)]

#[path = "../ledger/writing.rs"]
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fault_runs::books::{Books, OnPostgres, OnSqlite};
use integration_tests::nats::{Stream, StreamConfig};
use integration_tests::{Mode, Nats, Server, eventually};
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities, Relay, Settings, Verdict};
use outbox_nats::NatsPublisher;
use writing::{audit, write};

const PATIENCE: Duration = Duration::from_secs(900);
/// Messages that may be under way when the server dies, and may be sent twice.
const WINDOW: usize = 1_000;

/// The publisher, with the number of messages whose outcome was unknown.
struct Counted {
    publisher: NatsPublisher,
    unknown: Arc<AtomicU64>,
}

#[async_trait]
impl Publisher for Counted {
    fn name(&self) -> &'static str {
        self.publisher.name()
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.publisher.capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let outcomes = self.publisher.publish(batch).await;
        let unknown =
            |outcome: &&Outcome| outcome.as_ref().is_err_and(|error| error.verdict() == Verdict::Unknown);
        self.unknown.fetch_add(outcomes.iter().filter(unknown).count() as u64, Ordering::Relaxed);
        outcomes
    }

    async fn close(&self) {
        self.publisher.close().await;
    }
}

/// How many messages the stream has stored.
async fn stored(stream: &Stream) -> u64 {
    eventually("the stream to answer", PATIENCE, || async { stream.count().await.ok() }).await
}

async fn keep_the_ledger(books: Arc<dyn Books>) {
    let (goal, seed) = writing::size_and_seed();

    let Some(nats) = Nats::start().await else { return };
    // The server forgets ids quickly, so that repeats are seen.
    let config = StreamConfig { duplicate_window: Duration::from_millis(100), ..StreamConfig::default() };
    let stream = nats.stream_with(config).await;
    let proxy = nats.proxy().await;
    let publisher = NatsPublisher::builder(nats.url_through(&proxy))
        .connect_timeout(Duration::from_secs(100))
        .ack_timeout(Duration::from_secs(100))
        .build()
        .unwrap();
    let unknown = Arc::new(AtomicU64::new(0));
    let publisher = Counted { publisher, unknown: unknown.clone() };
    let mut settings = Settings::default();
    settings.max_in_flight = WINDOW;
    settings.circuit_max_pause = Duration::from_secs(1);
    // No call is given up, and no message repeated, because the machine is slow.
    settings.publish_timeout = Duration::from_secs(120);
    settings.lease_ttl = Duration::from_secs(600);
    let relay = Relay::builder(books.store(), publisher).settings(settings).build().unwrap().spawn();

    let started = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let faults_are_over = Arc::new(AtomicBool::new(false));
    let mut writers = write(&books, stream.name(), goal, seed, &written, &faults_are_over);

    // Killed twice in the middle of what is to be published, whatever the speed of this machine is.
    let mut before = 0;
    for part in [1, 2] {
        eventually("the relay to get on", PATIENCE, || async {
            (stored(&stream).await >= goal * part / 3).then_some(())
        })
        .await;
        nats.kill().await;
        nats.restart().await;
        let after = stored(&stream).await;
        assert!(after >= before, "the server has lost messages that it had confirmed (seed {seed})");
        before = after;
    }
    // And once the server stores what it gets while its answers are lost: these messages are sent again.
    eventually("the relay to connect again", PATIENCE, || async {
        (stored(&stream).await > before).then_some(())
    })
    .await;
    let known = unknown.load(Ordering::Relaxed);
    proxy.set(Mode::CutAnswersAfter(0)).await;
    eventually("acknowledgements to be lost", PATIENCE, || async {
        (unknown.load(Ordering::Relaxed) > known).then_some(())
    })
    .await;
    proxy.set(Mode::Pass).await;
    faults_are_over.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    let store = books.store();
    eventually("the outbox to drain", PATIENCE, || async {
        store.stats(1).await.ok().filter(|stats| stats.backlog.value == 0).map(drop)
    })
    .await;
    let drained = started.elapsed();
    relay.shutdown().await.unwrap();
    assert_eq!(
        store.stats(1_000).await.unwrap().dead_letters.value,
        0,
        "a message was given up (seed {seed})"
    );

    let committed = books.committed().await;
    let bodies: Vec<String> = stream
        .messages()
        .await
        .into_iter()
        .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
        .collect();
    let (arrived, repeats) = audit("the stream", &bodies, &committed);
    let missing: Vec<_> = committed.difference(&arrived).take(10).collect();
    assert!(missing.is_empty(), "committed and not stored, among others: {missing:?} (seed {seed})");
    let invented: Vec<_> = arrived.difference(&committed).take(10).collect();
    assert!(invented.is_empty(), "stored and not committed, among others: {invented:?} (seed {seed})");
    assert!(repeats > 0, "no acknowledgement was lost (seed {seed})");
    assert!(repeats <= 3 * WINDOW, "{repeats} were stored again after three faults (seed {seed})");
    println!(
        "{} committed, {} stored, {repeats} of them again; {drained:.1?}",
        committed.len(),
        bodies.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_postgres_nothing_is_lost_invented_or_reordered() {
    let Some(books) = OnPostgres::start().await else { return };
    Box::pin(keep_the_ledger(Arc::new(books))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_sqlite_nothing_is_lost_invented_or_reordered() {
    Box::pin(keep_the_ledger(Arc::new(OnSqlite::start().await))).await;
}
