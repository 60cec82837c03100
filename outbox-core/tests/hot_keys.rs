//! Keys with a large backlog beside others, under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore};
use outbox_core::relay::{RelayHandle, RetryPolicy};
use outbox_core::{DeadLetterFilter, Error, ErrorKind, PublisherCapabilities, Store};
use support::*;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// One message of a key in flight at a time, and the time that each call takes.
fn publisher(delay: Duration) -> MemoryPublisher {
    MemoryPublisher::builder().capabilities(PublisherCapabilities::default()).delay(delay).build()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn enqueue_hot(store: &MemoryStore, keys: u64, messages: u64) {
    for number in 0..messages {
        for key in 0..keys {
            store.enqueue(&message(Some(&format!("hot-{key}")), number));
        }
    }
}

/// Enqueues a message every `interval` of one of 100 other keys. Returns when each was enqueued, by key and number.
async fn enqueue_others(
    store: &MemoryStore,
    relay: &RelayHandle,
    numbers: Range<u64>,
    interval: Duration,
) -> HashMap<(String, u64), Instant> {
    let mut enqueued = HashMap::new();
    for number in numbers {
        let key = format!("other-{}", number % 100);
        store.enqueue(&message(Some(&key), number));
        relay.waker().wake();
        enqueued.insert((key, number), Instant::now());
        sleep(interval).await;
    }
    enqueued
}

/// How long the others took, in order.
fn latencies(publisher: &MemoryPublisher, enqueued: &HashMap<(String, u64), Instant>) -> Vec<Duration> {
    let published = publisher.published();
    let mut latencies: Vec<Duration> = published
        .iter()
        .filter_map(|published| {
            let key = (published.message.key()?.to_owned(), number(&published.message));
            Some(published.at.duration_since(*enqueued.get(&key)?))
        })
        .collect();
    latencies.sort_unstable();
    latencies
}

fn middle(latencies: &[Duration]) -> Duration {
    latencies[latencies.len() / 2]
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_does_not_delay_other_keys() {
    let store = MemoryStore::new();
    let publisher = publisher(millis(5));
    enqueue_hot(&store, 1, 20_000);
    let relay = relay(&store, &publisher, settings());
    let enqueued = enqueue_others(&store, &relay, 0..2_000, millis(5)).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(relay.status().borrow().parked_keys, 1);
    relay.shutdown().await.unwrap();
    let latencies = latencies(&publisher, &enqueued);
    assert_eq!(latencies.len(), 2_000, "all of them were delivered, and once");
    assert!(middle(&latencies) < millis(20), "{:?}", middle(&latencies));
    assert!(latencies[1_999] < millis(1_000), "{:?}", latencies[1_999]);
    // In 11 s one message after the other. Most of the key still waits.
    let hot = publisher.payloads_of("hot-0").len();
    assert!((2_100..3_000).contains(&hot), "{hot}");
    assert_eq!(by_key(&publisher)["hot-0"], (0..hot as u64).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn many_hot_keys_do_not_delay_other_keys() {
    // More of them than would fit into the window with what the store releases of each at a time.
    let store = MemoryStore::new();
    let publisher = publisher(millis(20));
    enqueue_hot(&store, 60, 500);
    let relay = relay(&store, &publisher, settings());
    let enqueued = enqueue_others(&store, &relay, 0..1_000, millis(5)).await;
    let parked = relay.status().borrow().parked_keys;
    drained(&store).await;
    relay.shutdown().await.unwrap();
    let latencies = latencies(&publisher, &enqueued);
    assert_eq!(parked, 60);
    assert!(middle(&latencies) < millis(200), "{:?}", middle(&latencies));
    assert!(latencies[999] < millis(2_000), "{:?}", latencies[999]);
    assert_ordered(&publisher);
    assert_eq!(publisher.count(), 31_000);
}

#[tokio::test(start_paused = true)]
async fn a_small_window_has_room_for_other_keys() {
    for max_in_flight in [10, 100] {
        let store = MemoryStore::new();
        let publisher = publisher(millis(5));
        enqueue_hot(&store, 1, 3_000);
        let mut settings = settings();
        settings.max_in_flight = max_in_flight;
        let relay = relay(&store, &publisher, settings);
        let enqueued = enqueue_others(&store, &relay, 0..500, millis(25)).await;
        drained(&store).await;
        relay.shutdown().await.unwrap();
        let latencies = latencies(&publisher, &enqueued);
        assert!(middle(&latencies) < millis(200), "{max_in_flight}: {:?}", middle(&latencies));
        assert!(latencies[499] < millis(2_000), "{max_in_flight}: {:?}", latencies[499]);
        assert_ordered(&publisher);
        assert_eq!(publisher.count(), 3_500, "{max_in_flight}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_with_large_messages_does_not_delay_other_keys() {
    let store = MemoryStore::new();
    let publisher = publisher(millis(5));
    let mut settings = settings();
    settings.max_bytes_in_flight = 2_000;
    enqueue_hot(&store, 1, 3_000);
    let relay = relay(&store, &publisher, settings);
    let enqueued = enqueue_others(&store, &relay, 0..500, millis(25)).await;
    drained(&store).await;
    relay.shutdown().await.unwrap();
    let latencies = latencies(&publisher, &enqueued);
    assert!(middle(&latencies) < millis(200), "{:?}", middle(&latencies));
    assert_ordered(&publisher);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_dies_leaves_parked_messages_to_the_next_one() {
    let store = MemoryStore::new();
    let publisher = publisher(millis(5));
    enqueue_hot(&store, 2, 6_000);
    let first = relay(&store, &publisher, settings());
    let enqueued = enqueue_others(&store, &first, 0..200, millis(5)).await;
    assert_eq!(first.status().borrow().parked_keys, 2);
    drop(first);
    let published = publisher.count();
    let second = relay(&store, &publisher, settings());
    let more = enqueue_others(&store, &second, 200..2_700, millis(10)).await;
    drained(&store).await;
    second.shutdown().await.unwrap();
    assert_eq!(latencies(&publisher, &enqueued).len(), 200);
    // The lease of the first relay has to end first.
    let latencies = latencies(&publisher, &more);
    assert!(middle(&latencies) < millis(100), "{:?}", middle(&latencies));
    assert!(published < 1_000);
    assert_ordered(&publisher);
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_waits_for_its_failed_message_and_goes_on_afterwards() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder()
        .capabilities(PublisherCapabilities::default())
        .delay(millis(5))
        .script(|message, attempt| {
            // In the window when the key is parked, the last one that is kept, held, and released.
            let fails = [100, 250, 2_000, 4_000].contains(&number(message)) && attempt < 3;
            if fails { Err(Error::new(ErrorKind::Rejected, "no")) } else { Ok(()) }
        })
        .build();
    enqueue_hot(&store, 1, 6_000);
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(10).initial(millis(200)).jitter(false);
    let relay = relay(&store, &publisher, settings);
    let enqueued = enqueue_others(&store, &relay, 0..1_000, millis(20)).await;
    drained(&store).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(relay.status().borrow().parked_keys, 0, "nothing of the key is left");
    relay.shutdown().await.unwrap();
    let latencies = latencies(&publisher, &enqueued);
    assert!(middle(&latencies) < millis(50), "{:?}", middle(&latencies));
    assert_ordered(&publisher);
    assert_eq!(publisher.count(), 7_000);
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_waits_for_its_dead_letter() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder()
        .capabilities(PublisherCapabilities::default())
        .delay(millis(5))
        .script(|message, attempt| match (number(message), attempt) {
            (1_000, 1) => Err(Error::new(ErrorKind::TooLarge, "no")),
            _ => Ok(()),
        })
        .build();
    enqueue_hot(&store, 1, 6_000);
    let relay = relay(&store, &publisher, settings());
    dead_letters(&store, 1).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(publisher.payloads_of("hot-0").len(), 1_000);
    assert_eq!(relay.status().borrow().parked_keys, 0, "it waits for a person");
    let letters = store.dead_letters().unwrap();
    letters.redrive(&DeadLetterFilter::all(), 10).await.unwrap();
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_ordered(&publisher);
    assert_eq!(publisher.count(), 6_000);
}

/// The most keys that are parked at a time, until the relay ends.
fn most_parked(relay: &RelayHandle) -> JoinHandle<usize> {
    let mut status = relay.status();
    tokio::spawn(async move {
        let mut most = 0;
        while status.changed().await.is_ok() {
            most = most.max(status.borrow().parked_keys);
        }
        most
    })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_parked_while_a_key_passes_quickly_or_the_broker_is_down() {
    let store = MemoryStore::new();
    enqueue_hot(&store, 1, 20_000);
    // In calls of several hundred messages, as brokers take them that keep their order.
    let publisher = MemoryPublisher::builder().delay(millis(20)).build();
    let relay = relay(&store, &publisher, settings());
    let most_parked = most_parked(&relay);
    publisher.wait_for(3_000).await;
    publisher.down();
    sleep(Duration::from_secs(30)).await;
    publisher.up();
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_ordered(&publisher);
    assert_eq!(most_parked.await.unwrap(), 0);
}
