//! The ledger for webhooks: what was committed in PostgreSQL or SQLite against what a receiver has taken, while writers roll
//! back, the receiver is killed and comes back, twice, asks for less, and once its answers are lost.
//!
//! The receiver writes into its books what it has taken before it answers, and the books outlive it.
//!
//! `OUTBOX_LEDGER_MESSAGES` sets how many messages are written (default 2000); the seed is printed.

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

use fault_runs::books::{Books, OnPostgres, OnSqlite};
use integration_tests::webhook::{Delivery, Fault};
use integration_tests::{Receiver, eventually};
use outbox_core::{Relay, Settings};
use outbox_webhook::{Endpoint, WebhookPublisher};
use writing::{audit, write};

const PATIENCE: Duration = Duration::from_secs(900);
const SECRET: &str = "whsec_dGhlIHNlY3JldCBvZiBhbGwgdGVzdHMgaGVyZQ==";
/// Requests that may be under way when the receiver dies, and so be sent twice: those of all calls of the relay.
const WINDOW: usize = 64;

async fn taken(receiver: &Receiver, at_least: u64) {
    eventually("the relay to get on", PATIENCE, || async {
        (receiver.taken() as u64 >= at_least).then_some(())
    })
    .await;
}

async fn keep_the_ledger(books: Arc<dyn Books>) {
    // One at a time, or they would take the machine from each other.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let (goal, seed) = writing::size_and_seed();

    let receiver = Receiver::start().await;
    let publisher = WebhookPublisher::builder()
        .default_endpoint(Endpoint::new(receiver.url("/hooks")).secret(SECRET))
        .allow_network("127.0.0.1".parse().unwrap())
        .connect_timeout(Duration::from_secs(100))
        .call_timeout(Duration::from_secs(100))
        .build()
        .unwrap();
    let mut settings = Settings::default();
    settings.circuit_max_pause = Duration::from_secs(1);
    // No call is given up, and no message repeated, because the machine is slow.
    settings.publish_timeout = Duration::from_secs(120);
    settings.lease_ttl = Duration::from_secs(600);
    let calls = settings.publish_concurrency;
    assert_eq!(calls * 16, WINDOW, "the window follows the settings");
    let relay = Relay::builder(books.store(), publisher).settings(settings).build().unwrap().spawn();

    let started = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let faults_are_over = Arc::new(AtomicBool::new(false));
    let mut writers = write(&books, "order.placed", goal, seed, &written, &faults_are_over);

    // Killed twice while messages are waiting, on a fast machine and on a slow one.
    for part in [1, 2] {
        taken(&receiver, goal * part / 4).await;
        receiver.kill().await;
        receiver.restart().await;
    }
    // Then it refuses all requests and asks for fewer.
    taken(&receiver, goal * 5 / 8).await;
    receiver.set(Fault::Status(429));
    let requests = receiver.requests();
    eventually("requests to be refused", PATIENCE, || async {
        (receiver.requests() >= requests + 3).then_some(())
    })
    .await;
    // Last, it takes requests and its answers are lost, so that they are sent again.
    receiver.set(Fault::AnswerLost);
    let before = receiver.taken();
    taken(&receiver, before as u64 + 3).await;
    receiver.set(Fault::None);
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
    assert_eq!(store.stats(1_000).await.unwrap().dead_letters.value, 0, "nothing was given up");

    let deliveries = receiver.deliveries();
    assert!(
        deliveries.iter().all(|delivery| delivery.is_signed_by(SECRET)),
        "a request without its signature"
    );
    let body = |delivery: &Delivery| String::from_utf8(delivery.body.to_vec()).unwrap();
    let log: Vec<_> = deliveries.iter().map(body).collect();
    let committed = books.committed().await;
    let (arrived, repeats) = audit("the receiver's books", &log, &committed);
    let ghosts: Vec<_> = arrived.difference(&committed).take(10).collect();
    assert!(ghosts.is_empty(), "taken and never committed, among others: {ghosts:?} (seed {seed})");
    let missing: Vec<_> = committed.difference(&arrived).take(10).collect();
    assert!(missing.is_empty(), "committed and never taken, among others: {missing:?} (seed {seed})");
    assert!(repeats > 0, "no answer was lost (seed {seed})");
    println!(
        "{} committed, {} taken, {repeats} of them again; {} requests over {} connections; {drained:.1?}",
        committed.len(),
        log.len(),
        receiver.requests(),
        receiver.connections(),
    );
    // Two kills and a time of lost answers: while it lasts, the relay probes with one message at a time.
    assert!(repeats <= 4 * WINDOW, "{repeats} were sent again after three faults (seed {seed})");
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
