//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::pubsub::Topic;
use integration_tests::{Mode, Proxy, PubSub, Server, pubsub};
use outbox_conformance::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
use outbox_core::{Options, Publisher, Result};

use super::{Consumer, builder};

/// Codes of gRPC.
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;

pub(crate) struct Harness {
    ordering_keys: bool,
}

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn new(ordering_keys: bool) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(PubSub::shared()).map(|_| Self { ordering_keys })
    }
}

#[async_trait]
impl PublisherHarness for Harness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        let pubsub = PubSub::shared().await.expect("the server that was there a moment ago");
        let topic = pubsub.topic().await;
        let consumer = Consumer::start(&topic);
        let proxy = pubsub.proxy().await;
        Ok(Box::new(Fixture { ordering_keys: self.ordering_keys, topic, consumer, proxy }))
    }

    fn not_applicable(&self) -> &[&str] {
        // Without ordering keys a subscription has no order, and the service does not stop at a failure. Requests hold
        // messages of many keys then, and the service takes all of one or nothing.
        const UNORDERED: &[&str] = &[
            "publishing::order_is_kept_within_a_batch",
            "publishing::order_is_kept_across_calls",
            "rejecting::a_key_stops_at_its_failure",
            "answering::a_partial_failure_is_told_apart",
            "answering::order_survives_partial_failures",
        ];
        if self.ordering_keys { &[] } else { UNORDERED }
    }
}

struct Fixture {
    ordering_keys: bool,
    topic: Topic,
    consumer: Consumer,
    proxy: Proxy,
}

#[async_trait]
impl PublisherFixture for Fixture {
    fn traits(&self) -> PublisherTraits {
        PublisherTraits::default().ordered(self.ordering_keys)
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let builder = builder(self.proxy.address());
        Ok(Arc::new(builder.ordering_keys(self.ordering_keys).build()?))
    }

    fn topic(&self) -> String {
        self.topic.id().to_owned()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        Ok(self.consumer.received(at_least, within).await)
    }

    fn unroutable_topic(&self) -> Option<String> {
        Some("nowhere".to_owned())
    }

    fn oversized_payload(&self) -> Option<usize> {
        Some(10_000_001)
    }

    fn invalid_options(&self) -> Option<Options> {
        let json = serde_json::json!({ "pubsub": { "ordering": "k" } });
        json.as_object().cloned().map(Options::from_json)
    }

    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        let json = serde_json::json!({ "pubsub": { "ordering_key": "o-1" } });
        let seen = [("ordering_key", "o-1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some((Options::from_json(json.as_object()?.clone()), seen.into()))
    }

    fn faults(&self) -> &[Fault] {
        const ALL: &[Fault] = &[
            Fault::Cut,
            Fault::Down,
            Fault::Stalled,
            Fault::Throttled,
            Fault::AnswersLost,
            Fault::SomeRefused,
        ];
        if self.ordering_keys { ALL } else { &ALL[..5] }
    }

    async fn inject(&self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Cut => self.proxy.set(Mode::Reset).await,
            Fault::Down => self.proxy.set(Mode::Refuse).await,
            Fault::Stalled => self.proxy.set(Mode::Blackhole).await,
            Fault::Throttled => self.topic.set(pubsub::Fault::Code(RESOURCE_EXHAUSTED)),
            Fault::AnswersLost => self.topic.set(pubsub::Fault::AnswerLost),
            Fault::SomeRefused => self.topic.set(pubsub::Fault::EverySecond(FAILED_PRECONDITION)),
            other => panic!("this fixture cannot make {other:?}"),
        }
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.proxy.set(Mode::Pass).await;
        self.topic.set(pubsub::Fault::None);
        Ok(())
    }
}
