//! A store that does not answer, under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore, Operation};
use outbox_core::{ErrorKind, Event, Received};
use support::*;
use tokio::time::Instant;

/// Whatever is not answered within any time.
const NEVER: Duration = Duration::from_secs(1_000_000);

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_is_given_up_and_repeated() {
    let hangs: [(Operation, &str); 6] = [
        (Operation::Fetch, "fetch"),
        (Operation::Settle, "settle"),
        (Operation::Repair, "repair"),
        (Operation::Purge, "purge"),
        (Operation::Stats, "stats"),
        (Operation::Heartbeat, "heartbeat"),
    ];
    for (hanging, told) in hangs {
        let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
        let mut settings = settings();
        settings.store_timeout = Duration::from_secs(7);
        settings.purge_interval = Duration::from_secs(5);
        settings.retention = Some(Duration::from_secs(1));
        settings.stats_interval = Some(Duration::from_secs(5));
        let relay = relay(&store, &publisher, settings);
        let mut events = relay.events();
        store.enqueue(&message(Some("a"), 0));
        drained(&store).await;

        store.faults().delay(hanging, NEVER);
        store.enqueue(&message(Some("a"), 1));
        let began = Instant::now();
        loop {
            let received = events.recv().await.expect("the relay runs");
            let (operation, error) = match received {
                Received::Event(Event::StoreFailed { operation, error }) => (operation, error),
                // Other calls are answered, so that it may be the row.
                Received::Event(Event::SettleRefused { error, .. }) => ("settle", error),
                _ => continue,
            };
            assert_eq!(operation, told, "{error}");
            assert!(error.contains("did not answer"), "{error}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{hanging}: {:?}", began.elapsed());
        store.faults().delay(hanging, Duration::ZERO);
        drained(&store).await;
        relay.shutdown().await.unwrap();
        assert_ordered(&publisher);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_store_that_never_answers() {
    let (store, publisher) = (MemoryStore::new(), MemoryPublisher::new());
    let mut settings = settings();
    settings.shutdown_timeout = Duration::from_secs(20);
    let relay = relay(&store, &publisher, settings);
    store.faults().delay(Operation::Settle, NEVER);
    store.faults().delay(Operation::Leave, NEVER);
    store.enqueue(&message(None, 1));
    publisher.wait_for(1).await;
    let began = Instant::now();
    let error = relay.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
