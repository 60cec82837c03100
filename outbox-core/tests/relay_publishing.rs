//! How the relay drives its publisher: advice, blame, probes, and the size of calls, under paused time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::memory::{MemoryPublisher, MemoryStore};
use outbox_core::relay::{Relay, RelayHandle, RetryPolicy};
use outbox_core::{
    DeadLetterFilter, Error, ErrorKind, Event, Events, Message, MessageId, Outcome, Publisher,
    PublisherCapabilities, Received, Scope, Store,
};
use support::*;
use tokio::time::{Instant, sleep, sleep_until};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the events say about attempts and the circuit.
#[derive(Debug, Default, PartialEq)]
struct Told {
    delivered: u64,
    most_attempts: u32,
    retried: u64,
    dead: u64,
    opened: u64,
}

async fn told(mut events: Events) -> Told {
    let mut told = Told::default();
    while let Some(event) = events.recv().await {
        let Received::Event(event) = event else { panic!("events were missed") };
        match event {
            Event::Delivered(delivery) => {
                told.delivered += 1;
                told.most_attempts = told.most_attempts.max(delivery.attempts);
            }
            Event::Retrying { .. } => told.retried += 1,
            Event::DeadLettered(_) => told.dead += 1,
            Event::CircuitOpened { .. } => told.opened += 1,
            _ => {}
        }
    }
    told
}

#[tokio::test(start_paused = true)]
async fn the_advice_of_a_broker_is_limited_by_the_longest_pause() {
    for advice in [86_400, u64::MAX] {
        for scope in [Scope::Endpoint, Scope::Message] {
            let store = MemoryStore::new();
            let publisher = MemoryPublisher::builder()
                .script(move |_, attempt| {
                    if attempt > 1 {
                        return Ok(());
                    }
                    let error = Error::new(ErrorKind::Throttled, "come back later").with_scope(scope);
                    Err(error.with_retry_after(seconds(advice)))
                })
                .build();
            store.enqueue(&message(None, 1));
            let mut settings = settings();
            settings.retry = RetryPolicy::default().max(seconds(10));
            let began = Instant::now();
            let relay = relay(&store, &publisher, settings);
            drained(&store).await;
            assert!(began.elapsed() < seconds(12), "{:?}", began.elapsed());
            relay.shutdown().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_outages_cost_no_attempts() {
    for (ordered, batch) in [(true, 500), (false, 500), (true, 1), (false, 7)] {
        let store = MemoryStore::new();
        let publisher = MemoryPublisher::builder()
            .capabilities(PublisherCapabilities::default().ordered_batches(ordered).max_batch_messages(batch))
            .delay(Duration::from_millis(20))
            .build();
        let mut settings = settings();
        settings.event_capacity = 100_000;
        settings.retry = RetryPolicy::default().max_attempts(2);
        for number in 0..2_000 {
            let key = format!("key-{}", number % 300);
            store.enqueue(&message(Some(&key).filter(|_| number % 3 > 0).map(String::as_str), number));
        }
        let relay = relay(&store, &publisher, settings);
        let events = relay.events();
        for outage in 1..=3 {
            publisher.wait_for(outage * 15).await;
            publisher.down();
            sleep(Duration::from_millis(4_321 * outage)).await;
            publisher.up();
        }
        drained(&store).await;
        relay.shutdown().await.unwrap();
        let told = told(events).await;
        assert_eq!((told.retried, told.dead, told.most_attempts), (0, 0, 1), "{told:?}");
        assert_eq!(told.delivered, 2_000);
        assert_ordered(&publisher);
    }
}

#[tokio::test(start_paused = true)]
async fn outages_that_interrupt_the_same_messages_cost_no_attempts() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder().delay(Duration::from_millis(500)).build();
    for number in 0..2_000 {
        store.enqueue(&message(None, number));
    }
    let mut settings = settings();
    settings.event_capacity = 100_000;
    let relay = relay(&store, &publisher, settings);
    let events = relay.events();
    let mut status = relay.status();
    for _ in 0..2 {
        sleep(Duration::from_millis(100)).await;
        publisher.down();
        status.wait_for(|status| status.circuit_open).await.unwrap();
        sleep(seconds(3)).await;
        publisher.up();
        status.wait_for(|status| !status.circuit_open).await.unwrap();
    }
    // Everything has come back twice by now. Some of it gets through before the broker goes down again.
    sleep(Duration::from_millis(2_100)).await;
    publisher.down();
    sleep(seconds(20)).await;
    assert!(status.borrow().circuit_open);
    publisher.up();
    drained(&store).await;
    relay.shutdown().await.unwrap();
    let told = told(events).await;
    assert_eq!((told.delivered, told.most_attempts, told.retried), (2_000, 1, 0), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn short_outages_on_a_quiet_outbox_cost_no_attempts() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder().delay(Duration::from_millis(20)).build();
    let mut settings = settings();
    settings.event_capacity = 100_000;
    let relay = relay(&store, &publisher, settings);
    let events = relay.events();
    // One message, which meets an outage that ends before the next message comes; and that again, 200 times.
    let mut rng = fastrand::Rng::with_seed(5);
    for number in 0..200 {
        publisher.down();
        store.enqueue(&message(Some(&format!("key-{number}")), number));
        sleep(Duration::from_millis(rng.u64(10..6_000))).await;
        publisher.up();
        sleep(Duration::from_millis(rng.u64(0..6_000))).await;
    }
    drained(&store).await;
    relay.shutdown().await.unwrap();
    let told = told(events).await;
    assert_eq!((told.delivered, told.retried, told.dead), (200, 0, 0), "{told:?}");
}

/// Enqueues a message of a key of its own every 16 seconds, and returns how long each took.
async fn trickle(store: &MemoryStore, publisher: &MemoryPublisher, messages: u64) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for number in 0..messages {
        sleep(seconds(16)).await;
        let message = message(Some(&format!("good-{number}")), number);
        let (id, enqueued) = (message.id(), Instant::now());
        store.enqueue(&message);
        while !publisher.published_ids().contains(&id) {
            assert!(enqueued.elapsed() < seconds(60), "message {number} is late");
            sleep(Duration::from_millis(1)).await;
        }
        latencies.push(enqueued.elapsed());
    }
    latencies
}

#[tokio::test(start_paused = true)]
async fn messages_that_always_fail_delay_no_others_on_a_quiet_outbox() {
    for (kind, bad, most) in
        [(ErrorKind::Unavailable, 1, 30), (ErrorKind::Permission, 1, 30), (ErrorKind::Unavailable, 3, 300)]
    {
        let store = MemoryStore::new();
        let publisher = MemoryPublisher::builder()
            .delay(Duration::from_millis(10))
            .script(move |message, _| match message.key() {
                Some(key) if key.starts_with("bad") => {
                    Err(Error::new(kind, "as an HTTP service with its 500"))
                }
                _ => Ok(()),
            })
            .build();
        for number in 0..bad {
            store.enqueue(&message(Some(&format!("bad-{number}")), number));
            store.enqueue(&message(Some(&format!("bad-{number}")), number + 1));
        }
        let mut settings = settings();
        settings.event_capacity = 100_000;
        settings.retry = RetryPolicy::default().max_attempts(4);
        let relay = relay(&store, &publisher, settings);
        let events = relay.events();
        let latencies = trickle(&store, &publisher, 60).await;
        let worst = *latencies.iter().max().unwrap();
        assert!(worst <= Duration::from_millis(most), "{kind} {bad}: {worst:?} of {latencies:?}");
        assert_eq!(
            store.stats(100).await.unwrap().dead_letters.value,
            bad,
            "{kind}: they end as dead letters"
        );
        relay.shutdown().await.unwrap();
        let told = told(events).await;
        assert_eq!(told.most_attempts, 1, "{told:?}");
        if bad == 1 {
            // While there was nothing else to send, for 16 seconds.
            assert!(told.opened < 10, "{told:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_never_answered_delays_no_others_on_a_quiet_outbox() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder()
        .delay_with(|batch| {
            let is_stuck = batch.iter().any(|message| message.key() == Some("stuck"));
            if is_stuck { seconds(3_600) } else { Duration::from_millis(5) }
        })
        .build();
    store.enqueue(&message(Some("stuck"), 0));
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(3);
    let relay = relay(&store, &publisher, settings);
    let latencies = trickle(&store, &publisher, 60).await;
    let worst = *latencies.iter().max().unwrap();
    assert!(worst <= Duration::from_millis(300), "{worst:?} of {latencies:?}");
    assert_eq!(store.stats(100).await.unwrap().dead_letters.value, 1);
    relay.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_the_connection_is_found_among_thousands() {
    for ordered in [true, false] {
        let store = MemoryStore::new();
        let inner = MemoryPublisher::builder()
            .capabilities(PublisherCapabilities::default().ordered_batches(ordered))
            .build();
        let broker = Arc::new(Breaking { inner: inner.clone(), cuts: tokio::sync::watch::Sender::new(0) });
        for number in 0..4_000 {
            let key = if number == 1_234 { "bad".to_owned() } else { format!("key-{}", number % 1_000) };
            store.enqueue(&message(Some(&key), number));
        }
        let mut settings = settings();
        settings.event_capacity = 100_000;
        settings.retry = RetryPolicy::default().max_attempts(2);
        let relay = Relay::builder(store.clone(), broker.clone()).settings(settings).build().unwrap().spawn();
        let events = relay.events();
        let traffic = async {
            for number in 5_000.. {
                sleep(Duration::from_millis(100)).await;
                store.enqueue(&message(None, number));
            }
        };
        tokio::select! {
            () = dead_letters(&store, 1) => {}
            () = traffic => {}
        }
        drained(&store).await;
        relay.shutdown().await.unwrap();
        let told = told(events).await;
        assert_eq!((told.retried, told.dead, told.most_attempts), (1, 1, 1), "{told:?}");
        let cuts = *broker.cuts.borrow();
        assert!(cuts < 20, "{cuts} connections were cut");
        assert_ordered(&inner);
    }
}

/// A broker that closes the connection over a message, with all calls on it.
struct Breaking {
    inner: MemoryPublisher,
    cuts: tokio::sync::watch::Sender<u64>,
}

#[async_trait]
impl Publisher for Breaking {
    fn name(&self) -> &'static str {
        "breaking"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut cuts = self.cuts.subscribe();
        tokio::select! {
            biased;
            _ = cuts.changed() => {}
            () = sleep(Duration::from_millis(20)) => {
                if !batch.iter().any(|message| message.key() == Some("bad")) {
                    return self.inner.publish(batch).await;
                }
                self.cuts.send_modify(|cuts| *cuts += 1);
            }
        }
        outbox_core::fail_all(batch, || Error::new(ErrorKind::Interrupted, "the connection was closed"))
    }
}

/// A broker that takes what it is sent into its queue, and takes a time for each message, whether anybody still waits for it or
/// not. With `in_turn`, a call sends one message after the other instead, each of which takes that time.
struct Slow {
    per_message: Duration,
    in_turn: bool,
    state: Mutex<SlowState>,
}

#[derive(Default)]
struct SlowState {
    free_at: Option<Instant>,
    copies: HashMap<MessageId, u32>,
}

impl Slow {
    fn new(per_message: Duration, in_turn: bool) -> Arc<Self> {
        Arc::new(Self { per_message, in_turn, state: Mutex::default() })
    }

    fn take(&self, message: &Message) -> Instant {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        *state.copies.entry(message.id()).or_default() += 1;
        let begins = state.free_at.unwrap_or(now).max(now);
        state.free_at = Some(begins + self.per_message);
        begins + self.per_message
    }

    fn copies(&self) -> u32 {
        self.state.lock().unwrap().copies.values().sum()
    }
}

#[async_trait]
impl Publisher for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::default()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        if self.in_turn {
            for message in batch {
                sleep(self.per_message).await;
                *self.state.lock().unwrap().copies.entry(message.id()).or_default() += 1;
            }
        } else {
            let last = batch.iter().map(|message| self.take(message)).max();
            sleep_until(last.unwrap()).await;
        }
        batch.iter().map(|_| Ok(())).collect()
    }
}

fn relay_to(store: &MemoryStore, publisher: &Arc<Slow>) -> RelayHandle {
    let mut settings = settings();
    settings.event_capacity = 100_000;
    Relay::builder(store.clone(), publisher.clone()).settings(settings).build().unwrap().spawn()
}

#[tokio::test(start_paused = true)]
async fn a_slow_broker_is_driven_at_its_own_speed() {
    for rate in [3, 20, 45, 190, 2_000] {
        let store = MemoryStore::new();
        let messages = if rate < 20 { 500 } else { 5_000 };
        for number in 0..messages {
            store.enqueue(&message(None, number));
        }
        let publisher = Slow::new(seconds(1) / rate, false);
        let relay = relay_to(&store, &publisher);
        let events = relay.events();
        let began = Instant::now();
        drained(&store).await;
        let took = began.elapsed();
        relay.shutdown().await.unwrap();
        let (copies, told) = (publisher.copies() as u64, told(events).await);
        let needed = seconds(messages) / rate;
        // At 3 messages a second the first calls of all do not end in time.
        assert!(copies <= messages + if rate == 3 { 60 } else { 0 }, "{rate}/s: {copies} copies");
        assert!(took < needed.mul_f64(if rate == 3 { 1.3 } else { 1.02 }) + seconds(1), "{rate}/s: {took:?}");
        assert_eq!(told.most_attempts, 1, "{rate}/s: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_sends_one_after_the_other_makes_no_duplicates() {
    for per_message in [150, 900] {
        let store = MemoryStore::new();
        for number in 0..400 {
            store.enqueue(&message(None, number));
        }
        let publisher = Slow::new(Duration::from_millis(per_message), true);
        let relay = relay_to(&store, &publisher);
        let began = Instant::now();
        drained(&store).await;
        relay.shutdown().await.unwrap();
        assert_eq!(publisher.copies(), 400, "at {per_message} ms");
        // Four calls at a time.
        let needed = Duration::from_millis(per_message) * 100;
        assert!(began.elapsed() < needed.mul_f64(1.1), "{:?} where {needed:?} suffice", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_gets_slow_repeats_one_window_at_most() {
    let store = MemoryStore::new();
    let begun = Instant::now();
    let publisher = MemoryPublisher::builder()
        .record(false)
        .delay_with(move |batch| {
            let is_slow = begun.elapsed() > seconds(5) && begun.elapsed() < seconds(300);
            Duration::from_millis(if is_slow { 200 } else { 1 }) * batch.len() as u32
        })
        .build();
    let mut settings = settings();
    settings.event_capacity = 1_000_000;
    let relay = relay(&store, &publisher, settings);
    let events = relay.events();
    for number in 0..30_000 {
        store.enqueue(&message(None, number));
        if number % 100 == 0 {
            sleep(Duration::from_millis(50)).await;
        }
    }
    drained(&store).await;
    relay.shutdown().await.unwrap();
    let told = told(events).await;
    assert_eq!((told.delivered, told.most_attempts, told.retried), (30_000, 1, 0), "{told:?}");
    assert!(told.opened <= 3, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fast_broker_gets_full_calls_after_a_few() {
    let store = MemoryStore::new();
    let publisher = MemoryPublisher::builder().delay(Duration::from_millis(5)).build();
    for number in 0..20_000 {
        store.enqueue(&message(None, number));
    }
    let began = Instant::now();
    let relay = relay(&store, &publisher, settings());
    drained(&store).await;
    relay.shutdown().await.unwrap();
    // In calls of 500, four at a time, they need 10 round trips; the first six calls are smaller.
    assert!(began.elapsed() < Duration::from_millis(150), "{:?}", began.elapsed());
    assert!(publisher.calls() < 100, "{}", publisher.calls());
    let letters = store.dead_letters().unwrap();
    assert!(letters.list(&DeadLetterFilter::all(), None, 1).await.unwrap().is_empty());
}
