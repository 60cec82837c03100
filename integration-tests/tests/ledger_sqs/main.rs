//! The ledger for SQS: what was committed in PostgreSQL or SQLite against what a FIFO queue has taken, while writers
//! roll back, the queue's server is killed and comes back, twice, and once its answers are lost.
//!
//! The emulator forgets everything when it is killed, as Amazon's service does not. So its books are kept outside of
//! it: a gateway before it notes every message that an answer of the server confirmed, and a consumer takes out what
//! it can get all along. What this shows: every committed message was confirmed by the server, none was that had not
//! been committed, and those of a key in their order; and everything that the last life of the server has confirmed
//! came to the consumer, in order. What it does not show: that the service keeps what it has confirmed. That is
//! Amazon's promise, and nothing here can try it.
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
/// What may be under way when the server dies, and so be sent twice.
const WINDOW: usize = 100;

/// Takes everything out of the queue, through the deaths of its server.
async fn consume(sqs: Arc<Sqs>, queue: Arc<Queue>, received: Arc<Mutex<Vec<String>>>) {
    let client = sqs.client();
    loop {
        // The server may be down, or have forgotten the queue.
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
    // No call is given up, and no message repeated, because the machine is slow.
    settings.publish_timeout = Duration::from_secs(120);
    settings.lease_ttl = Duration::from_secs(600);
    // Nobody is given up for a queue that is not there for a moment.
    settings.retry.max_attempts = 1_000;
    let relay = Relay::builder(books.store(), publisher).settings(settings).build().unwrap().spawn();

    let started = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let faults_are_over = Arc::new(AtomicBool::new(false));
    let mut writers = write(&books, queue.name(), goal, seed, &written, &faults_are_over);

    // Killed twice in the middle of what is to be published, whatever the speeds of this machine are.
    let mut confirmed_before = 0;
    for part in [1, 2] {
        eventually("the relay to get on", PATIENCE, || async {
            (gateway.log().len() as u64 >= goal * part / 3).then_some(())
        })
        .await;
        sqs.kill().await;
        sqs.restart().await;
        // It has no such queue yet, so all that was confirmed by now was so in its former life. That the queue is not
        // there is a failure of messages, and must not end them.
        confirmed_before = gateway.log().len();
        queue.create_again().await;
    }
    // And once it does what it is asked to while nobody hears of it: what was taken so is sent again.
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
    assert!(missing.is_empty(), "committed and never taken, among others: {missing:?} (seed {seed})");
    assert!(repeats > 0, "no answer was lost (seed {seed})");
    assert!(repeats <= 3 * WINDOW, "{repeats} were sent again after three faults (seed {seed})");
    assert!(log.len() > confirmed_before, "the second kill came too late to show anything");

    // Within its last life, the server has delivered what it confirmed.
    let last_life: HashSet<_> = log[confirmed_before..].iter().map(|body| number(body)).collect();
    eventually("the consumer to have everything", PATIENCE, || async {
        let got: HashSet<_> = received.lock().unwrap().iter().map(|body| number(body)).collect();
        last_life.is_subset(&got).then_some(())
    })
    .await;
    consumer.abort();
    // What was sent again has come within the five minutes in which the queue knows repeats, so the consumer has got it
    // again only if the server forgot in between.
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
