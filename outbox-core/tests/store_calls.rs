//! The relay's calls to the store when they fail, hang or are answered late, under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore, Operation};
use outbox_core::relay::{KeyOrder, RelayHandle, RetryPolicy};
use outbox_core::{Error, ErrorKind, Event, Received, Store};
use support::*;
use tokio::time::Instant;

/// A delay after which no test waits any more.
const NEVER: Duration = Duration::from_secs(1_000_000);

async fn calls(store: &MemoryStore, operation: Operation, more: u64) {
    let wanted = store.faults().calls(operation) + more;
    let wait = async {
        while store.faults().calls(operation) < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), wait).await.expect("the relay makes the call");
}

async fn owns(relay: &RelayHandle, partitions: usize) {
    let mut status = relay.status();
    let wait = status.wait_for(|status| status.owned.len() == partitions);
    tokio::time::timeout(Duration::from_secs(3_600), wait).await.expect("the relay owns them").unwrap();
}

#[tokio::test(start_paused = true)]
async fn pokes_do_not_cancel_the_pause_after_a_failed_fetch() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let relay = relay(&store, &publisher, settings());
    owns(&relay, 16).await;
    store.faults().fail_next(Operation::Fetch, u64::MAX, ErrorKind::Unavailable);
    calls(&store, Operation::Fetch, 1).await;
    let before = store.faults().calls(Operation::Fetch);
    for _ in 0..10_000 {
        relay.waker().wake();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let fetches = store.faults().calls(Operation::Fetch) - before;
    assert!(fetches <= 12, "{fetches} fetches in 10 seconds of an outage");

    store.faults().clear();
    store.enqueue(&message(None, 1));
    drained(&store).await;
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_release_that_hangs_costs_no_lease() {
    let store = MemoryStore::new();
    let publishers = [MemoryPublisher::new(), MemoryPublisher::new()];
    let first = relay(&store, &publishers[0], settings());
    owns(&first, 16).await;
    store.faults().delay(Operation::Release, NEVER);
    let second = relay(&store, &publishers[1], settings());
    owns(&first, 8).await;
    let mut status = first.status();
    let lost = status.wait_for(|status| status.owned.len() < 8);
    let lost = tokio::time::timeout(Duration::from_secs(200), lost).await;
    assert!(lost.is_err(), "{} partitions are left", first.status().borrow().owned.len());

    store.faults().clear();
    owns(&second, 8).await;
    for number in 0..100 {
        store.enqueue(&message(Some(&format!("key-{number}")), number));
    }
    drained(&store).await;
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
    assert_eq!(publishers.iter().map(MemoryPublisher::count).sum::<u64>(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_hangs_is_repeated_before_the_lease_ends() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let relay = relay(&store, &publisher, settings());
    owns(&relay, 16).await;
    store.faults().delay(Operation::Heartbeat, NEVER);
    calls(&store, Operation::Heartbeat, 1).await;
    store.faults().clear();
    let mut status = relay.status();
    let lost =
        tokio::time::timeout(Duration::from_secs(200), status.wait_for(|status| status.owned.is_empty()));
    assert!(lost.await.is_err(), "the lease was lost because of one heartbeat");
    relay.shutdown().await.unwrap();
}

/// Waits until the store knows that the relay is idle, and checks that a commit wakes it.
async fn is_woken_by_a_commit(store: &MemoryStore, publisher: &MemoryPublisher) {
    let idle = async {
        while store.idle_relays().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), idle).await.expect("the relay says that it is idle");
    tokio::time::sleep(Duration::from_secs(10)).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(2_345)).await;
        let enqueued = Instant::now();
        let wanted = publisher.count() + 1;
        store.enqueue(&message(None, 1));
        publisher.wait_for(wanted).await;
        assert_eq!(enqueued.elapsed(), Duration::ZERO, "found by polling");
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_lost_its_lease_is_woken_again() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let relay = relay(&store, &publisher, settings());
    is_woken_by_a_commit(&store, &publisher).await;
    store.faults().down();
    owns(&relay, 0).await;
    store.faults().up();
    owns(&relay, 16).await;
    is_woken_by_a_commit(&store, &publisher).await;
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_membership_ended_without_its_knowledge_is_woken_again() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let relay = relay(&store, &publisher, settings());
    is_woken_by_a_commit(&store, &publisher).await;
    // As after a suspension that its own clock did not count.
    let id = store.idle_relays()[0];
    store.leave(id).await.unwrap();
    is_woken_by_a_commit(&store, &publisher).await;
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn repair_does_not_wait_for_purging_and_goes_on_while_it_finds_work() {
    const KEYS: u64 = 5_000;
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder()
        .script(|message, _| match number(message) {
            0 => Err(Error::new(ErrorKind::Rejected, "no")),
            _ => Ok(()),
        })
        .build();
    let mut settings = settings();
    settings.key_order = KeyOrder::Strict;
    settings.retry = RetryPolicy::default().max_attempts(1);
    settings.retention = Some(Duration::from_secs(1));
    let mut blocking = Vec::new();
    for key in 0..KEYS {
        let first = message(Some(&format!("key-{key}")), 0);
        blocking.push(first.id());
        store.enqueue(&first);
        store.enqueue(&message(Some(&format!("key-{key}")), 1));
    }
    for number in 1..10_000 {
        store.enqueue(&message(None, number));
    }
    let relay = relay(&store, &publisher, settings);
    while store.stats(100_000).await.unwrap().dead_letters.value < KEYS {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    publisher.wait_for(9_999).await;
    // Purging what was delivered takes 10 calls of 25 seconds each.
    store.faults().delay(Operation::Purge, Duration::from_secs(25));
    calls(&store, Operation::Purge, 2).await;
    for id in blocking {
        assert!(store.delete_by_hand(id));
    }
    let deleted = Instant::now();
    publisher.wait_for(9_999 + KEYS).await;
    // The next repair is due within 30 seconds.
    assert!(deleted.elapsed() < Duration::from_secs(35), "repaired after {:?}", deleted.elapsed());
    drained(&store).await;
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_reported_when_it_begins_and_when_it_ends() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let relay = relay(&store, &publisher, settings());
    owns(&relay, 16).await;
    let mut events = relay.events();
    for outage in [Duration::from_secs(5), Duration::from_secs(120)] {
        store.faults().down();
        store.enqueue(&message(None, 1));
        tokio::time::sleep(outage).await;
        store.faults().up();
        drained(&store).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    relay.shutdown().await.unwrap();
    let mut reported = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Received::Event(Event::StoreFailed { .. }) => reported.push(None),
            Received::Event(Event::StoreRecovered { outage, failed }) => {
                assert!(
                    failed.iter().any(|(operation, calls)| *operation == "fetch" && *calls > 1),
                    "{failed:?}"
                );
                reported.push(Some(outage.as_secs()));
            }
            _ => {}
        }
    }
    let [None, Some(first), None, Some(second)] = reported[..] else { panic!("{reported:?}") };
    assert!((4..12).contains(&first) && (119..130).contains(&second), "{reported:?}");
}
