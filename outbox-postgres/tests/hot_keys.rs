//! A key with a large backlog beside others, on a real server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::time::Duration;

use outbox_core::memory::MemoryPublisher;
use outbox_core::relay::Relay;
use outbox_core::{Message, PublisherCapabilities};
use tokio::time::{Instant, sleep};

use support::{DEADLINE, Scene, message};

const HOT: usize = 12_000;
const OTHERS: usize = 300;

/// The numbers of a key's messages, in the order in which they were published.
fn published(publisher: &MemoryPublisher, key: &str) -> Vec<usize> {
    let payloads = publisher.payloads_of(key);
    payloads.iter().map(|payload| std::str::from_utf8(payload).unwrap().parse().unwrap()).collect()
}

fn numbered(key: &str, count: usize) -> Vec<Message> {
    (0..count).map(|number| message(&number.to_string(), Some(key))).collect()
}

/// A call takes 40 milliseconds at least, so that the backlog of the key takes 8 minutes at least on any machine.
#[tokio::test(flavor = "multi_thread")]
async fn other_keys_do_not_wait_for_a_hot_key_nor_does_it_lose_its_order() {
    let Some(scene) = Scene::new().await else { return };
    scene.outbox.enqueue_batch(&scene.pool, &numbered("hot", HOT)).await.unwrap();
    let others: Vec<String> = (0..OTHERS).map(|number| format!("other {number}")).collect();
    for key in &others {
        scene.outbox.enqueue(&scene.pool, &message("0", Some(key))).await.unwrap();
    }
    let publisher = MemoryPublisher::builder()
        .capabilities(PublisherCapabilities::default())
        .delay(Duration::from_millis(40))
        .build();
    let build = || Relay::builder(scene.store(), publisher.clone()).build().unwrap();

    let relay = build().spawn();
    let began = Instant::now();
    while others.iter().any(|key| published(&publisher, key).is_empty()) {
        assert!(began.elapsed() < DEADLINE, "messages of other keys are still waiting");
        sleep(Duration::from_millis(50)).await;
    }
    let hot = published(&publisher, "hot").len();
    assert!(hot < HOT / 2, "{hot} messages of the hot key came first");
    assert_eq!(relay.status().borrow().parked_keys, 1);
    // Another relay finds the key as it is parked, whatever the first one was doing.
    relay.abort().await;
    scene.run("UPDATE outbox_lease SET expires_at = now() - interval '1 second'").await;

    // Enough to come to the messages that were held: these are released in portions.
    let most = "SELECT coalesce(min(position), 0) FROM outbox_message WHERE available_at = 'infinity'";
    let first_held: i64 = scene.value(most).await;
    let relay = build().spawn();
    let began = Instant::now();
    while scene.value::<i64>(most).await <= first_held {
        assert!(began.elapsed() < DEADLINE, "no held message was released");
        sleep(Duration::from_millis(50)).await;
    }
    let hot = published(&publisher, "hot").len();
    while published(&publisher, "hot").len() < hot + 100 {
        assert!(began.elapsed() < DEADLINE, "the hot key does not go on");
        sleep(Duration::from_millis(50)).await;
    }
    relay.shutdown().await.unwrap();
    let mut first_copies = published(&publisher, "hot");
    let mut seen = std::collections::BTreeSet::new();
    first_copies.retain(|number| seen.insert(*number));
    let expected: Vec<usize> = (0..first_copies.len()).collect();
    assert_eq!(first_copies, expected);
}
