//! The relay on the memory store with a scripted publisher, under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore, Operation};
use outbox_core::relay::{KeyOrder, Relay, RetryPolicy, Settings};
use outbox_core::{
    DeadLetterFilter, Error, ErrorKind, Event, Message, Outcome, Publisher, PublisherCapabilities, Received,
    Scope, Store,
};
use support::*;
use tokio::time::Instant;

fn rejected() -> Outcome {
    Err(Error::new(ErrorKind::Rejected, "no"))
}

/// One message of a key in flight at a time, as most brokers need it.
fn one_by_one() -> PublisherCapabilities {
    PublisherCapabilities::default()
}

#[tokio::test(start_paused = true)]
async fn everything_is_delivered_once_and_in_order_per_key() {
    for ordered in [true, false] {
        let store = MemoryStore::new();
        let publisher =
            MemoryPublisher::builder().capabilities(one_by_one().ordered_batches(ordered)).build();
        for number in 0..2_000 {
            store.enqueue(&message(Some(&format!("key-{}", number % 50)), number));
            store.enqueue(&message(None, number));
        }
        let relay = relay(&store, &publisher, settings());
        drained(&store).await;
        relay.shutdown().await.unwrap();
        assert_eq!(publisher.count(), 4_000);
        assert_ordered(&publisher);
        assert_eq!(publisher.closed(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_holds_back_only_its_key_until_it_is_redriven() {
    let store = MemoryStore::new();
    let cured = Arc::new(AtomicU64::new(0));
    let is_cured = cured.clone();
    let publisher = MemoryPublisher::builder()
        .script(move |message, _| {
            let fails =
                message.key() == Some("bad") && number(message) == 1 && is_cured.load(Ordering::Relaxed) == 0;
            if fails { rejected() } else { Ok(()) }
        })
        .build();
    for number in 0..600 {
        store.enqueue(&message(Some("bad"), number));
        store.enqueue(&message(Some("good"), number));
    }
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(4).initial(Duration::from_secs(1)).jitter(false);
    let relay = relay(&store, &publisher, settings);
    let mut events = relay.events();

    dead_letters(&store, 1).await;
    let keys = by_key(&publisher);
    assert_eq!(keys["good"].len(), 600);
    assert_eq!(keys["bad"], [0], "nothing behind the dead letter was published");

    let mut waits = Vec::new();
    let dead = loop {
        match events.recv().await.unwrap() {
            Received::Event(Event::Retrying { delivery, after }) => {
                waits.push((delivery.attempts, after.as_secs()))
            }
            Received::Event(Event::DeadLettered(delivery)) => break delivery,
            _ => {}
        }
    };
    assert_eq!(waits, [(1, 1), (2, 2), (3, 4)]);
    assert_eq!(dead.attempts, 4);
    assert_eq!(dead.error.as_deref(), Some("rejected: no"));

    let letters = store.dead_letters().unwrap();
    let listed = letters.list(&DeadLetterFilter::all(), None, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].attempts, listed[0].error.as_str()), (1, 4, "rejected: no"));

    cured.store(1, Ordering::Relaxed);
    assert_eq!(letters.redrive(&DeadLetterFilter::all(), 10).await.unwrap(), 1);
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_eq!(by_key(&publisher)["bad"], (0..600).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn progress_can_be_preferred_to_order() {
    for (key_order, behind_retry, behind_dead) in [
        (KeyOrder::Strict, false, false),
        (KeyOrder::SkipDead, false, true),
        (KeyOrder::Progress, true, true),
    ] {
        let store = MemoryStore::new();
        let publisher = MemoryPublisher::builder()
            .script(|message, _| if number(message) == 0 { rejected() } else { Ok(()) })
            .build();
        for number in 0..5 {
            store.enqueue(&message(Some("a"), number));
        }
        let mut settings = settings();
        settings.key_order = key_order;
        settings.retry =
            RetryPolicy::default().max_attempts(2).initial(Duration::from_secs(60)).jitter(false);
        let relay = relay(&store, &publisher, settings);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(publisher.count() == 4, behind_retry, "{key_order:?} while it is retried");
        dead_letters(&store, 1).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(publisher.count() == 4, behind_dead, "{key_order:?} after it died");
        relay.shutdown().await.unwrap();
        assert_ordered(&publisher);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_down_costs_no_attempts() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    publisher.down();
    for number in 0..100 {
        store.enqueue(&message(Some(&format!("key-{}", number % 7)), number));
    }
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(1);
    let relay = relay(&store, &publisher, settings);
    let mut events = relay.events();
    let mut status = relay.status();
    status.wait_for(|status| status.circuit_open).await.unwrap();

    tokio::time::sleep(Duration::from_secs(60)).await;
    let calls = publisher.calls();
    assert!(calls < 20, "{calls} calls to a broker that was down for a minute");
    let stats = store.stats(1_000).await.unwrap();
    assert_eq!((stats.backlog.value, stats.dead_letters.value), (100, 0));

    publisher.up();
    drained(&store).await;
    status.wait_for(|status| !status.circuit_open).await.unwrap();
    relay.shutdown().await.unwrap();
    assert_eq!(publisher.count(), 100);
    assert_ordered(&publisher);

    let (mut opened, mut closed) = (0, 0);
    while let Some(event) = events.recv().await {
        match event {
            Received::Event(Event::CircuitOpened { .. }) => opened += 1,
            Received::Event(Event::CircuitClosed) => closed += 1,
            Received::Event(Event::Delivered(delivery)) => assert_eq!(delivery.attempts, 1),
            Received::Event(Event::Retrying { .. } | Event::DeadLettered(_)) => {
                panic!("an attempt was counted")
            }
            _ => {}
        }
    }
    assert!(opened >= 1 && closed == 1, "{opened} opened, {closed} closed");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_throttled_by_itself_waits_and_costs_no_attempt() {
    let store = MemoryStore::new();
    // As a shard that is busy for a while: its messages have to wait, others do not.
    let begun = Instant::now();
    let busy = move || begun.elapsed() < Duration::from_secs(120);
    let publisher = MemoryPublisher::builder()
        .script(move |message, _| {
            if message.key() == Some("busy") && busy() {
                let error = Error::new(ErrorKind::Throttled, "the shard is busy").with_scope(Scope::Message);
                return Err(error.with_retry_after(Duration::from_secs(1)));
            }
            Ok(())
        })
        .build();
    for number in 0..20 {
        store.enqueue(&message(Some("busy"), number));
        store.enqueue(&message(Some("free"), number));
    }
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(2).initial(Duration::from_secs(1)).jitter(false);
    let relay = relay(&store, &publisher, settings);
    let mut events = relay.events();
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert!(!busy(), "it was not throttled");
    assert_eq!(store.stats(10).await.unwrap().dead_letters.value, 0);
    assert_eq!(publisher.count(), 40);
    assert_ordered(&publisher);
    while let Some(event) = events.recv().await {
        match event {
            Received::Event(Event::Delivered(delivery)) => assert_eq!(delivery.attempts, 1),
            Received::Event(Event::Retrying { delivery, .. }) => assert_eq!(delivery.attempts, 0),
            Received::Event(Event::CircuitOpened { .. }) => panic!("one key has stopped all"),
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_the_connection_ends_alone_in_the_dead_letters() {
    let store = MemoryStore::new();
    let breaking = message(None, 13);
    let id = breaking.id();
    // The whole call fails with it, as when a broker closes the connection.
    let publisher = Breaking { id, inner: MemoryPublisher::new() };
    let inner = publisher.inner.clone();
    for number in 0..200 {
        store.enqueue(&message(Some(&format!("key-{}", number % 20)), number));
        if number == 100 {
            store.enqueue(&breaking);
        }
    }
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(2);
    let relay = Relay::builder(store.clone(), publisher).settings(settings).build().unwrap().spawn();
    // Whether the broker or the message is at fault shows only while others get through.
    let traffic = async {
        for number in 200.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            store.enqueue(&message(None, number));
        }
    };
    tokio::select! {
        () = dead_letters(&store, 1) => {}
        () = traffic => {}
    }
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert!(inner.count() >= 200);
    let listed = store.dead_letters().unwrap().list(&DeadLetterFilter::all(), None, 10).await.unwrap();
    assert_eq!(listed[0].id, Some(id));
    assert_ordered(&inner);
}

struct Breaking {
    id: outbox_core::MessageId,
    inner: MemoryPublisher,
}

#[async_trait::async_trait]
impl Publisher for Breaking {
    fn name(&self) -> &'static str {
        "breaking"
    }
    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }
    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        if batch.iter().any(|message| message.id() == self.id) {
            return outbox_core::fail_all(batch, || Error::new(ErrorKind::Interrupted, "connection closed"));
        }
        self.inner.publish(batch).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_makes_a_duplicate_and_nothing_worse() {
    let store = MemoryStore::new();
    let publisher =
        MemoryPublisher::builder().confirm_if(|message, attempt| number(message) != 3 || attempt > 1).build();
    for number in 0..10 {
        store.enqueue(&message(Some("a"), number));
    }
    let relay = relay(&store, &publisher, settings());
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_ordered(&publisher);
    let repeated = publisher.published().iter().filter(|published| published.attempt > 1).count();
    assert!((1..=10).contains(&repeated), "{repeated} repeats, at most the window of the lost confirm");
    assert_eq!(by_key(&publisher)["a"].len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_given_up_and_repeated() {
    let store = MemoryStore::new();
    let calls = AtomicU64::new(0);
    let publisher = MemoryPublisher::builder()
        .delay_with(move |_| {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                Duration::from_secs(3_600)
            } else {
                Duration::ZERO
            }
        })
        .build();
    store.enqueue(&message(Some("a"), 1));
    let started = Instant::now();
    let relay = relay(&store, &publisher, settings());
    drained(&store).await;
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    relay.shutdown().await.unwrap();
    assert_eq!(publisher.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_publisher_is_contained() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder()
        .script(|message, attempt| {
            assert!(number(message) != 5 || attempt > 1, "a bug in the publisher");
            Ok(())
        })
        .build();
    for number in 0..10 {
        store.enqueue(&message(None, number));
    }
    let relay = relay(&store, &publisher, settings());
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert!(publisher.count() >= 10);
}

#[tokio::test(start_paused = true)]
async fn failed_and_unanswered_settles_are_repeated() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    store.faults().fail_next(Operation::Settle, 2, ErrorKind::Unavailable);
    store.faults().lose_answers(Operation::Fetch, 1);
    for number in 0..100 {
        store.enqueue(&message(Some("a"), number));
    }
    let relay = relay(&store, &publisher, settings());
    drained(&store).await;
    store.faults().lose_answers(Operation::Settle, 2);
    for number in 100..200 {
        store.enqueue(&message(Some("a"), number));
    }
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_eq!(publisher.count(), 200, "a repeated settle publishes nothing again");
    assert_ordered(&publisher);
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_is_told_what_it_missed_and_delays_nobody() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    for number in 0..1_000 {
        store.enqueue(&message(None, number));
    }
    let mut settings = settings();
    settings.event_capacity = 10;
    let relay = relay(&store, &publisher, settings);
    let mut events = relay.events();
    drained(&store).await;
    relay.shutdown().await.unwrap();
    let Some(Received::Missed(missed)) = events.recv().await else { panic!("events were missed") };
    assert!(missed > 900, "{missed}");
    assert!(matches!(events.recv().await, Some(Received::Event(_))));
}

#[tokio::test(start_paused = true)]
async fn without_any_wake_up_a_message_is_found_within_the_poll_interval() {
    let store = MemoryStore::builder().wakeups(false).build().unwrap();
    let publisher = MemoryPublisher::new();
    let relay = relay(&store, &publisher, settings());
    tokio::time::sleep(Duration::from_secs(100)).await;
    let fetches = store.faults().calls(Operation::Fetch);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let calls = store.faults().calls(Operation::Fetch) - fetches;
    assert!((95..=105).contains(&calls), "{calls} fetches in 100 idle seconds");

    let enqueued = Instant::now();
    store.enqueue(&message(None, 1));
    publisher.wait_for(1).await;
    assert!(enqueued.elapsed() <= Duration::from_secs(1), "{:?}", enqueued.elapsed());

    tokio::time::sleep(Duration::from_secs(10)).await;
    let poked = Instant::now();
    store.enqueue(&message(None, 2));
    relay.waker().wake();
    publisher.wait_for(2).await;
    assert_eq!(poked.elapsed(), Duration::ZERO, "a poke from within the process needs no poll");
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_relay_says_so_and_is_woken_by_a_commit() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    let relay = relay(&store, &publisher, settings());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(store.idle_relays().len(), 1);
    let calls = store.faults().total_calls();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let per_second = (store.faults().total_calls() - calls) as f64 / 100.0;
    assert!(per_second < 2.0, "{per_second} calls a second while idle");

    let enqueued = Instant::now();
    store.enqueue(&message(None, 1));
    publisher.wait_for(1).await;
    assert_eq!(enqueued.elapsed(), Duration::ZERO);
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_by_the_window_and_not_by_the_backlog() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder().delay(Duration::from_millis(100)).build();
    for number in 0..5_000 {
        store.enqueue(&message(None, number));
    }
    let mut settings: Settings = settings();
    settings.max_in_flight = 100;
    settings.publish_batch = 10;
    settings.publish_concurrency = 3;
    let relay = relay(&store, &publisher, settings);
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert!(publisher.most_running() <= 3, "{}", publisher.most_running());
    assert_eq!(publisher.count(), 5_000);
}

#[tokio::test(start_paused = true)]
async fn late_commits_are_delivered_and_order_survives_them() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    let relay = relay(&store, &publisher, settings());
    let mut late = store.begin();
    late.enqueue(&message(Some("a"), 1));
    store.enqueue(&message(Some("b"), 2));
    publisher.wait_for(1).await;
    late.commit();
    store.enqueue(&message(Some("a"), 3));
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_eq!(by_key(&publisher)["a"], [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn scheduled_messages_come_when_they_are_due() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    let relay = relay(&store, &publisher, settings());
    let due = store.now().saturating_add(Duration::from_secs(90));
    store.enqueue(&Message::bytes("t", "0").deliver_at(due).build().unwrap());
    let started = Instant::now();
    publisher.wait_for(1).await;
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(90) && waited < Duration::from_millis(91_100), "{waited:?}");
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn unreadable_and_oversized_rows_become_dead_letters_with_a_reason() {
    let store = MemoryStore::new();
    let publisher =
        MemoryPublisher::builder().capabilities(one_by_one().max_message_bytes(Some(100))).build();
    store.insert_malformed(None, Some("t"), None, "headers must be a JSON object of texts");
    store.enqueue(&Message::bytes("t", vec![b'x'; 101]).build().unwrap());
    store.enqueue(&message(None, 1));
    let relay = relay(&store, &publisher, settings());
    dead_letters(&store, 2).await;
    publisher.wait_for(1).await;
    relay.shutdown().await.unwrap();
    let listed = store.dead_letters().unwrap().list(&DeadLetterFilter::all(), None, 10).await.unwrap();
    assert!(listed[0].error.contains("headers must be"), "{}", listed[0].error);
    assert!(listed[1].error.contains("bytes: 101, limit: 100"), "{}", listed[1].error);
}

#[tokio::test(start_paused = true)]
async fn delivered_messages_are_kept_for_the_retention_and_then_purged() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::new();
    for number in 0..25 {
        store.enqueue(&message(None, number));
    }
    let mut settings = settings();
    settings.retention = Some(Duration::from_secs(3_600));
    settings.purge_batch = 10;
    let relay = relay(&store, &publisher, settings);
    drained(&store).await;
    tokio::time::sleep(Duration::from_secs(3_500)).await;
    assert_eq!(store.kept_delivered().len(), 25);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(store.kept_delivered().len(), 0);
    relay.shutdown().await.unwrap();
}

#[test]
fn nonsense_is_refused_when_it_is_built() {
    let error = Relay::builder(MemoryStore::new(), MemoryPublisher::new())
        .configure(|settings| settings.publish_batch = 0)
        .build()
        .unwrap_err();
    assert_eq!(error.to_string(), "config: must be at least 1 (setting: publish_batch)");
}
