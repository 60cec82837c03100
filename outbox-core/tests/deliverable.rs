//! When nothing is left that a relay can deliver, under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore};
use outbox_core::relay::RetryPolicy;
use outbox_core::{DeadLetterFilter, Error, ErrorKind, Message, Store, StoreExt};
use support::*;

#[tokio::test(start_paused = true)]
async fn messages_behind_a_dead_letter_are_not_deliverable() {
    let store = MemoryStore::new();
    assert!(store.nothing_deliverable().await.unwrap(), "an empty outbox");
    let publisher = MemoryPublisher::builder()
        .script(|message, _| match number(message) {
            0 => Err(Error::new(ErrorKind::Rejected, "no")),
            _ => Ok(()),
        })
        .build();
    // More than are read at a time.
    for number in 0..1_200 {
        store.enqueue(&message(Some("a"), number));
    }
    assert!(!store.nothing_deliverable().await.unwrap(), "all of them");
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(2).initial(Duration::from_secs(60)).jitter(false);
    let relay = relay(&store, &publisher, settings);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!store.nothing_deliverable().await.unwrap(), "a message is retried");
    dead_letters(&store, 1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(store.stats(10_000).await.unwrap().backlog.value, 1_199);
    assert!(store.nothing_deliverable().await.unwrap(), "all wait behind the dead letter");

    let later = store.now().saturating_add(Duration::from_secs(60));
    store.enqueue(&Message::bytes("t", "1").key("b").deliver_at(later).build().unwrap());
    assert!(!store.nothing_deliverable().await.unwrap(), "a message is scheduled");
    publisher.wait_for(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(store.nothing_deliverable().await.unwrap());
    store.dead_letters().unwrap().discard(&DeadLetterFilter::all(), 1).await.unwrap();
    assert!(!store.nothing_deliverable().await.unwrap(), "the key goes on");
    drained(&store).await;
    relay.shutdown().await.unwrap();
}
