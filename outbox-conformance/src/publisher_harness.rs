//! The interface that a test of a publisher implements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{Headers, MessageId, Options, Publisher, Result};

/// Creates empty destinations on the broker under test.
#[async_trait]
pub trait PublisherHarness: Send + Sync {
    /// Creates a new topic that no other case uses, and a consumer that reads it. Called once per case.
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn create(&self) -> Result<Box<dyn PublisherFixture>>;

    /// The names of the cases that do not apply to this publisher, such as `"failing::a_cut_is_survived"`.
    ///
    /// A case that does not apply and is not listed here fails, so that no case is skipped silently. A listed
    /// case that does apply fails too. Default: none.
    fn not_applicable(&self) -> &[&str] {
        &[]
    }
}

/// One topic and its consumer, for one case.
#[async_trait]
pub trait PublisherFixture: Send + Sync {
    /// The properties that the broker carries to its consumers.
    fn traits(&self) -> PublisherTraits;

    /// Returns a new publisher, with separate connections that are subject to [`inject`](Self::inject).
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn publisher(&self) -> Result<Arc<dyn Publisher>>;

    /// The topic that the consumer reads.
    fn topic(&self) -> String;

    /// Returns everything the consumer has received since the fixture was created, in the order of arrival,
    /// as soon as there are at least `at_least` messages, or `within` has passed. The consumer's own
    /// connection is not subject to [`inject`](Self::inject), or is restored automatically.
    ///
    /// # Errors
    /// Any error other than too few messages; the case fails with it.
    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>>;

    /// A topic without a consumer, so that the broker cannot route the message. Default: none, for brokers
    /// that keep messages of any topic.
    fn unroutable_topic(&self) -> Option<String> {
        None
    }

    /// The size of a payload that is too large for the broker or the publisher. Default: none.
    fn oversized_payload(&self) -> Option<usize> {
        None
    }

    /// Per-message options that the publisher cannot parse. Default: none, for publishers without options.
    fn invalid_options(&self) -> Option<Options> {
        None
    }

    /// Options that a message may carry, and the part of them that [`Received::options`] must then show.
    /// Default: none, for publishers without options, or whose consumers do not see them.
    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        None
    }

    /// The failures that [`inject`](Self::inject) can cause. Default: none.
    fn faults(&self) -> &[Fault] {
        &[]
    }

    /// Causes a failure between the publishers of this fixture and the broker. Called only with one of
    /// [`faults`](Self::faults).
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn inject(&self, fault: Fault) -> Result<()> {
        let _ = fault;
        Ok(())
    }

    /// Ends the failure. Called after every [`inject`](Self::inject).
    ///
    /// # Errors
    /// Any error; the case fails with it.
    async fn heal(&self) -> Result<()> {
        Ok(())
    }

    /// Removes everything that [`PublisherHarness::create`] created, after the case, whether or not it
    /// passed. Default: nothing.
    async fn destroy(&self) {}
}

/// A failure between a publisher and its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The open connections end. New ones work immediately.
    Cut,
    /// The open connections end, and new ones are refused until the failure is healed.
    Down,
    /// No data passes in either direction until the failure is healed, and no side is notified: connections
    /// stay open, and new ones may be accepted but receive nothing.
    Stalled,
    /// The broker answers that it accepts no messages at present, because the request rate is too high.
    Throttled,
    /// The broker executes requests, but its answers do not arrive: the connections end instead.
    AnswersLost,
    /// In each call, whatever its size, the broker accepts some messages and refuses others, and reports
    /// which ones. The reason is temporary: a refused message is accepted if it is sent often enough.
    SomeRefused,
}

/// The properties that a broker carries to its consumers. Start from [`PublisherTraits::default`], which has
/// all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublisherTraits {
    /// Whether consumers see the ordering key. Default: `true`.
    pub key: bool,
    /// Whether consumers see the topic. Default: `true`.
    pub topic: bool,
    /// Maximum number of headers of a message. Default: 50.
    pub headers: usize,
    /// Whether consumers see the content type. Default: `true`.
    pub content_type: bool,
    /// Whether the fixture's consumer receives the messages of a key in the order in which the broker
    /// accepted them. Default: `true`.
    pub ordered: bool,
    /// Whether a message may have an empty payload. Default: `true`.
    pub empty_payload: bool,
    /// Size of a large payload that must still work. Default: 200 KiB.
    pub payload_bytes: usize,
    /// Maximum time for a call, and for a condition that the broker fulfils without further calls, including
    /// recovery from a healed fault. Only a failing case waits this long. Default: 2 minutes, for slow and
    /// busy machines.
    pub deadline: Duration,
}

impl Default for PublisherTraits {
    fn default() -> Self {
        Self {
            key: true,
            topic: true,
            headers: 50,
            content_type: true,
            ordered: true,
            empty_payload: true,
            payload_bytes: 200 << 10,
            deadline: Duration::from_secs(120),
        }
    }
}

impl PublisherTraits {
    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn key(mut self, yes: bool) -> Self {
        self.key = yes;
        self
    }

    /// Sets [`topic`](Self::topic).
    #[must_use]
    pub fn topic(mut self, yes: bool) -> Self {
        self.topic = yes;
        self
    }

    /// Sets [`headers`](Self::headers).
    #[must_use]
    pub fn headers(mut self, most: usize) -> Self {
        self.headers = most;
        self
    }

    /// Sets [`content_type`](Self::content_type).
    #[must_use]
    pub fn content_type(mut self, yes: bool) -> Self {
        self.content_type = yes;
        self
    }

    /// Sets [`ordered`](Self::ordered).
    #[must_use]
    pub fn ordered(mut self, yes: bool) -> Self {
        self.ordered = yes;
        self
    }

    /// Sets [`empty_payload`](Self::empty_payload).
    #[must_use]
    pub fn empty_payload(mut self, yes: bool) -> Self {
        self.empty_payload = yes;
        self
    }

    /// Sets [`payload_bytes`](Self::payload_bytes).
    #[must_use]
    pub fn payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes;
        self
    }

    /// Sets [`deadline`](Self::deadline).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// A message as the consumer received it. Start from [`Received::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// The message id, if it is readable.
    pub id: Option<MessageId>,
    /// The topic, if consumers see it.
    pub topic: Option<String>,
    /// The ordering key, if there is one and consumers see it.
    pub key: Option<String>,
    /// The payload.
    pub payload: Bytes,
    /// The headers. Additional ones are allowed.
    pub headers: Headers,
    /// The content type, if there is one and consumers see it.
    pub content_type: Option<String>,
    /// The visible effects of the message's options, by names that the fixture chooses. Additional ones are
    /// allowed.
    pub options: BTreeMap<String, String>,
}

impl Received {
    /// Creates a received payload without further properties.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            id: None,
            topic: None,
            key: None,
            payload: payload.into(),
            headers: Headers::new(),
            content_type: None,
            options: BTreeMap::new(),
        }
    }

    /// Sets the id.
    #[must_use]
    pub fn id(mut self, id: Option<MessageId>) -> Self {
        self.id = id;
        self
    }

    /// Sets the topic.
    #[must_use]
    pub fn topic(mut self, topic: Option<String>) -> Self {
        self.topic = topic;
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: Option<String>) -> Self {
        self.key = key;
        self
    }

    /// Sets the headers.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the content type.
    #[must_use]
    pub fn content_type(mut self, content_type: Option<String>) -> Self {
        self.content_type = content_type;
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: BTreeMap<String, String>) -> Self {
        self.options = options;
        self
    }
}
