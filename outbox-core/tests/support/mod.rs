//! What the relay's tests share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

use std::collections::HashMap;
use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore};
use outbox_core::relay::{Relay, RelayHandle, Settings};
use outbox_core::{Message, Store, StoreExt};

/// Settings with a fixed seed, so that a failing test repeats.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.seed = Some(7);
    settings
}

pub fn relay(store: &MemoryStore, publisher: &MemoryPublisher, settings: Settings) -> RelayHandle {
    Relay::builder(store.clone(), publisher.clone())
        .settings(settings)
        .build()
        .expect("valid settings")
        .spawn()
}

/// A message of a key, numbered within it.
pub fn message(key: Option<&str>, number: u64) -> Message {
    let mut builder = Message::bytes("topic", number.to_string());
    if let Some(key) = key {
        builder = builder.key(key);
    }
    builder.build().expect("a valid message")
}

pub fn number(message: &Message) -> u64 {
    std::str::from_utf8(message.payload()).expect("text").parse().expect("a number")
}

/// Waits for an empty outbox; time is paused, so the limit costs nothing.
pub async fn drained(store: &MemoryStore) {
    tokio::time::timeout(Duration::from_secs(3_600), store.drained(Duration::from_millis(10)))
        .await
        .expect("the outbox drains within an hour of paused time")
        .expect("the memory store answers");
}

/// Waits for a condition on the store's dead letters.
pub async fn dead_letters(store: &MemoryStore, count: u64) {
    let wait = async {
        while store.stats(1_000).await.expect("stats").dead_letters.value != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), wait)
        .await
        .expect("so many dead letters within an hour");
}

/// The numbers published for each key, in order, with immediate and later repeats of a number taken out.
pub fn by_key(publisher: &MemoryPublisher) -> HashMap<String, Vec<u64>> {
    let mut keys: HashMap<String, Vec<u64>> = HashMap::new();
    for published in publisher.published() {
        let Some(key) = published.message.key() else { continue };
        let numbers = keys.entry(key.to_owned()).or_default();
        let number = number(&published.message);
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    keys
}

/// Asserts that each key's first appearances came in order.
pub fn assert_ordered(publisher: &MemoryPublisher) {
    for (key, numbers) in by_key(publisher) {
        assert!(numbers.is_sorted(), "key {key} came as {numbers:?}");
    }
}
