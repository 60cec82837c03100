//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::sqs::{Gateway, Queue as TestQueue, client};
use integration_tests::{Mode, Proxy, Server, Sqs, sqs};
use outbox_conformance::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
use outbox_core::{Options, Publisher, Result};

use super::{Consumer, builder};

pub(crate) struct Harness {
    pub(crate) fifo: bool,
}

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn new(fifo: bool) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Sqs::shared()).map(|_| Self { fifo })
    }
}

#[async_trait]
impl PublisherHarness for Harness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        let sqs = Sqs::shared().await.expect("the server that was there a moment ago");
        let queue = Arc::new(if self.fifo { sqs.fifo_queue().await } else { sqs.queue().await });
        let consumer = Consumer::start(sqs, &queue);
        let gateway = sqs.gateway().await;
        let proxy = Proxy::start(gateway.address()).await;
        Ok(Box::new(Fixture { fifo: self.fifo, queue, consumer, gateway, proxy }))
    }

    fn not_applicable(&self) -> &[&str] {
        // The service does not stop at a failure, so there are no ordered batches.
        const FIFO: &[&str] =
            &["publishing::order_is_kept_within_a_batch", "rejecting::a_key_stops_at_its_failure"];
        // And standard queues have no order at all.
        const STANDARD: &[&str] = &[
            "publishing::order_is_kept_within_a_batch",
            "rejecting::a_key_stops_at_its_failure",
            "publishing::order_is_kept_across_calls",
            "answering::order_survives_partial_failures",
        ];
        if self.fifo { FIFO } else { STANDARD }
    }
}

struct Fixture {
    fifo: bool,
    queue: Arc<TestQueue>,
    consumer: Consumer,
    gateway: Gateway,
    proxy: Proxy,
}

#[async_trait]
impl PublisherFixture for Fixture {
    fn traits(&self) -> PublisherTraits {
        PublisherTraits::default().ordered(self.fifo)
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(builder(client(self.proxy.address())).build()?))
    }

    fn topic(&self) -> String {
        self.queue.name().to_owned()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        Ok(self.consumer.received(at_least, within).await)
    }

    fn unroutable_topic(&self) -> Option<String> {
        Some("nowhere".to_owned())
    }

    fn oversized_payload(&self) -> Option<usize> {
        Some((1 << 20) + 1)
    }

    fn invalid_options(&self) -> Option<Options> {
        let json = serde_json::json!({ "sqs": { "delay_secs": 3 } });
        json.as_object().cloned().map(Options::from_json)
    }

    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        if !self.fifo {
            return None;
        }
        let json =
            serde_json::json!({ "sqs": { "message_group_id": "g-1", "message_deduplication_id": "d-1" } });
        let seen = [("MessageGroupId", "g-1"), ("MessageDeduplicationId", "d-1")];
        let seen = seen.map(|(name, value)| (name.to_owned(), value.to_owned()));
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
            Fault::Throttled => self.gateway.set(sqs::Fault::Throttled),
            Fault::AnswersLost => self.gateway.set(sqs::Fault::AnswerLost),
            Fault::SomeRefused => self.gateway.set(sqs::Fault::EverySecondRefused),
            other => panic!("this fixture cannot make {other:?}"),
        }
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.proxy.set(Mode::Pass).await;
        self.gateway.set(sqs::Fault::None);
        Ok(())
    }
}
