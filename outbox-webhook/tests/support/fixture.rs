//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::webhook;
use integration_tests::{Mode, Proxy, Receiver};
use outbox_conformance::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
use outbox_core::{Options, Publisher, Result};
use outbox_webhook::Endpoint;
use tokio::time::Instant;

use super::{SECRET, builder, read};

const TOPIC: &str = "order.placed";
/// An endpoint that no topic leads to.
const OTHER: &str = "other";
const TOO_MANY_REQUESTS: u16 = 429;
const CONFLICT: u16 = 409;

pub(crate) struct Harness;

#[async_trait]
impl PublisherHarness for Harness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        let receiver = Receiver::start().await;
        let proxy = receiver.proxy().await;
        Ok(Box::new(Fixture { receiver, proxy }))
    }

    fn not_applicable(&self) -> &[&str] {
        // The messages of a key come one call at a time.
        &["publishing::order_is_kept_within_a_batch", "rejecting::a_key_stops_at_its_failure"]
    }
}

struct Fixture {
    receiver: Receiver,
    proxy: Proxy,
}

#[async_trait]
impl PublisherFixture for Fixture {
    fn traits(&self) -> PublisherTraits {
        PublisherTraits::default()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let endpoint =
            |path: &str| Endpoint::new(format!("http://{}{path}", self.proxy.address())).secret(SECRET);
        let builder = builder().endpoint(TOPIC, endpoint("/hooks")).endpoint(OTHER, endpoint("/others"));
        Ok(Arc::new(builder.build()?))
    }

    fn topic(&self) -> String {
        TOPIC.to_owned()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        let deadline = Instant::now() + within;
        while self.receiver.taken() < at_least && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let deliveries = self.receiver.deliveries();
        for delivery in &deliveries {
            assert!(delivery.is_signed_by(SECRET), "{delivery:?}");
        }
        Ok(deliveries.into_iter().map(read).collect())
    }

    fn unroutable_topic(&self) -> Option<String> {
        Some("nowhere".to_owned())
    }

    fn oversized_payload(&self) -> Option<usize> {
        Some((1 << 20) + 1)
    }

    fn invalid_options(&self) -> Option<Options> {
        let json = serde_json::json!({ "webhook": { "uri": "https://example.com" } });
        json.as_object().cloned().map(Options::from_json)
    }

    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        let json = serde_json::json!({ "webhook": { "endpoint": OTHER } });
        let seen = [("path".to_owned(), "/others".to_owned())];
        Some((Options::from_json(json.as_object()?.clone()), seen.into()))
    }

    fn faults(&self) -> &[Fault] {
        &[Fault::Cut, Fault::Down, Fault::Stalled, Fault::Throttled, Fault::AnswersLost, Fault::SomeRefused]
    }

    async fn inject(&self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Cut => self.proxy.set(Mode::Reset).await,
            Fault::Down => self.proxy.set(Mode::Refuse).await,
            Fault::Stalled => self.proxy.set(Mode::Blackhole).await,
            Fault::Throttled => self.receiver.set(webhook::Fault::Status(TOO_MANY_REQUESTS)),
            Fault::AnswersLost => self.receiver.set(webhook::Fault::AnswerLost),
            Fault::SomeRefused => self.receiver.set(webhook::Fault::SomeRefused(CONFLICT)),
            other => panic!("this fixture cannot make {other:?}"),
        }
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.proxy.set(Mode::Pass).await;
        self.receiver.set(webhook::Fault::None);
        Ok(())
    }
}
