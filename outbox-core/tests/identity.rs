//! The relay on a store that loses its latest commits and assigns their positions again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore};
use outbox_core::{DeadLetterFilter, DeadLetters, Error, ErrorKind, Message, Store};
use support::*;

/// Waits until this many calls are under way. Time is paused, so the limit costs nothing.
async fn running(publisher: &MemoryPublisher, calls: usize) {
    let wait = async {
        while publisher.running() < calls {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the calls begin");
}

fn published(publisher: &MemoryPublisher) -> BTreeSet<u64> {
    publisher.published().iter().map(|published| number(&published.message)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_confirm_does_not_delete_the_message_that_has_the_position_by_then() {
    for (first, second) in [(Some("k"), Some("k")), (Some("k"), Some("l")), (None, None)] {
        for keep in [false, true] {
            let store = MemoryStore::builder().partitions(1).build().unwrap();
            let publisher = MemoryPublisher::new();
            publisher.pause();
            let mut settings = settings();
            settings.retention = keep.then_some(Duration::from_secs(3_600));
            let relay = relay(&store, &publisher, settings);
            let position = store.enqueue(&message(first, 1));
            running(&publisher, 1).await;
            store.lose_from(position);
            assert_eq!(store.enqueue(&message(second, 2)), position, "the position is assigned again");
            publisher.resume();
            drained(&store).await;
            relay.shutdown().await.unwrap();
            assert_eq!(published(&publisher), BTreeSet::from([1, 2]), "keys {first:?} and {second:?}");
            // The one that was lost cannot be kept.
            assert_eq!(store.kept_delivered().len(), usize::from(keep));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_recorded_for_the_message_that_has_the_position_by_then() {
    for kind in [ErrorKind::Rejected, ErrorKind::Malformed] {
        let store = MemoryStore::builder().partitions(1).build().unwrap();
        let publisher = MemoryPublisher::builder()
            .script(move |message, _| if number(message) == 1 { Err(Error::new(kind, "no")) } else { Ok(()) })
            .build();
        publisher.pause();
        let relay = relay(&store, &publisher, settings());
        let position = store.enqueue(&message(Some("k"), 1));
        running(&publisher, 1).await;
        store.lose_from(position);
        assert_eq!(store.enqueue(&message(Some("k"), 2)), position);
        publisher.resume();
        drained(&store).await;
        relay.shutdown().await.unwrap();
        assert!(published(&publisher).contains(&2), "{kind:?}");
        assert_eq!(store.stats(10).await.unwrap().dead_letters.value, 0, "the lost message is nowhere");
    }
}

#[tokio::test(start_paused = true)]
async fn two_dead_letters_of_one_position_are_both_delivered_after_a_redrive() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder()
        .script(|_, attempt| if attempt == 1 { Err(Error::new(ErrorKind::Malformed, "no")) } else { Ok(()) })
        .build();
    let relay = relay(&store, &publisher, settings());
    let enqueue = |message: &Message| store.enqueue(message);
    let position = enqueue(&message(Some("k"), 1));
    dead_letters(&store, 1).await;
    store.lose_from(position);
    assert_eq!(enqueue(&message(Some("k"), 2)), position);
    dead_letters(&store, 2).await;
    assert_eq!(store.redrive(&DeadLetterFilter::all(), 10).await.unwrap(), 2);
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_eq!(by_key(&publisher)["k"], [1, 2], "in the order of their enqueueing");
}
