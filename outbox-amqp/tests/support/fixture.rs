//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{Mode, Proxy, RabbitMq, Server};
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use outbox_amqp::AmqpPublisher;
use outbox_conformance::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
use outbox_core::{Options, Publisher, Result};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const QUEUE: &str = "orders";
const MAX_MESSAGE_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(100);

pub(crate) struct Harness;

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(RabbitMq::shared()).map(|_| Self)
    }
}

#[async_trait]
impl PublisherHarness for Harness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        let rabbitmq = RabbitMq::shared().await.expect("the server that was there a moment ago");
        let vhost = rabbitmq.vhost().await;
        vhost.declare_queue(QUEUE).await;
        let received = Arc::new(Mutex::new(Vec::new()));
        let mut consumer = vhost.consumer(QUEUE).await;
        let consuming = tokio::spawn({
            let received = Arc::clone(&received);
            async move {
                while let Some(delivery) = consumer.next().await {
                    received.lock().unwrap().push(read(delivery.unwrap()));
                }
            }
        });
        Ok(Box::new(Fixture { vhost, proxy: rabbitmq.proxy().await, received, consuming }))
    }

    fn not_applicable(&self) -> &[&str] {
        // The broker does not stop at a failure, so there are no ordered batches.
        // It does not throttle single messages, and refuses none for a reason that passes by itself.
        &[
            "publishing::order_is_kept_within_a_batch",
            "rejecting::a_key_stops_at_its_failure",
            "answering::throttling_is_told_as_such",
            "answering::a_partial_failure_is_told_apart",
            "answering::order_survives_partial_failures",
        ]
    }
}

struct Fixture {
    vhost: Vhost,
    proxy: Proxy,
    received: Arc<Mutex<Vec<Received>>>,
    consuming: JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.consuming.abort();
    }
}

fn read(delivery: Delivery) -> Received {
    let properties = &delivery.properties;
    let headers = properties.headers().iter().flatten().map(|(name, value)| match value {
        AMQPValue::LongString(text) => (name.to_string(), text.to_string()),
        other => panic!("a header that is no text: {other:?}"),
    });
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let options = [
        ("priority", properties.priority().map(|priority| priority.to_string())),
        ("expiration", text(properties.expiration())),
        ("correlation_id", text(properties.correlation_id())),
        ("type", text(properties.kind())),
        ("app_id", text(properties.app_id())),
        ("timestamp", properties.timestamp().map(|seconds| seconds.to_string())),
        ("delivery_mode", properties.delivery_mode().map(|mode| mode.to_string())),
    ];
    let options = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Received::new(delivery.data.clone())
        .options(options.collect())
        .id(properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok()))
        .topic(Some(delivery.routing_key.to_string()))
        .headers(headers.collect())
        .content_type(properties.content_type().as_ref().map(ToString::to_string))
}

#[async_trait]
impl PublisherFixture for Fixture {
    fn traits(&self) -> PublisherTraits {
        PublisherTraits::default().key(false)
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let uri = self.vhost.uri_through(&self.proxy);
        // Its calls end, and its connections, only if something hangs.
        let builder = AmqpPublisher::builder(&uri).connect_timeout(PATIENCE).confirm_timeout(PATIENCE);
        Ok(Arc::new(builder.heartbeat(PATIENCE).max_message_bytes(MAX_MESSAGE_BYTES).build()?))
    }

    fn topic(&self) -> String {
        QUEUE.to_owned()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        let deadline = Instant::now() + within;
        loop {
            let received = self.received.lock().unwrap().clone();
            if received.len() >= at_least || Instant::now() >= deadline {
                return Ok(received);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn unroutable_topic(&self) -> Option<String> {
        Some("nowhere".to_owned())
    }

    fn oversized_payload(&self) -> Option<usize> {
        Some(MAX_MESSAGE_BYTES + 1)
    }

    fn invalid_options(&self) -> Option<Options> {
        let json = serde_json::json!({ "amqp": { "prioritty": 3 } });
        json.as_object().cloned().map(Options::from_json)
    }

    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        let json = serde_json::json!({ "amqp": {
            "priority": 3, "expiration": 3_600_000, "correlation_id": "c-1", "type": "placed", "app_id": "shop",
            "timestamp": 1_700_000_000, "persistent": false,
        }});
        let seen = [
            ("priority", "3"),
            ("expiration", "3600000"),
            ("correlation_id", "c-1"),
            ("type", "placed"),
            ("app_id", "shop"),
            ("timestamp", "1700000000"),
            ("delivery_mode", "1"),
        ];
        let seen = seen.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some((Options::from_json(json.as_object()?.clone()), seen.into()))
    }

    fn faults(&self) -> &[Fault] {
        &[Fault::Cut, Fault::Down, Fault::Stalled, Fault::AnswersLost]
    }

    async fn inject(&self, fault: Fault) -> Result<()> {
        let mode = match fault {
            Fault::Cut => Mode::Reset,
            Fault::Down => Mode::Refuse,
            Fault::Stalled => Mode::Blackhole,
            Fault::AnswersLost => Mode::CutAnswersAfter(0),
            other => panic!("this fixture cannot make {other:?}"),
        };
        self.proxy.set(mode).await;
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.proxy.set(Mode::Pass).await;
        Ok(())
    }
}
