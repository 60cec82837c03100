//! Settle calls that fail because of some of their rows, or that hang, under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore, Operation};
use outbox_core::relay::RetryPolicy;
use outbox_core::{
    DeadLetterFilter, Error, ErrorKind, Event, Message, Position, Received, Settle, Settlement, Store,
    Verdict,
};
use support::*;
use tokio::time::Instant;

const KEYS: u64 = 20;

/// Enqueues `messages` messages over [`KEYS`] keys. Returns their positions.
fn enqueue(store: &MemoryStore, messages: std::ops::Range<u64>) -> Vec<Position> {
    messages.map(|number| store.enqueue(&message(Some(&format!("key-{}", number % KEYS)), number))).collect()
}

fn refuse(store: &MemoryStore, refused: Position, kind: ErrorKind) {
    store.faults().refuse_settlements(move |settle: &Settle| (settle.position == refused).then_some(kind));
}

/// Waits until exactly these numbers are undelivered.
async fn left(store: &MemoryStore, numbers: &[u64], within: Duration) {
    let undelivered = || -> Vec<u64> {
        let number = |content: &outbox_core::Content| match content {
            outbox_core::Content::Message(message) => number(message),
            outbox_core::Content::Malformed { .. } => panic!("all messages are readable"),
        };
        store.undelivered().iter().map(|(_, content)| number(content)).collect()
    };
    let wait = async {
        while undelivered() != numbers {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(within, wait).await.is_err() {
        panic!("after {within:?} these are left: {:?}, not {numbers:?}", undelivered());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_row_delays_only_what_is_behind_it_in_its_key() {
    let kinds = [ErrorKind::Malformed, ErrorKind::TooLarge, ErrorKind::Permission, ErrorKind::Interrupted];
    for kind in kinds {
        let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
        let positions = enqueue(&store, 0..200);
        refuse(&store, positions[107], kind);
        let relay = relay(&store, &publisher, settings());
        let mut events = relay.events();
        left(&store, &[107, 127, 147, 167, 187], Duration::from_secs(20)).await;
        enqueue(&store, 200..220);
        left(&store, &[107, 127, 147, 167, 187, 207], Duration::from_secs(5)).await;
        // The row is found in a few calls more.
        tokio::time::sleep(Duration::from_secs(10)).await;

        store.faults().clear();
        drained(&store).await;
        relay.shutdown().await.unwrap();
        assert_eq!(publisher.count(), 220, "{kind}: nothing is published again");
        let mut refused = Vec::new();
        while let Some(event) = events.recv().await {
            if let Received::Event(Event::SettleRefused { position, .. }) = event {
                refused.push(position);
            }
        }
        assert_eq!(refused, [positions[107]], "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_another_session_has_locked_delays_only_what_is_behind_it_in_its_key() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let positions = enqueue(&store, 0..200);
    refuse(&store, positions[107], ErrorKind::Timeout);
    let relay = relay(&store, &publisher, settings());
    publisher.wait_for(200).await;
    // While the first call hangs, others are settled.
    let enqueued = Instant::now();
    for number in 0..20 {
        store.enqueue(&message(None, number));
    }
    let wanted = 180;
    while store.undelivered().len() > wanted + 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(enqueued.elapsed() < Duration::from_secs(5), "{} are left", store.undelivered().len());
    }
    // A call is given up after 30 seconds, and the row is found in a few of them.
    left(&store, &[107, 127, 147, 167, 187], Duration::from_secs(200)).await;
    store.faults().clear();
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_eq!(publisher.count(), 220, "nothing is published again");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_the_store_does_not_take_is_replaced() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder()
        .script(|message: &Message, _| match number(message) {
            3 => Err(Error::new(ErrorKind::Rejected, "na\u{ef}ve").with_verdict(Verdict::Permanent)),
            _ => Ok(()),
        })
        .build();
    let is_ascii = |settle: &Settle| match &settle.settlement {
        Settlement::Retry { error, .. } | Settlement::Dead { error, .. } => error.is_ascii(),
        _ => true,
    };
    store.faults().refuse_settlements(move |settle| (!is_ascii(settle)).then_some(ErrorKind::Malformed));
    for number in 0..10 {
        store.enqueue(&message(Some("a"), number));
        store.enqueue(&message(Some("b"), number + 10));
    }
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(2);
    let relay = relay(&store, &publisher, settings);
    left(&store, &[3, 4, 5, 6, 7, 8, 9], Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let waiting = store.inspection().unwrap().peek(None, 1).await.unwrap().unwrap();
    let error = waiting[0].error.clone().unwrap();
    assert!(error.contains("refused to record"), "{error}");

    store.faults().clear();
    dead_letters(&store, 1).await;
    let listed = store.dead_letters().unwrap().list(&DeadLetterFilter::all(), None, 10).await.unwrap();
    assert_eq!(listed[0].error, "rejected: na\u{ef}ve");
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_divides_no_batch() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Interrupted, ErrorKind::Timeout, ErrorKind::Permission] {
        let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
        let relay = relay(&store, &publisher, settings());
        let delay = Duration::from_millis(50);
        publisher.pause();
        enqueue(&store, 0..1_000);
        publisher.wait_for_calls(2).await;
        for operation in [Operation::Settle, Operation::Fetch, Operation::Heartbeat, Operation::Stats] {
            store.faults().delay(operation, delay);
            store.faults().fail_next(operation, u64::MAX, kind);
        }
        store.faults().fail_next(Operation::SetIdle, u64::MAX, kind);
        store.faults().fail_next(Operation::Repair, u64::MAX, kind);
        // What began before has been answered.
        tokio::time::sleep(Duration::from_millis(100)).await;
        publisher.resume();
        let before = store.faults().calls(Operation::Settle);
        tokio::time::sleep(Duration::from_secs(15)).await;
        let calls = store.faults().calls(Operation::Settle) - before;
        assert!((3..=15).contains(&calls), "{kind}: {calls} calls in 15 seconds");
        store.faults().clear();
        let settles = store.faults().calls(Operation::Settle);
        drained(&store).await;
        let calls = store.faults().calls(Operation::Settle) - settles;
        assert!(calls <= 4, "{kind}: {calls} calls after the outage");
        relay.shutdown().await.unwrap();
        assert_eq!(publisher.count(), 1_000, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_row_does_not_keep_its_partition_from_being_released() {
    let store = MemoryStore::new();
    let publishers = [MemoryPublisher::new(), MemoryPublisher::new()];
    let positions = enqueue(&store, 0..200);
    let all = positions.clone();
    // One row of each key.
    store.faults().refuse_settlements(move |settle| {
        all[100..120].contains(&settle.position).then_some(ErrorKind::Malformed)
    });
    let first = relay(&store, &publishers[0], settings());
    left(&store, &(100..200).collect::<Vec<_>>(), Duration::from_secs(60)).await;
    let second = relay(&store, &publishers[1], settings());
    let mut status = second.status();
    let owned = status.wait_for(|status| status.owned.len() == 8);
    tokio::time::timeout(Duration::from_secs(15), owned).await.expect("half of them are released").unwrap();
    store.faults().clear();
    drained(&store).await;
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
    for publisher in &publishers {
        assert_ordered(publisher);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_refused_row() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let positions = enqueue(&store, 0..40);
    refuse(&store, positions[7], ErrorKind::Malformed);
    let relay = relay(&store, &publisher, settings());
    left(&store, &[7, 27], Duration::from_secs(10)).await;
    let began = Instant::now();
    let error = relay.shutdown().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // The refused one, and the one behind it in its key.
    assert!(error.to_string().contains("outcomes not recorded: 2"), "{error}");
    left(&store, &[7, 27], Duration::ZERO).await;
}
