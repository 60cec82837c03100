//! The publisher: sorts a batch by queue, packs requests, and runs them.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder as Overrides;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use outbox_aws::{Call, Limits, pack};
use outbox_core::publishing::{Routing, complete};
use outbox_core::{ErrorKind, Message, Outcome, Publisher, PublisherCapabilities, Result};
use tokio::time::Instant;

use crate::builder::SqsPublisherBuilder;
use crate::outgoing::Outgoing;
use crate::queue::Queue;
use crate::queues::Queues;
use crate::request::{Request, Requests};
use crate::{NAME, check};

/// Publishes to queues of Amazon SQS, with `SendMessageBatch`.
///
/// It owns no connection: the client's HTTP pool does. Cheap to share behind an [`Arc`](std::sync::Arc).
///
/// # Cancel safety
/// When a [`publish`](Publisher::publish) future is dropped, its requests are dropped with it, and the connections of
/// those that had begun are closed. Nothing of it is sent afterwards: no task is left behind.
pub struct SqsPublisher {
    pub(crate) client: Client,
    pub(crate) overrides: Overrides,
    pub(crate) routing: Routing<Queue>,
    pub(crate) queues: Queues,
    pub(crate) limits: Limits,
    pub(crate) max_message_bytes: usize,
    pub(crate) requests_in_flight: usize,
    pub(crate) call_timeout: Duration,
    pub(crate) capabilities: PublisherCapabilities,
}

impl fmt::Debug for SqsPublisher {
    /// Without the client, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsPublisher")
            .field("routing", &self.routing)
            .field("queues", &self.queues)
            .field("limits", &self.limits)
            .field("requests_in_flight", &self.requests_in_flight)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

/// The messages of a batch that go to one queue.
struct Bound {
    queue: Queue,
    messages: Vec<Outgoing>,
}

impl SqsPublisher {
    /// Starts a publisher with the caller's client, whose region, endpoint, credentials and HTTP settings it uses. Its
    /// retries are not: the publisher turns them off for its own requests, since the relay repeats what has failed.
    pub fn builder(client: Client) -> SqsPublisherBuilder {
        SqsPublisherBuilder::new(client)
    }

    /// Starts a publisher with a client that is configured from environment variables, the shared AWS configuration
    /// files and the metadata services of the machine, as that of
    /// [the AWS tools](https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html) is. Single
    /// sign-on and credential processes are not among its ways; make a client of your own for those.
    #[cfg(feature = "env")]
    pub async fn builder_from_env() -> SqsPublisherBuilder {
        let config = aws_config::load_defaults(aws_sdk_sqs::config::BehaviorVersion::v2026_01_12()).await;
        Self::builder(Client::new(&config))
    }

    /// Looks up the queues that the settings name, instead of with the first message: for a service that wants to learn
    /// at its start whether its settings are right. Queues that only `route_with` or a topic names are not among them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Permission`], [`ErrorKind::Unavailable`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn connect(&self) -> Result<()> {
        let deadline = Instant::now() + self.call_timeout;
        for queue in self.routing.destinations() {
            let url = self.queues.url(&self.client, &self.overrides, queue, deadline).await;
            url.map_err(|failure| failure.to_error().with("queue", queue.as_str()))?;
        }
        Ok(())
    }

    /// Looks at the queues that the settings name: whether they are there, and FIFO queues if their names say so. Where the
    /// settings name none, it asks whether the service answers and knows the credentials. Nobody knows before there is a
    /// message where a closure or a topic's name leads.
    ///
    /// It needs the rights `sqs:GetQueueUrl` (for queues by name) and `sqs:GetQueueAttributes`. Whether the credentials may
    /// send does not show.
    ///
    /// # Errors
    /// What is wrong first, with the name of the queue: [`ErrorKind::NotFound`], [`ErrorKind::Permission`],
    /// [`ErrorKind::Config`] (a FIFO queue that is none, or the other way round), [`ErrorKind::Unavailable`],
    /// [`ErrorKind::Timeout`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn check(&self) -> Result<()> {
        check::run(self).await
    }

    /// Publishes what has passed the checks. What has no outcome afterwards was forgotten.
    async fn publish_ready(&self, bound: Vec<Bound>, outcomes: &mut [Option<Outcome>]) {
        let deadline = Instant::now() + self.call_timeout;
        let urls = join_all(
            bound.iter().map(|to| self.queues.url(&self.client, &self.overrides, &to.queue, deadline)),
        )
        .await;
        let mut requests = Vec::new();
        for (to, url) in bound.iter().zip(&urls) {
            match url {
                Ok(url) => {
                    let sizes = to.messages.iter().map(|message| message.size);
                    requests.extend(pack(sizes, self.limits).into_iter().map(|range| Request {
                        queue: &to.queue,
                        url,
                        messages: &to.messages[range],
                    }));
                }
                Err(failure) => {
                    for message in &to.messages {
                        let error = failure.to_error().with("queue", to.queue.as_str());
                        outcomes[message.index] = Some(Err(error));
                    }
                }
            }
        }

        let call = Requests { client: &self.client, overrides: &self.overrides, call: Call::until(deadline) };
        let call = &call;
        // Made ahead, and begun by being polled: a stream of closures would not be `Send`.
        let all: Vec<_> = requests
            .into_iter()
            .map(|request| async move { (request.queue, request.messages, call.run(&request).await) })
            .collect();
        let mut running = futures_util::stream::iter(all).buffer_unordered(self.requests_in_flight);
        while let Some((queue, messages, answers)) = running.next().await {
            if answers.iter().any(|answer| is(answer, ErrorKind::NotFound)) {
                self.queues.forget(queue);
            }
            for (message, answer) in messages.iter().zip(answers) {
                outcomes[message.index] = Some(answer);
            }
        }
    }
}

#[async_trait]
impl Publisher for SqsPublisher {
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
            match Outgoing::new(index, message, &self.routing, self.max_message_bytes) {
                Ok(outgoing) => ready.push(outgoing),
                Err(error) => outcomes[index] = Some(Err(error)),
            }
        }
        let indices: Vec<usize> = ready.iter().map(|outgoing| outgoing.index).collect();
        if !ready.is_empty() {
            Box::pin(self.publish_ready(by_queue(ready), &mut outcomes)).await;
        }
        complete(outcomes, &indices)
    }
}

/// Sorts messages by their queues. The order stays.
fn by_queue(ready: Vec<Outgoing>) -> Vec<Bound> {
    let mut places: HashMap<Queue, usize> = HashMap::new();
    let mut bound: Vec<Bound> = Vec::new();
    for message in ready {
        let place = *places.entry(message.queue.clone()).or_insert(bound.len());
        match bound.get_mut(place) {
            Some(to) => to.messages.push(message),
            None => bound.push(Bound { queue: message.queue.clone(), messages: vec![message] }),
        }
    }
    bound
}

fn is(outcome: &Outcome, kind: ErrorKind) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == kind)
}
