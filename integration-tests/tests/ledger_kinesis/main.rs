//! The ledger for Kinesis compares the messages committed in PostgreSQL or SQLite with those in a stream,
//! while writers roll back, shards refuse records above their quota, and the stream's server is killed and
//! restarted twice.
//!
//! The emulator keeps confirmed records on disk, and enforces the quota of real shards. The test shows that
//! every committed message is in the stream, no other message is, and those of a key are in order. It does
//! not show that the service keeps confirmed records when machines are lost: that is Amazon's promise, and
//! cannot be tested here.
//!
//! `OUTBOX_LEDGER_MESSAGES` sets the number of messages to write (default 2 000); the seed is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions next to the tests are test code"
)]

#[path = "../ledger/writing.rs"]
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fault_runs::books::{Books, OnPostgres, OnSqlite};
use integration_tests::{Kinesis, eventually};
use outbox_core::{Relay, Settings};
use outbox_kinesis::{Format, KinesisPublisher, Stream};
use writing::{audit, write};

/// Each accepts a thousand records a second.
const SHARDS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(900);
/// The number of messages that may be in flight when the server dies, and so be sent twice.
const WINDOW: usize = 100;

async fn keep_the_ledger(books: Arc<dyn Books>) {
    let (goal, seed) = writing::size_and_seed();
    let kinesis = Kinesis::start_durable().await;
    let stream = kinesis.stream(SHARDS).await;
    let publisher = KinesisPublisher::builder(kinesis.client())
        .stream(Stream::name(&stream))
        .format(Format::Raw)
        .call_timeout(Duration::from_secs(100))
        .build()
        .unwrap();
    let mut settings = Settings::default();
    settings.max_in_flight = WINDOW;
    settings.circuit_max_pause = Duration::from_secs(1);
    // The slowness of the machine must not cause a call to be given up, or a message to be repeated.
    settings.publish_timeout = Duration::from_secs(120);
    settings.lease_ttl = Duration::from_secs(600);
    let relay = Relay::builder(books.store(), publisher).settings(settings).build().unwrap().spawn();

    let store = books.store();
    let started = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let faults_are_over = Arc::new(AtomicBool::new(false));
    let mut writers = write(&books, "anything", goal, seed, &written, &faults_are_over);
    // Killed twice while messages are unpublished, whatever the speed of this machine is.
    for part in [1, 2] {
        eventually("the relay to make progress", PATIENCE, || async {
            let waiting = store.stats(10 * goal).await.ok()?.backlog.value;
            (written.load(Ordering::Relaxed) >= goal * part / 3 + waiting).then_some(())
        })
        .await;
        kinesis.kill().await;
        kinesis.restart().await;
    }
    faults_are_over.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    eventually("the outbox to drain", PATIENCE, || async {
        store.stats(1).await.ok().filter(|stats| stats.backlog.value == 0).map(drop)
    })
    .await;
    let drained = started.elapsed();
    relay.shutdown().await.unwrap();
    assert_eq!(
        store.stats(1_000).await.unwrap().dead_letters.value,
        0,
        "busy shards and outages must not stop the relay"
    );

    let committed = books.committed().await;
    let bodies: Vec<String> = kinesis
        .records(&stream)
        .await
        .into_iter()
        .map(|record| String::from_utf8(record.data).unwrap())
        .collect();
    let (came, repeats) = audit("the stream", &bodies, &committed);
    let missing: Vec<_> = committed.difference(&came).take(10).collect();
    assert!(missing.is_empty(), "committed and never accepted, among others: {missing:?} (seed {seed})");
    assert!(repeats <= 2 * WINDOW, "{repeats} were sent again after two faults (seed {seed})");
    println!(
        "{} committed, {} in the stream, {repeats} of them again; {} requests; {drained:.1?}",
        committed.len(),
        bodies.len(),
        kinesis.requests("PutRecords"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_postgres_nothing_is_lost_invented_or_reordered() {
    let Some(books) = OnPostgres::start().await else { return };
    keep_the_ledger(Arc::new(books)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_sqlite_nothing_is_lost_invented_or_reordered() {
    keep_the_ledger(Arc::new(OnSqlite::start().await)).await;
}
