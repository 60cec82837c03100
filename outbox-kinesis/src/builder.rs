//! Settings of a publisher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use outbox_aws::Limits;
use outbox_core::publishing::{Routing, check_limits, check_timeout};
use outbox_core::{Error, Message, PublisherCapabilities, Result};

use crate::format::Format;
use crate::publisher::KinesisPublisher;
use crate::stream::Stream;

/// `PutRecords` takes so many records: <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html>.
const MAX_ENTRIES: usize = 500;
/// The largest record a stream can be set to take, and the largest request. The same page.
const MAX_BYTES: usize = 10 << 20;
/// What a stream takes unless it is set to take more:
/// <https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html>.
const DEFAULT_RECORD_BYTES: usize = 1 << 20;
/// What every endpoint takes, those with the former limit among them.
const DEFAULT_REQUEST_BYTES: usize = 5 << 20;
/// More requests at a time than this need more than one client.
const MAX_IN_FLIGHT: usize = 256;

/// Builds a [`KinesisPublisher`]. Every setting has a default.
#[must_use = "a builder does nothing until it is built"]
pub struct KinesisPublisherBuilder {
    client: Client,
    routing: Routing<Stream>,
    format: Format,
    requests_in_flight: usize,
    call_timeout: Duration,
    throttle_patience: Duration,
    max_record_bytes: usize,
    max_request_bytes: usize,
    max_batch_messages: usize,
    max_batch_bytes: usize,
}

impl fmt::Debug for KinesisPublisherBuilder {
    /// Without the client, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisPublisherBuilder")
            .field("routing", &self.routing)
            .field("format", &self.format)
            .field("requests_in_flight", &self.requests_in_flight)
            .field("call_timeout", &self.call_timeout)
            .field("throttle_patience", &self.throttle_patience)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("max_request_bytes", &self.max_request_bytes)
            .field("max_batch_messages", &self.max_batch_messages)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .finish_non_exhaustive()
    }
}

impl KinesisPublisherBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            routing: Routing::default(),
            format: Format::default(),
            requests_in_flight: 4,
            call_timeout: Duration::from_secs(8),
            throttle_patience: Duration::from_secs(1),
            max_record_bytes: DEFAULT_RECORD_BYTES,
            max_request_bytes: DEFAULT_REQUEST_BYTES,
            max_batch_messages: MAX_ENTRIES,
            max_batch_bytes: PublisherCapabilities::default().max_batch_bytes,
        }
    }

    /// Sends all topics without a route of their own to one stream. Default: none, and each topic is the name of its
    /// stream.
    pub fn stream(mut self, stream: Stream) -> Self {
        self.routing.default = Some(stream);
        self
    }

    /// Sends one topic to a stream. Goes before [`route_with`](Self::route_with) and [`stream`](Self::stream).
    pub fn route(mut self, topic: impl Into<String>, stream: Stream) -> Self {
        self.routing.table.insert(topic.into(), stream);
        self
    }

    /// Sets a closure that gives the stream of a message. It goes before [`stream`](Self::stream), is called for every
    /// attempt, and must be quick and not panic.
    pub fn route_with(mut self, rule: impl Fn(&Message) -> Stream + Send + Sync + 'static) -> Self {
        self.routing.rule = Some(Arc::new(rule));
        self
    }

    /// Sets what the data of a record is. Default: [`Format::Envelope`].
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets how many requests of one [`publish`](outbox_core::Publisher::publish) call are on their way at once, each
    /// with up to 500 records. A relay makes several calls at once. Default: 4. 1 to 256.
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

    /// Sets for how long a call sends records again whose shards are busy, with growing pauses, before it gives them back
    /// to the relay, which then waits a second or more. The other messages of the call wait meanwhile. Default: 1
    /// second. Zero gives them back at once.
    pub fn throttle_patience(mut self, patience: Duration) -> Self {
        self.throttle_patience = patience;
        self
    }

    /// Sets the largest record in bytes, data and partition key together; larger ones are refused before they are sent.
    /// Default: 1 MiB, as for streams. Raise it, to 10 MiB at most, where the stream's `MaxRecordSizeInKiB` is higher.
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.max_record_bytes = bytes;
        self
    }

    /// Sets the most bytes of the records of one request. Default: 5 MiB. 10 MiB at most.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Sets the most messages of one call, which makes as many requests of it as it takes. Default: 500, one full
    /// request.
    pub fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = messages;
        self
    }

    /// Sets the most bytes of one call. Default: 4 MiB.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// Checks the settings. Nothing is looked at yet; see [`KinesisPublisher::connect`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) for a limit out of bounds, or a stream that cannot be.
    pub fn build(self) -> Result<KinesisPublisher> {
        self.check()?;
        let overrides = aws_sdk_kinesis::config::Builder::new().retry_config(RetryConfig::disabled());
        let max_record_bytes = self.max_record_bytes.min(self.max_request_bytes);
        Ok(KinesisPublisher {
            client: self.client,
            overrides,
            routing: self.routing,
            format: self.format,
            limits: Limits { entries: MAX_ENTRIES, bytes: self.max_request_bytes },
            max_record_bytes,
            requests_in_flight: self.requests_in_flight,
            call_timeout: self.call_timeout,
            throttle_patience: self.throttle_patience,
            capabilities: PublisherCapabilities::default()
                .max_batch_messages(self.max_batch_messages)
                .max_batch_bytes(self.max_batch_bytes)
                .max_message_bytes(Some(max_record_bytes)),
        })
    }

    fn check(&self) -> Result<()> {
        check_limits(&[
            ("requests_in_flight", self.requests_in_flight, MAX_IN_FLIGHT),
            ("max_record_bytes", self.max_record_bytes, MAX_BYTES),
            ("max_request_bytes", self.max_request_bytes, MAX_BYTES),
            ("max_batch_messages", self.max_batch_messages, usize::MAX),
            ("max_batch_bytes", self.max_batch_bytes, usize::MAX),
        ])?;
        check_timeout("call_timeout", self.call_timeout)?;
        if self.throttle_patience > self.call_timeout {
            return Err(Error::config("throttle_patience must not be longer than call_timeout")
                .with("value", format_args!("{:?}", self.throttle_patience)));
        }
        match self.routing.destinations().find(|stream| !stream.is_possible()) {
            None => Ok(()),
            Some(stream) => Err(Error::config(
                "a stream is named by at most 128 letters, digits, -, _ and ., or by an ARN that ends in :stream/ and its name",
            )
            .with("stream", stream.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::config::{BehaviorVersion, Config, Credentials, Region};
    use outbox_core::{ErrorKind, Publisher as _};

    use super::*;

    fn builder() -> KinesisPublisherBuilder {
        let credentials = Credentials::new("AKIDs3cret", "s3cret", Some("s3cret".to_owned()), None, "t");
        let config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-central-1"))
            .credentials_provider(credentials)
            .build();
        KinesisPublisher::builder(Client::from_conf(config))
    }

    #[test]
    fn settings_that_cannot_work_are_refused_and_named() {
        for (builder, named) in [
            (builder().requests_in_flight(0), "requests_in_flight"),
            (builder().max_record_bytes((10 << 20) + 1), "max_record_bytes"),
            (builder().max_request_bytes(0), "max_request_bytes"),
            (builder().max_batch_messages(0), "max_batch_messages"),
            (builder().max_batch_bytes(0), "max_batch_bytes"),
            (builder().call_timeout(Duration::ZERO), "call_timeout"),
            (builder().call_timeout(Duration::MAX), "call_timeout"),
            (builder().throttle_patience(Duration::from_secs(9)), "throttle_patience"),
            (builder().stream(Stream::name("order placed")), "order placed"),
            (builder().route("t", Stream::arn("orders")), "orders"),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn the_capabilities_follow_the_settings() {
        let publisher = builder().max_record_bytes(8 << 20).build().unwrap();
        let capabilities = publisher.capabilities();
        assert_eq!(capabilities.max_message_bytes, Some(5 << 20));
        assert_eq!(capabilities.max_batch_messages, 500);
        assert!(!capabilities.ordered_batches);
        assert_eq!(publisher.name(), "kinesis");
    }

    #[test]
    fn no_credentials_are_in_the_debug_form() {
        let builder = builder().route_with(|_| Stream::name("s")).stream(Stream::name("s"));
        let text = format!("{builder:?}");
        let text = format!("{text}{:?}", builder.build().unwrap());
        assert!(text.contains("routing") && !text.contains("s3cret"), "{text}");
    }
}
