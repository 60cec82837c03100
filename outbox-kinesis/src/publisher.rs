//! The publisher: sorts a batch by stream, cuts requests, and runs them.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder as Overrides;
use futures_util::StreamExt as _;
use outbox_aws::{Call, Limits};
use outbox_core::publishing::{Routing, complete};
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities, Result};
use tokio::time::Instant;

use crate::builder::KinesisPublisherBuilder;
use crate::format::Format;
use crate::outgoing::Outgoing;
use crate::request::{Requests, cut};
use crate::stream::Stream;
use crate::{NAME, check};

/// Publishes to streams of Amazon Kinesis Data Streams, with `PutRecords`.
///
/// It owns no connection: the client's HTTP pool does. Cheap to share behind an [`Arc`](std::sync::Arc).
///
/// # Cancel safety
/// When a [`publish`](Publisher::publish) future is dropped, its requests are dropped with it, and the connections of
/// those that had begun are closed. Nothing of it is sent afterwards: no task is left behind.
pub struct KinesisPublisher {
    pub(crate) client: Client,
    pub(crate) overrides: Overrides,
    pub(crate) routing: Routing<Stream>,
    pub(crate) format: Format,
    pub(crate) limits: Limits,
    pub(crate) max_record_bytes: usize,
    pub(crate) requests_in_flight: usize,
    pub(crate) call_timeout: Duration,
    pub(crate) throttle_patience: Duration,
    pub(crate) capabilities: PublisherCapabilities,
}

impl fmt::Debug for KinesisPublisher {
    /// Without the client, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisPublisher")
            .field("routing", &self.routing)
            .field("format", &self.format)
            .field("limits", &self.limits)
            .field("requests_in_flight", &self.requests_in_flight)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

impl KinesisPublisher {
    /// Starts a publisher with the caller's client, whose region, endpoint, credentials and HTTP settings it uses. Its
    /// retries are not: the publisher turns them off for its own requests, since the relay repeats what has failed.
    pub fn builder(client: Client) -> KinesisPublisherBuilder {
        KinesisPublisherBuilder::new(client)
    }

    /// Starts a publisher with a client that is configured from environment variables, the shared AWS configuration
    /// files and the metadata services of the machine, as that of
    /// [the AWS tools](https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html) is. Single
    /// sign-on and credential processes are not among its ways; make a client of your own for those.
    #[cfg(feature = "env")]
    pub async fn builder_from_env() -> KinesisPublisherBuilder {
        let config = aws_config::load_defaults(aws_sdk_kinesis::config::BehaviorVersion::v2026_01_12()).await;
        Self::builder(Client::new(&config))
    }

    /// Looks at the streams that the settings name (`DescribeStreamSummary`, which needs the right to it), for a service
    /// that wants to learn at its start whether its settings are right.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](outbox_core::ErrorKind::NotFound),
    /// [`ErrorKind::Permission`](outbox_core::ErrorKind::Permission),
    /// [`ErrorKind::Unavailable`](outbox_core::ErrorKind::Unavailable).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn connect(&self) -> Result<()> {
        let deadline = Instant::now() + self.call_timeout;
        for stream in self.routing.destinations() {
            check::look(self, stream, deadline).await?;
        }
        Ok(())
    }

    /// Looks at the streams that the settings name: whether they are there, and in a state in which they take records. Where
    /// the settings name none, it asks whether the service answers and knows the credentials. Nobody knows before there is a
    /// message where a closure or a topic's name leads.
    ///
    /// It needs the right `kinesis:DescribeStreamSummary`. Whether the credentials may put records does not show.
    ///
    /// # Errors
    /// What is wrong first, with the name of the stream: those of [`connect`](Self::connect), or
    /// [`ErrorKind::Rejected`](outbox_core::ErrorKind::Rejected) with the state of the stream.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn check(&self) -> Result<()> {
        check::run(self).await
    }

    /// Publishes what has passed the checks. What has no outcome afterwards was forgotten.
    async fn publish_ready(&self, ready: &[Outgoing], outcomes: &mut [Option<Outcome>]) {
        let begun = Instant::now();
        let deadline = begun + self.call_timeout;
        let requests = Requests {
            client: &self.client,
            overrides: &self.overrides,
            call: Call::until(deadline),
            patience: deadline.min(begun + self.throttle_patience),
        };
        let requests = &requests;
        let bound = by_stream(ready);
        // Made ahead, and begun by being polled: a stream of closures would not be `Send`.
        let all: Vec<_> = bound
            .iter()
            .flat_map(|(stream, messages)| cut(stream, messages, self.limits))
            .map(|request| async move { (request.messages, requests.run(request).await) })
            .collect();
        let mut running = futures_util::stream::iter(all).buffer_unordered(self.requests_in_flight);
        while let Some((messages, answers)) = running.next().await {
            for (message, answer) in messages.iter().zip(answers) {
                outcomes[message.index] = Some(answer);
            }
        }
    }
}

#[async_trait]
impl Publisher for KinesisPublisher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.capabilities.clone()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = batch.iter().map(|_| None).collect();
        let mut ready = Vec::with_capacity(batch.len());
        for (index, message) in batch.iter().enumerate() {
            match Outgoing::new(index, message, &self.routing, self.format, self.max_record_bytes) {
                Ok(outgoing) => ready.push(outgoing),
                Err(error) => outcomes[index] = Some(Err(error)),
            }
        }
        if !ready.is_empty() {
            Box::pin(self.publish_ready(&ready, &mut outcomes)).await;
        }
        // If no shard took anything, it is the stream that is busy.
        let sent: Vec<usize> = ready.iter().map(|message| message.index).collect();
        complete(outcomes, &sent)
    }
}

/// Sorts messages by their streams. The order stays.
fn by_stream(ready: &[Outgoing]) -> Vec<(&Stream, Vec<&Outgoing>)> {
    let mut places: HashMap<&Stream, usize> = HashMap::new();
    let mut bound: Vec<(&Stream, Vec<&Outgoing>)> = Vec::new();
    for message in ready {
        let place = *places.entry(&message.stream).or_insert(bound.len());
        match bound.get_mut(place) {
            Some((_, messages)) => messages.push(message),
            None => bound.push((&message.stream, vec![message])),
        }
    }
    bound
}
