//! Relays among each other: sharing, taking over, losing a lease, and leaving in good order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore};
use outbox_core::{ErrorKind, PublisherCapabilities, RelayId, Store};
use support::*;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn relays_share_take_over_and_keep_order() {
    let store = MemoryStore::new();
    let publishers: Vec<MemoryPublisher> = (0..3).map(|_| MemoryPublisher::new()).collect();
    let mut handles: Vec<_> =
        publishers.iter().map(|publisher| relay(&store, publisher, settings())).collect();
    for handle in &handles {
        handle
            .status()
            .wait_for(|status| status.relays == 3 && (5..=6).contains(&status.owned.len()))
            .await
            .unwrap();
    }
    for number in 0..300 {
        store.enqueue(&message(Some(&format!("key-{}", number % 30)), number));
    }
    drained(&store).await;
    assert!(publishers.iter().all(|publisher| publisher.count() > 0), "each relay did a part");

    // One dies without a word, another leaves in good order.
    handles.remove(0).abort().await;
    for number in 300..600 {
        store.enqueue(&message(Some(&format!("key-{}", number % 30)), number));
    }
    let died = Instant::now();
    drained(&store).await;
    assert!(died.elapsed() <= Duration::from_secs(25), "taken over after {:?}", died.elapsed());

    handles.remove(0).shutdown().await.unwrap();
    for number in 600..900 {
        store.enqueue(&message(Some(&format!("key-{}", number % 30)), number));
    }
    let left = Instant::now();
    drained(&store).await;
    assert!(left.elapsed() <= Duration::from_secs(3), "taken over after {:?}", left.elapsed());
    let last = handles.remove(0);
    assert_eq!(last.status().borrow().owned.len(), 16);
    last.shutdown().await.unwrap();
    for publisher in &publishers {
        assert_ordered(publisher);
    }
    assert_eq!(publishers.iter().map(MemoryPublisher::count).sum::<u64>(), 900);
}

#[tokio::test(start_paused = true)]
async fn a_relay_cut_off_from_the_store_stops_publishing_before_its_lease_ends() {
    let store = MemoryStore::builder().wakeups(false).build().unwrap();
    let publisher = MemoryPublisher::builder()
        .capabilities(PublisherCapabilities::default())
        .delay(Duration::from_secs(1))
        .build();
    for number in 0..100 {
        store.enqueue(&message(Some("a"), number));
    }
    let settings = settings();
    let ttl = settings.lease_ttl;
    let relay = relay(&store, &publisher, settings);
    publisher.wait_for(3).await;
    store.faults().down();
    let cut = Instant::now();
    tokio::time::sleep(ttl * 3).await;
    let last = publisher.published().last().unwrap().at;
    assert!(last.duration_since(cut) < ttl, "published {:?} after the cut", last.duration_since(cut));

    store.faults().up();
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_ordered(&publisher);
    assert_eq!(by_key(&publisher)["a"].len(), 100);
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_is_in_flight_and_frees_the_leases() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder().delay(Duration::from_secs(2)).build();
    for number in 0..2_000 {
        store.enqueue(&message(None, number));
    }
    let relay = relay(&store, &publisher, settings());
    publisher.wait_for_calls(4).await;
    relay.shutdown().await.unwrap();
    assert_eq!(publisher.count(), 40, "four calls of 10 were in flight");
    assert_eq!(store.stats(10_000).await.unwrap().backlog.value, 1_960);
    let next = store.heartbeat(RelayId::new(), Duration::from_secs(1)).await.unwrap();
    assert_eq!((next.owned.len(), next.relays), (16, 1));
}

#[tokio::test(start_paused = true)]
async fn shutdown_gives_up_at_its_deadline_and_says_so() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    publisher.pause();
    store.enqueue(&message(None, 1));
    let mut settings = settings();
    settings.shutdown_timeout = Duration::from_secs(3);
    let relay = relay(&store, &publisher, settings);
    publisher.wait_for_calls(1).await;
    let error = relay.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("publish calls abandoned: 1"), "{error}");
    assert_eq!(store.stats(10).await.unwrap().backlog.value, 1, "nothing was lost");
}
