//! Settings of a publisher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use outbox_aws::Limits;
use outbox_core::publishing::{Routing, check_limits, check_timeout};
use outbox_core::{Error, Message, PublisherCapabilities, Result};

use crate::publisher::SqsPublisher;
use crate::queue::Queue;
use crate::queues::Queues;
use crate::text::is_queue_name;

/// `SendMessageBatch` takes so many messages:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>.
const MAX_ENTRIES: usize = 10;
/// And so many bytes, of all messages together as of each one, attributes included. The same page.
const MAX_BYTES: usize = 1 << 20;
/// More requests at a time than this need more than one client.
const MAX_IN_FLIGHT: usize = 256;

/// Builds an [`SqsPublisher`]. Every setting has a default.
#[must_use = "a builder does nothing until it is built"]
pub struct SqsPublisherBuilder {
    client: Client,
    routing: Routing<Queue>,
    owner: Option<String>,
    requests_in_flight: usize,
    call_timeout: Duration,
    max_message_bytes: usize,
    max_request_bytes: usize,
    max_batch_messages: usize,
    max_batch_bytes: usize,
}

impl fmt::Debug for SqsPublisherBuilder {
    /// Without the client, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsPublisherBuilder")
            .field("routing", &self.routing)
            .field("owner", &self.owner)
            .field("requests_in_flight", &self.requests_in_flight)
            .field("call_timeout", &self.call_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("max_request_bytes", &self.max_request_bytes)
            .field("max_batch_messages", &self.max_batch_messages)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .finish_non_exhaustive()
    }
}

impl SqsPublisherBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let capabilities = PublisherCapabilities::default();
        Self {
            client,
            routing: Routing::default(),
            owner: None,
            requests_in_flight: 8,
            call_timeout: Duration::from_secs(8),
            max_message_bytes: MAX_BYTES,
            max_request_bytes: MAX_BYTES,
            max_batch_messages: capabilities.max_batch_messages,
            max_batch_bytes: capabilities.max_batch_bytes,
        }
    }

    /// Sends all topics without a route of their own to one queue. Default: none, and each topic is the name of its
    /// queue.
    pub fn queue(mut self, queue: Queue) -> Self {
        self.routing.default = Some(queue);
        self
    }

    /// Sends one topic to a queue. Goes before [`route_with`](Self::route_with) and [`queue`](Self::queue).
    pub fn route(mut self, topic: impl Into<String>, queue: Queue) -> Self {
        self.routing.table.insert(topic.into(), queue);
        self
    }

    /// Sets a closure that gives the queue of a message. It goes before [`queue`](Self::queue), is called for every
    /// attempt, and must be quick and not panic.
    pub fn route_with(mut self, rule: impl Fn(&Message) -> Queue + Send + Sync + 'static) -> Self {
        self.routing.rule = Some(Arc::new(rule));
        self
    }

    /// Sets the account that owns the queues which are known by name, 12 digits. Default: the client's own.
    pub fn queue_owner(mut self, account: impl Into<String>) -> Self {
        self.owner = Some(account.into());
        self
    }

    /// Sets how many requests of one [`publish`](outbox_core::Publisher::publish) call are on their way at once, each
    /// with up to 10 messages. A relay makes several calls at once. Default: 8. 1 to 256.
    pub fn requests_in_flight(mut self, requests: usize) -> Self {
        self.requests_in_flight = requests;
        self
    }

    /// Sets how long one call may take in all. After that the outcome of what was sent is unknown, and what was not yet
    /// sent is not. Default: 8 seconds, less than the 10 a relay allows by default, so that the relay hears what is
    /// known; a relay starts no call that its lease would not outlast.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit;
        self
    }

    /// Sets the largest message in bytes, body and attributes together; larger ones are refused before they are sent.
    /// Default: 1 MiB, which is [the most of SQS](https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html).
    /// Lower it to the `MaximumMessageSize` of the queue where that is lower.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Sets the most bytes of the messages of one request. Default: 1 MiB, the most of SQS. Lower it for servers that
    /// still have the former limit of 256 KiB.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Sets the most messages of one call, which makes as many requests of it as it takes. Default: 500.
    pub fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = messages;
        self
    }

    /// Sets the most bytes of one call. Default: 4 MiB.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// Checks the settings. Nothing is looked up yet; see [`SqsPublisher::connect`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) for a limit out of bounds, a queue's name that no queue can
    /// have, a URL that is none, or an account that is none.
    pub fn build(self) -> Result<SqsPublisher> {
        self.check()?;
        let overrides = aws_sdk_sqs::config::Builder::new().retry_config(RetryConfig::disabled());
        Ok(SqsPublisher {
            client: self.client,
            overrides,
            routing: self.routing,
            queues: Queues::new(self.owner),
            limits: Limits { entries: MAX_ENTRIES, bytes: self.max_request_bytes },
            max_message_bytes: self.max_message_bytes.min(self.max_request_bytes),
            requests_in_flight: self.requests_in_flight,
            call_timeout: self.call_timeout,
            capabilities: PublisherCapabilities::default()
                .max_batch_messages(self.max_batch_messages)
                .max_batch_bytes(self.max_batch_bytes)
                .max_message_bytes(Some(self.max_message_bytes.min(self.max_request_bytes))),
        })
    }

    fn check(&self) -> Result<()> {
        check_limits(&[
            ("requests_in_flight", self.requests_in_flight, MAX_IN_FLIGHT),
            ("max_message_bytes", self.max_message_bytes, MAX_BYTES),
            ("max_request_bytes", self.max_request_bytes, MAX_BYTES),
            ("max_batch_messages", self.max_batch_messages, usize::MAX),
            ("max_batch_bytes", self.max_batch_bytes, usize::MAX),
        ])?;
        check_timeout("call_timeout", self.call_timeout)?;
        if let Some(owner) = &self.owner
            && !(owner.len() == 12 && owner.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(
                Error::config("queue_owner must be the number of an account, 12 digits").with("value", owner)
            );
        }
        self.routing.destinations().try_for_each(check_queue)
    }
}

fn check_queue(queue: &Queue) -> Result<()> {
    let text = queue.as_str();
    let fits = match queue.as_url() {
        Some(url) => {
            ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme) && url.len() > scheme.len())
        }
        None => is_queue_name(text),
    };
    if fits {
        return Ok(());
    }
    Err(Error::config(
        "a queue is named by at most 80 letters, digits, - and _ (and .fifo at the end), or by a URL that begins with \
         https://",
    )
    .with("queue", text))
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::config::{BehaviorVersion, Config, Credentials, Region};
    use outbox_core::{ErrorKind, Publisher as _};

    use super::*;

    fn builder() -> SqsPublisherBuilder {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new(
                "AKIDs3cret",
                "s3cret",
                Some("s3cret".to_owned()),
                None,
                "t",
            ))
            .build();
        SqsPublisher::builder(Client::from_conf(config))
    }

    #[test]
    fn settings_that_cannot_work_are_refused_and_named() {
        for (builder, named) in [
            (builder().requests_in_flight(0), "requests_in_flight"),
            (builder().requests_in_flight(257), "requests_in_flight"),
            (builder().max_message_bytes((1 << 20) + 1), "max_message_bytes"),
            (builder().max_request_bytes(0), "max_request_bytes"),
            (builder().max_batch_messages(0), "max_batch_messages"),
            (builder().max_batch_bytes(0), "max_batch_bytes"),
            (builder().call_timeout(Duration::ZERO), "call_timeout"),
            (builder().call_timeout(Duration::MAX), "call_timeout"),
            (builder().queue_owner("me"), "queue_owner"),
            (builder().queue(Queue::name("order.placed")), "order.placed"),
            (builder().route("t", Queue::url("sqs.amazonaws.com/1/q")), "sqs.amazonaws.com/1/q"),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn the_capabilities_follow_the_settings() {
        let publisher = builder().max_request_bytes(256 << 10).build().unwrap();
        let capabilities = publisher.capabilities();
        assert_eq!(capabilities.max_message_bytes, Some(256 << 10));
        assert!(!capabilities.ordered_batches);
        assert_eq!(publisher.name(), "sqs");
    }

    #[test]
    fn no_credentials_are_in_the_debug_form() {
        let builder = builder().route_with(|_| Queue::name("q")).queue(Queue::name("q"));
        let text = format!("{builder:?}");
        assert!(text.contains("routing") && !text.contains("s3cret"), "{text}");
        let text = format!("{:?}", builder.build().unwrap());
        assert!(text.contains("routing") && !text.contains("s3cret"), "{text}");
    }
}
