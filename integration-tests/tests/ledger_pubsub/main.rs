//! The ledger for Pub/Sub compares the messages committed in PostgreSQL or SQLite with those that the service
//! has accepted, while writers roll back, the service is killed and restarted twice, throttles, and once
//! loses its answers.
//!
//! The fake loses its messages when it is killed. Therefore it records every accepted message in a file
//! before it answers, and this file survives. The test shows that every committed message was accepted, no
//! other message was, and those of a key are in order, counted by their first arrival. It also shows that the
//! messages accepted since the last start of the server reached a subscriber, in the order of each key. It
//! does not show that the service keeps confirmed messages: that is Google's promise, and cannot be tested
//! here.
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
/// The number of messages that may be in flight when the server dies, and so be sent twice.
const WINDOW: usize = 100;
const RESOURCE_EXHAUSTED: i32 = 8;

/// The payloads that the server has accepted, in that order.
fn payloads(entries: &[Entry]) -> Vec<String> {
    entries.iter().filter(|entry| entry.was_taken()).flat_map(|entry| entry.heads.clone()).collect()
}

async fn taken(topic: &Topic, at_least: u64) {
    eventually("the relay to make progress", PATIENCE, || async {
        (payloads(&topic.books()).len() as u64 >= at_least).then_some(())
    })
    .await;
}

async fn keep_the_ledger(books: Arc<dyn Books>) {
    // One at a time, otherwise the tests compete for the machine and exceed deadlines.
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
    // The slowness of the machine must not cause a call to be given up, or a message to be repeated.
    settings.publish_timeout = Duration::from_secs(120);
    settings.lease_ttl = Duration::from_secs(600);
    let relay = Relay::builder(books.store(), publisher).settings(settings).build().unwrap().spawn();

    let started = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let faults_are_over = Arc::new(AtomicBool::new(false));
    let mut writers = write(&books, topic.id(), goal, seed, &written, &faults_are_over);

    // Killed twice while messages are unpublished, whatever the speed of this machine is.
    let mut former_lives = 0;
    for part in [1, 2] {
        taken(&topic, goal * part / 4).await;
        pubsub.kill().await;
        former_lives = topic.books().len();
        pubsub.restart().await;
    }
    topic.subscribe().await;
    // Messages that were accepted before there was a subscription are in no subscription.
    let unsubscribed = topic.books().len();
    // Then it throttles all messages.
    taken(&topic, goal * 5 / 8).await;
    topic.set(Fault::Code(RESOURCE_EXHAUSTED));
    eventually("requests to be refused", PATIENCE, || async {
        topic.books().iter().rev().take(3).all(|entry| !entry.was_taken()).then_some(())
    })
    .await;
    // Finally it executes requests but loses its answers: messages accepted in this way are sent again.
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
    assert!(missing.is_empty(), "committed and never accepted, among others: {missing:?} (seed {seed})");
    assert!(repeats > 0, "no answer was lost (seed {seed})");
    assert!(repeats <= 4 * WINDOW, "{repeats} were sent again after four faults (seed {seed})");
    assert!(entries.len() > former_lives, "the second kill came too late to show anything");

    // Since its last start, the server has delivered all accepted messages.
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
