//! The ledger for SQS compares the messages committed in PostgreSQL or SQLite with those that a FIFO queue
//! has accepted, while writers roll back, the queue's server is killed and restarted twice, and once loses
//! its answers.
//!
//! The emulator loses everything when it is killed, unlike Amazon's service. Therefore its ledger is kept
//! outside of it: a gateway in front of it records every message that a response of the server confirmed, and
//! a consumer continuously takes messages out of the queue. The test shows that every committed message was
//! confirmed by the server, no other message was, and those of a key are in order. It also shows that
//! everything confirmed since the last start of the server reached the consumer, in order. It does not show
//! that the service keeps confirmed messages: that is Amazon's promise, and cannot be tested here.
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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fault_runs::books::{Books, OnPostgres, OnSqlite};
use integration_tests::sqs::{Fault, Queue, client};
use integration_tests::{Server, Sqs, eventually};
use outbox_core::{Relay, Settings};
use outbox_sqs::SqsPublisher;
use writing::{audit, number, write};

const PATIENCE: Duration = Duration::from_secs(900);
/// The number of messages that may be in flight when the server dies, and so be sent twice.
const WINDOW: usize = 100;

/// Takes everything out of the queue, across restarts of its server.
async fn consume(sqs: Arc<Sqs>, queue: Arc<Queue>, received: Arc<Mutex<Vec<String>>>) {
    let client = sqs.client();
    loop {
        // The server may be down, or have lost the queue.
        let messages =
            eventually("the queue to answer", PATIENCE, || async { queue.receive(&client).await.ok() }).await;
        received.lock().unwrap().extend(messages.into_iter().map(|message| message.body.unwrap()));
    }
}

async fn keep_the_ledger(books: Arc<dyn Books>) {
    let (goal, seed) = writing::size_and_seed();

    let Some(sqs) = Sqs::start().await else { return };
    let sqs = Arc::new(sqs);
    let queue = Arc::new(sqs.fifo_queue().await);
    let gateway = sqs.gateway().await;
    gateway.keep_log();
    let received = Arc::new(Mutex::new(Vec::new()));
    let consumer = tokio::spawn(consume(sqs.clone(), queue.clone(), received.clone()));

    let publisher = SqsPublisher::builder(client(gateway.address()))
        .call_timeout(Duration::from_secs(100))
        .build()
        .unwrap();
    let mut settings = Settings::default();
    settings.max_in_flight = WINDOW;
    settings.circuit_max_pause = Duration::from_secs(1);
    // The slowness of the machine must not cause a call to be given up, or a message to be repeated.
    settings.publish_timeout = Duration::from_secs(120);
    settings.lease_ttl = Duration::from_secs(600);
    // No message is given up because of a queue that is briefly missing.
    settings.retry.max_attempts = 1_000;
    let relay = Relay::builder(books.store(), publisher).settings(settings).build().unwrap().spawn();

    let started = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let faults_are_over = Arc::new(AtomicBool::new(false));
    let mut writers = write(&books, queue.name(), goal, seed, &written, &faults_are_over);

    // Killed twice while messages are unpublished, whatever the speed of this machine is.
    let mut confirmed_before = 0;
    for part in [1, 2] {
        eventually("the relay to make progress", PATIENCE, || async {
            (gateway.log().len() as u64 >= goal * part / 3).then_some(())
        })
        .await;
        sqs.kill().await;
        sqs.restart().await;
        // The restarted server has no such queue yet, so everything confirmed until now was confirmed before.
        // A missing queue is a failure of messages, and must not turn them into dead letters.
        confirmed_before = gateway.log().len();
        queue.create_again().await;
    }
    // Once it executes requests but loses its answers: messages accepted in this way are sent again.
    let before = gateway.requests("SendMessageBatch").len();
    gateway.set(Fault::AnswerLost);
    eventually("answers to be lost", PATIENCE, || async {
        (gateway.requests("SendMessageBatch").len() >= before + 3).then_some(())
    })
    .await;
    gateway.set(Fault::None);
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
    let log = gateway.log();
    let (confirmed, repeats) = audit("the gateway's log", &log, &committed);
    let missing: Vec<_> = committed.difference(&confirmed).take(10).collect();
    assert!(missing.is_empty(), "committed and never accepted, among others: {missing:?} (seed {seed})");
    assert!(repeats > 0, "no answer was lost (seed {seed})");
    assert!(repeats <= 3 * WINDOW, "{repeats} were sent again after three faults (seed {seed})");
    assert!(log.len() > confirmed_before, "the second kill came too late to show anything");

    // Since its last start, the server has delivered all confirmed messages.
    let last_life: HashSet<_> = log[confirmed_before..].iter().map(|body| number(body)).collect();
    eventually("the consumer to have everything", PATIENCE, || async {
        let got: HashSet<_> = received.lock().unwrap().iter().map(|body| number(body)).collect();
        last_life.is_subset(&got).then_some(())
    })
    .await;
    consumer.abort();
    // Messages were repeated within the five minutes in which the queue detects repeats, so the consumer
    // received them again only if the server lost its state in between.
    let received = received.lock().unwrap().clone();
    let (arrived, again) = audit("the consumer", &received, &committed);

    let requests = gateway.requests("SendMessageBatch");
    let full = requests.iter().filter(|messages| **messages == 10).count();
    println!(
        "{} committed, {} confirmed, {repeats} of them again; the consumer has {}, {again} of them again; \
         {} requests, {full} of them full; {drained:.1?}",
        committed.len(),
        log.len(),
        arrived.len(),
        requests.len(),
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
