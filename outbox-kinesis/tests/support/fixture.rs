//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::{Kinesis, Mode, Proxy, kinesis};
use outbox_conformance::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
use outbox_core::{Options, Publisher, Result};
use tokio::time::Instant;

pub(crate) struct Harness;

#[async_trait]
impl PublisherHarness for Harness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        let server = Kinesis::start().await;
        let stream = server.stream(2).await;
        let proxy = Proxy::start(server.address()).await;
        Ok(Box::new(Fixture { server, stream, proxy }))
    }

    fn not_applicable(&self) -> &[&str] {
        // The service does not stop at a failure, so there are no ordered batches.
        &["publishing::order_is_kept_within_a_batch", "rejecting::a_key_stops_at_its_failure"]
    }
}

struct Fixture {
    server: Kinesis,
    stream: String,
    proxy: Proxy,
}

#[async_trait]
impl PublisherFixture for Fixture {
    fn traits(&self) -> PublisherTraits {
        PublisherTraits::default()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(super::builder(kinesis::client(self.proxy.address())).build()?))
    }

    fn topic(&self) -> String {
        self.stream.clone()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        let deadline = Instant::now() + within;
        loop {
            let records = self.server.records(&self.stream).await;
            if records.len() >= at_least || Instant::now() >= deadline {
                return Ok(records.iter().map(super::read).collect());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn unroutable_topic(&self) -> Option<String> {
        Some("nowhere".to_owned())
    }

    fn oversized_payload(&self) -> Option<usize> {
        Some((1 << 20) + 1)
    }

    fn invalid_options(&self) -> Option<Options> {
        let json = serde_json::json!({ "kinesis": { "partition": "p" } });
        json.as_object().cloned().map(Options::from_json)
    }

    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        let json = serde_json::json!({ "kinesis": { "partition_key": "p-1" } });
        let seen = [("partition_key", "p-1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
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
            Fault::Throttled => self.server.set(kinesis::Fault::Throttled),
            Fault::AnswersLost => self.proxy.set(Mode::CutAnswersAfter(0)).await,
            Fault::SomeRefused => self.server.set(kinesis::Fault::EverySecondRefused),
            other => panic!("this fixture cannot make {other:?}"),
        }
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.proxy.set(Mode::Pass).await;
        self.server.set(kinesis::Fault::None);
        Ok(())
    }
}
