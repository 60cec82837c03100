//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::nats::{DiscardPolicy, Stream, StreamConfig};
use integration_tests::{Mode, Nats, Proxy, Server};
use outbox_conformance::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
use outbox_core::{Error, ErrorKind, Options, Publisher, Result};
use outbox_nats::NatsPublisher;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::read;

/// Calls and connections end only if something hangs.
const PATIENCE: Duration = Duration::from_secs(100);
/// The largest message of the server, headers included.
const MAX_PAYLOAD: usize = 1 << 20;

pub(crate) struct Harness;

impl Harness {
    /// `None` if there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Nats::shared()).map(|_| Self)
    }
}

#[async_trait]
impl PublisherHarness for Harness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        let nats = Nats::shared().await.expect("the server that was there a moment ago");
        let config = StreamConfig { allow_message_ttl: true, ..StreamConfig::default() };
        let stream = nats.stream_with(config).await;
        Ok(Box::new(Fixture { nats, stream, proxy: nats.proxy().await, received: Mutex::default() }))
    }

    fn not_applicable(&self) -> &[&str] {
        // The server does not stop at a failure, so there are no ordered batches. It refuses no single message of a stream for
        // a reason that passes by itself.
        &[
            "publishing::order_is_kept_within_a_batch",
            "rejecting::a_key_stops_at_its_failure",
            "answering::a_partial_failure_is_told_apart",
            "answering::order_survives_partial_failures",
        ]
    }
}

struct Fixture {
    nats: &'static Nats,
    stream: Stream,
    proxy: Proxy,
    received: Mutex<Vec<Received>>,
}

#[async_trait]
impl PublisherFixture for Fixture {
    fn traits(&self) -> PublisherTraits {
        PublisherTraits::default()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let builder = NatsPublisher::builder(self.nats.url_through(&self.proxy));
        // As many calls as overlap in a case.
        let builder = builder.connections(8).connect_timeout(PATIENCE).ack_timeout(PATIENCE);
        Ok(Arc::new(builder.build()?))
    }

    fn topic(&self) -> String {
        self.stream.name().to_owned()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        let deadline = Instant::now() + within;
        let mut received = self.received.lock().await;
        loop {
            // Nothing is deleted, so the sequence numbers have no gaps.
            let next = received.len() as u64 + 1;
            received.extend(
                self.stream
                    .read(next)
                    .await
                    .map_err(|error| {
                        Error::new(ErrorKind::Internal, "cannot read the stream").with_source(error)
                    })?
                    .iter()
                    .map(read),
            );
            if received.len() >= at_least || Instant::now() >= deadline {
                return Ok(received.clone());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn unroutable_topic(&self) -> Option<String> {
        Some("nowhere".to_owned())
    }

    fn oversized_payload(&self) -> Option<usize> {
        // With the headers it is too large for the server, without them it is not.
        Some(MAX_PAYLOAD)
    }

    fn invalid_options(&self) -> Option<Options> {
        let json = serde_json::json!({ "nats": { "ttl": 3 } });
        json.as_object().cloned().map(Options::from_json)
    }

    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        let (stream, subject) = (self.stream.name(), format!("{}.below", self.stream.name()));
        let json =
            serde_json::json!({ "nats": { "subject": subject, "stream": stream, "ttl_seconds": 86_400 } });
        let seen = [("subject", subject.as_str()), ("stream", stream), ("ttl", "86400")];
        let seen = seen.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some((Options::from_json(json.as_object()?.clone()), seen.into()))
    }

    fn faults(&self) -> &[Fault] {
        &[Fault::Cut, Fault::Down, Fault::Stalled, Fault::Throttled, Fault::AnswersLost]
    }

    async fn inject(&self, fault: Fault) -> Result<()> {
        let mode = match fault {
            Fault::Cut => Mode::Reset,
            Fault::Down => Mode::Refuse,
            Fault::Stalled => Mode::Blackhole,
            Fault::AnswersLost => Mode::CutAnswersAfter(0),
            Fault::Throttled => {
                let full = |config: &mut StreamConfig| {
                    config.discard = DiscardPolicy::New;
                    config.max_messages = 1;
                };
                self.stream.update(full).await;
                return Ok(());
            }
            other => panic!("this fixture cannot make {other:?}"),
        };
        self.proxy.set(mode).await;
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.proxy.set(Mode::Pass).await;
        self.stream.update(|_| {}).await;
        Ok(())
    }
}
