//! The ledger for Pub/Sub: what was committed in PostgreSQL or SQLite against what the service has taken, while writers
//! roll back, the service is killed and comes back, twice, asks for less, and once its answers are lost.
//!
//! The fake forgets its messages when it is killed. So it keeps books in a file, into which it writes what it has taken
//! before it answers; they outlive it. What this shows: every committed message was taken, none was that had not been
//! committed, and those of a key in their order, counted by their first times; and what the last life of the server has
//! taken came to a subscriber, in the order of each key. What it does not show: that the service keeps what it has
//! confirmed. That is Google's promise, and nothing here can try it.
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

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fault_runs::books::{Books, OnPostgres, OnSqlite};
use integration_tests::pubsub::{Entry, Fault, Topic};
use integration_tests::{PubSub, Server, eventually};
use outbox_core::{Relay, Settings};
use outbox_pubsub::PubSubPublisher;
use writing::{audit, number, write};

const PATIENCE: Duration = Duration::from_secs(900);
/// What may be under way when the server dies, and so be sent twice.
const WINDOW: usize = 100;
const RESOURCE_EXHAUSTED: i32 = 8;

/// The payloads that the server has taken, in that order.
fn payloads(entries: &[Entry]) -> Vec<String> {
    entries.iter().filter(|entry| entry.was_taken()).flat_map(|entry| entry.heads.clone()).collect()
}

async fn taken(topic: &Topic, at_least: u64) {
    eventually("the relay to get on", PATIENCE, || async {
        (payloads(&topic.books()).len() as u64 >= at_least).then_some(())
    })
    .await;
}

async fn keep_the_ledger(books: Arc<dyn Books>) {
    // One at a time, or they would take the machine from each other and run into deadlines.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let (goal, seed) = writing::size_and_seed();

    let Some(pubsub) = PubSub::start().await else { return };
    let topic = pubsub.topic().await;
    let publisher = PubSubPublisher::emulator_builder(&pubsub.address().to_string())
        .project("outbox-test")
        .call_timeout(Duration::from_secs(100))
        .build()
        .unwrap();
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
    let mut writers = write(&books, topic.id(), goal, seed, &written, &faults_are_over);

    // Killed twice in the middle of what is to be published, whatever the speeds of this machine are.
    let mut former_lives = 0;
    for part in [1, 2] {
        taken(&topic, goal * part / 4).await;
        pubsub.kill().await;
        former_lives = topic.books().len();
        pubsub.restart().await;
    }
    topic.subscribe().await;
    // What was taken before there was a subscription is in no subscription.
    let unsubscribed = topic.books().len();
    // Then it asks for less, of all messages.
    taken(&topic, goal * 5 / 8).await;
    topic.set(Fault::Code(RESOURCE_EXHAUSTED));
    eventually("requests to be refused", PATIENCE, || async {
        topic.books().iter().rev().take(3).all(|entry| !entry.was_taken()).then_some(())
    })
    .await;
    // And last it does what it is asked to while nobody hears of it: what was taken so is sent again.
    topic.set(Fault::AnswerLost);
    let before = payloads(&topic.books()).len();
    taken(&topic, before as u64 + 3).await;
    topic.set(Fault::None);
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

    let committed = books.committed().await;
    let entries = topic.books();
    let log = payloads(&entries);
    let (arrived, repeats) = audit("the server's books", &log, &committed);
    let missing: Vec<_> = committed.difference(&arrived).take(10).collect();
    assert!(missing.is_empty(), "committed and never taken, among others: {missing:?} (seed {seed})");
    assert!(repeats > 0, "no answer was lost (seed {seed})");
    assert!(repeats <= 4 * WINDOW, "{repeats} were sent again after four faults (seed {seed})");
    assert!(entries.len() > former_lives, "the second kill came too late to show anything");

    // Within its last life, the server has delivered what it took.
    let last_life: HashSet<_> = payloads(&entries[unsubscribed..]).iter().map(|body| number(body)).collect();
    let subscriber = topic.subscriber();
    let mut received = Vec::new();
    let pulling = Instant::now();
    loop {
        let messages = subscriber.pull().await.unwrap();
        received.extend(messages.iter().map(|message| String::from_utf8(message.data.to_vec()).unwrap()));
        let got: HashSet<_> = received.iter().map(|body| number(body)).collect();
        if last_life.is_subset(&got) {
            break;
        }
        assert!(pulling.elapsed() < PATIENCE, "the subscriber has {} of {}", got.len(), last_life.len());
    }
    let (delivered, again) = audit("the subscriber", &received, &committed);

    let requests: Vec<_> = entries.iter().filter(|entry| entry.was_taken()).collect();
    println!(
        "{} committed, {} taken, {repeats} of them again; of the last life the subscriber has {}, {again} of them again; \
         {} requests taken, {:.1} messages each, {} refused; {drained:.1?}",
        committed.len(),
        log.len(),
        delivered.len(),
        requests.len(),
        log.len() as f64 / requests.len() as f64,
        entries.len() - requests.len(),
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
