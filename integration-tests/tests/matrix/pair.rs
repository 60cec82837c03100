//! A store and a broker with a relay between them, for one test.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use integration_tests::eventually;
use outbox_conformance::{PublisherFixture, PublisherTraits, Received, StoreFixture};
use outbox_core::{
    Message, MessageBuilder, MessageId, Publisher, Relay, RelayHandle, RetryPolicy, Settings, Store, Verdict,
};

use crate::ends::{Broker, Database};
use crate::record::Record;

/// Maximum time to wait for a condition. Only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);
/// Maximum number that is counted.
const COUNT: u64 = 10_000;

type Scenario = for<'p> fn(&'p Pair) -> Pin<Box<dyn Future<Output = ()> + 'p>>;

/// Runs a scenario, or records that it cannot be run here.
pub(crate) fn run(database: Database, broker: Broker, name: &'static str, scenario: Scenario) {
    let record = Record::new(database, broker, name);
    // Outside a runtime: they search for their servers in separate runtimes.
    let Some(stores) = database.harness() else { return record.skipped(database.name()) };
    let Some(publishers) = broker.harness() else { return record.skipped(broker.service()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let pair = Pair { rows: stores.create().await.unwrap(), broker: publishers.create().await.unwrap() };
        scenario(&pair).await;
        pair.broker.destroy().await;
        pair.rows.destroy().await;
    });
    record.passed();
}

pub(crate) struct Pair {
    /// An empty outbox.
    pub(crate) rows: Box<dyn StoreFixture>,
    /// An empty destination, and its consumer.
    pub(crate) broker: Box<dyn PublisherFixture>,
}

impl Pair {
    pub(crate) fn traits(&self) -> PublisherTraits {
        self.broker.traits()
    }

    pub(crate) async fn publisher(&self) -> Arc<dyn Publisher> {
        self.broker.publisher().await.unwrap()
    }

    pub(crate) async fn store(&self) -> Arc<dyn Store> {
        self.rows.store().await.unwrap()
    }

    /// A relay with short intervals.
    pub(crate) async fn relay(&self, retry: RetryPolicy) -> RelayHandle {
        let publisher = self.publisher().await;
        self.relay_with(publisher, |settings| settings.retry = retry).await
    }

    pub(crate) async fn relay_with<P: Publisher>(
        &self,
        publisher: P,
        change: impl FnOnce(&mut Settings),
    ) -> RelayHandle {
        let mut settings = Settings::default();
        settings.heartbeat_interval = Duration::from_millis(200);
        settings.poll_interval = Duration::from_millis(100);
        settings.circuit_pause = Duration::from_millis(50);
        settings.circuit_max_pause = Duration::from_millis(500);
        settings.stats_interval = None;
        // The slowness of the machine must not cause a call to be given up, a message to be repeated, or a
        // lease to be lost.
        settings.publish_timeout = DEADLINE;
        settings.store_timeout = DEADLINE;
        settings.shutdown_timeout = DEADLINE;
        settings.lease_ttl = 4 * DEADLINE;
        change(&mut settings);
        Relay::builder(self.store().await, publisher).settings(settings).build().unwrap().spawn()
    }

    /// Creates a message to the destination.
    pub(crate) fn message(&self, payload: impl Into<Vec<u8>>) -> MessageBuilder {
        Message::bytes(self.broker.topic(), payload.into())
    }

    pub(crate) async fn commit(&self, messages: &[Message]) {
        let mut transaction = self.rows.begin().await.unwrap();
        transaction.enqueue(messages).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// Returns the number of undelivered messages and the number of dead letters.
    pub(crate) async fn counts(&self, store: &Arc<dyn Store>) -> (u64, u64) {
        let stats = store.stats(COUNT).await.unwrap();
        (stats.backlog.value, stats.dead_letters.value)
    }

    /// Waits until there are this many undelivered messages and dead letters.
    pub(crate) async fn wait_for_counts(&self, backlog: u64, dead_letters: u64) {
        let store = self.store().await;
        let what = format!("{backlog} undelivered messages and {dead_letters} dead letters");
        eventually(&what, DEADLINE, async || match store.stats(COUNT).await {
            Ok(stats) => {
                ((stats.backlog.value, stats.dead_letters.value) == (backlog, dead_letters)).then_some(())
            }
            // A slow machine may not answer in time.
            Err(error) if error.verdict() == Verdict::Retry => None,
            Err(error) => panic!("cannot count messages: {error}"),
        })
        .await;
    }

    pub(crate) async fn received(&self, at_least: usize) -> Vec<Received> {
        let received = self.broker.received(at_least, DEADLINE).await.unwrap();
        assert!(received.len() >= at_least, "{} of {at_least} messages have arrived", received.len());
        received
    }

    /// Waits until these messages have arrived, and asserts that no others have. Returns the arrived messages
    /// in order.
    pub(crate) async fn exactly(&self, expected: &[Message]) -> Vec<Received> {
        let wanted: BTreeSet<MessageId> = expected.iter().map(Message::id).collect();
        let mut at_least = wanted.len();
        loop {
            let received = self.received(at_least).await;
            let ids: Option<BTreeSet<MessageId>> = received.iter().map(|one| one.id).collect();
            let ids = ids.expect("every message has its id");
            let ghosts: Vec<_> = ids.difference(&wanted).collect();
            assert!(ghosts.is_empty(), "arrived and should not have: {ghosts:?}");
            if ids == wanted {
                return received;
            }
            // There were repeats among them.
            at_least = received.len() + 1;
        }
    }

    /// The same, and asserts that they are unchanged.
    pub(crate) async fn exactly_and_intact(&self, expected: &[Message]) -> Vec<Received> {
        let received = self.exactly(expected).await;
        for message in expected {
            let arrived = received.iter().find(|one| one.id == Some(message.id())).unwrap();
            self.assert_intact(message, arrived);
        }
        received
    }

    fn assert_intact(&self, message: &Message, arrived: &Received) {
        let traits = self.traits();
        // Not assert_eq, which would print megabytes.
        assert!(
            arrived.payload == message.payload(),
            "{message:?} arrived with {} bytes that are not its payload",
            arrived.payload.len()
        );
        if traits.topic {
            assert_eq!(arrived.topic.as_deref(), Some(message.topic()));
        }
        if traits.key {
            assert_eq!(arrived.key.as_deref(), message.key());
        }
        if traits.content_type {
            assert_eq!(arrived.content_type.as_deref(), message.content_type());
        }
        for (name, value) in message.headers() {
            assert_eq!(arrived.headers.get(name), Some(value), "header {name:?} of {message:?}");
        }
    }
}
