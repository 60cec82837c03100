//! The message: what a service enqueues and a publisher sends.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::time::Timestamp;

/// Identifies a message for ever: through retries, restarts, dead letters and redrives, and at the consumer.
///
/// Version 7 by default, so that ids sort by the time they were made. Hand-written rows may use any version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MessageId(Uuid);

impl MessageId {
    /// A new id (UUID version 7).
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The UUID itself.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Uuid> for MessageId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl From<MessageId> for Uuid {
    fn from(id: MessageId) -> Self {
        id.0
    }
}

impl std::str::FromStr for MessageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Uuid::parse_str(text).map(Self).map_err(|source| {
            Error::malformed("a message id is a UUID such as 018f4d2e-7b1a-7c3d-9e5f-0123456789ab")
                .with("value", text)
                .with_source(source)
        })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// String headers that travel with the message, sorted by name.
pub type Headers = BTreeMap<String, String>;

/// The W3C Trace Context header that carries the parent span (<https://www.w3.org/TR/trace-context/>).
pub const TRACEPARENT: &str = "traceparent";
/// The W3C Trace Context header that carries vendor data.
pub const TRACESTATE: &str = "tracestate";

/// Where the current trace comes from, so that it travels with each message.
///
/// A store's enqueue functions ask it once per message and keep headers that are there already. Implement it
/// over whatever tracer the service uses; the core knows none.
pub trait TraceContext: Send + Sync + 'static {
    /// The active trace, or `None` outside of one.
    fn current(&self) -> Option<Trace>;
}

/// The two W3C header values of an active trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The value of [`TRACEPARENT`].
    pub parent: String,
    /// The value of [`TRACESTATE`], where there is one.
    pub state: Option<String>,
}

/// What a type must tell to be used as per-message options of one publisher.
///
/// The options are stored as JSON under [`PublisherOptions::PUBLISHER`], so that a message can carry options for
/// several publishers and each reads its own.
pub trait PublisherOptions: Serialize + DeserializeOwned {
    /// The publisher's name, as its [`Publisher::name`](crate::Publisher::name) gives it.
    const PUBLISHER: &'static str;
}

/// Broker-specific options, as JSON by publisher name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Options(Map<String, Value>);

impl Options {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one publisher's options, replacing what it had.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if they cannot be written as JSON.
    pub fn set<O: PublisherOptions>(&mut self, options: &O) -> Result<()> {
        let value = serde_json::to_value(options).map_err(|source| {
            Error::malformed("options cannot be written as JSON")
                .with("publisher", O::PUBLISHER)
                .with_source(source)
        })?;
        self.0.insert(O::PUBLISHER.to_owned(), value);
        Ok(())
    }

    /// Reads one publisher's options; `None` if the message carries none for it.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if they are there but do not fit, for instance because of an unknown field. A
    /// publisher passes this on as the message's outcome, so that it becomes a dead letter with the reason.
    pub fn get<O: PublisherOptions>(&self) -> Result<Option<O>> {
        let Some(value) = self.0.get(O::PUBLISHER) else { return Ok(None) };
        // A list would be taken for the fields, in whatever order they happen to be declared.
        if value.is_array() {
            return Err(Error::malformed(
                "the message's options for this publisher do not fit: they are a list, and must be an object",
            )
            .with("publisher", O::PUBLISHER));
        }
        O::deserialize(value).map(Some).map_err(|source| {
            Error::malformed(format!("the message's options for this publisher do not fit: {source}"))
                .with("publisher", O::PUBLISHER)
        })
    }

    /// The stored JSON.
    pub fn as_json(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Takes stored JSON as it is; what each publisher makes of its part shows when it reads it.
    pub fn from_json(json: Map<String, Value>) -> Self {
        Self(json)
    }
}

/// A message: enqueued in the caller's transaction, published by the relay.
///
/// ```
/// use outbox_core::Message;
///
/// let message = Message::json("order.placed", &serde_json::json!({ "order": 17 }))?
///     .key("customer-4")
///     .header("tenant", "acme")
///     .build()?;
/// assert_eq!(message.content_type(), Some("application/json"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Message {
    id: MessageId,
    topic: String,
    key: Option<String>,
    payload: Bytes,
    content_type: Option<String>,
    headers: Headers,
    options: Options,
    deliver_at: Option<Timestamp>,
}

impl Message {
    /// Starts a message with a payload of raw bytes.
    pub fn bytes(topic: impl Into<String>, payload: impl Into<Bytes>) -> MessageBuilder {
        MessageBuilder::new(topic.into(), payload.into())
    }

    /// Starts a message with `payload` as JSON, and the content type `application/json`.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if `payload` cannot be written as JSON, such as a map with keys that are no text.
    pub fn json<T: Serialize + ?Sized>(topic: impl Into<String>, payload: &T) -> Result<MessageBuilder> {
        let topic = topic.into();
        let bytes = serde_json::to_vec(payload).map_err(|source| {
            Error::malformed("the payload cannot be written as JSON")
                .with("topic", &topic)
                .with_source(source)
        })?;
        Ok(MessageBuilder::new(topic, bytes.into()).content_type("application/json"))
    }

    /// The id, stable for ever.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// The logical destination.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The ordering key. Messages with the same key are published in the order in which they were enqueued.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload's media type.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The broker-specific options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The earliest time of delivery, if it was scheduled.
    pub fn deliver_at(&self) -> Option<Timestamp> {
        self.deliver_at
    }

    /// Adds the active trace, unless the message already carries one.
    pub fn set_trace(&mut self, trace: Trace) {
        if !self.headers.contains_key(TRACEPARENT) {
            self.headers.insert(TRACEPARENT.to_owned(), trace.parent);
            if let Some(state) = trace.state {
                self.headers.insert(TRACESTATE.to_owned(), state);
            }
        }
    }

    /// What the message occupies in memory and, roughly, on the wire: payload plus texts.
    pub fn size(&self) -> usize {
        self.payload.len()
            + self.topic.len()
            + self.key.as_ref().map_or(0, String::len)
            + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

impl fmt::Debug for Message {
    /// Shows the payload's length only: payloads hold personal data and do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("key", &self.key)
            .field("payload_len", &self.payload.len())
            .field("content_type", &self.content_type)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("deliver_at", &self.deliver_at)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Message`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct MessageBuilder {
    message: Message,
    /// A new one is made only where none is given: it costs a call to the system.
    id: Option<MessageId>,
    error: Option<String>,
}

impl MessageBuilder {
    fn new(topic: String, payload: Bytes) -> Self {
        let message = Message {
            id: MessageId(Uuid::nil()),
            topic,
            key: None,
            payload,
            content_type: None,
            headers: Headers::new(),
            options: Options::new(),
            deliver_at: None,
        };
        Self { message, id: None, error: None }
    }

    /// Sets the id, for instance one that the business row already has. Default: a new UUID version 7.
    pub fn id(mut self, id: impl Into<MessageId>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the ordering key. Default: none, and no order.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.message.key = Some(key.into());
        self
    }

    /// Sets the payload's media type. Default: none for bytes, `application/json` for JSON.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.message.content_type = Some(content_type.into());
        self
    }

    /// Sets a header, replacing one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.message.headers.insert(name.into(), value.into());
        self
    }

    /// Sets headers, replacing those of the same names.
    pub fn headers(mut self, headers: impl IntoIterator<Item = (String, String)>) -> Self {
        self.message.headers.extend(headers);
        self
    }

    /// Sets the earliest time of delivery. Default: at once.
    ///
    /// Such a message takes its place in its key's order when it becomes due, not when it was enqueued: later
    /// messages of its key do not wait for it.
    pub fn deliver_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.message.deliver_at = Some(time.into());
        self
    }

    /// Sets the options for one publisher. What cannot be written as JSON is reported by [`build`](Self::build).
    pub fn options<O: PublisherOptions>(mut self, options: &O) -> Self {
        if let Err(error) = self.message.options.set(options) {
            self.error.get_or_insert(error.report());
        }
        self
    }

    /// Replaces all options by stored JSON.
    pub fn raw_options(mut self, options: Options) -> Self {
        self.message.options = options;
        self
    }

    /// Carries a trace on.
    pub fn trace(mut self, trace: Trace) -> Self {
        self.message.set_trace(trace);
        self
    }

    /// Checks and gives the message.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if the topic is empty, a text holds a NUL character (PostgreSQL and several
    /// brokers cannot keep it), a header name is empty, or options could not be written as JSON.
    pub fn build(self) -> Result<Message> {
        if let Some(error) = self.error {
            return Err(Error::new(ErrorKind::Malformed, error));
        }
        let mut message = self.message;
        message.id = self.id.unwrap_or_default();
        check_text("topic", &message.topic)?;
        if message.topic.is_empty() {
            return Err(Error::malformed("the topic is empty; name a destination"));
        }
        if let Some(key) = &message.key {
            check_text("key", key)?;
        }
        if let Some(content_type) = &message.content_type {
            check_text("content_type", content_type)?;
        }
        for (name, value) in &message.headers {
            if name.is_empty() {
                return Err(Error::malformed("a header has an empty name"));
            }
            check_text("header", name)?;
            check_text("header", value)?;
        }
        Ok(message)
    }
}

fn check_text(field: &'static str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::malformed(
            "a text holds a NUL character, which PostgreSQL and several brokers cannot keep",
        )
        .with("field", field));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TestOptions {
        priority: u8,
    }

    impl PublisherOptions for TestOptions {
        const PUBLISHER: &'static str = "test";
    }

    #[test]
    fn options_round_trip_and_refuse_unknown_fields() {
        let message = Message::bytes("t", "x").options(&TestOptions { priority: 3 }).build().unwrap();
        assert_eq!(message.options().get::<TestOptions>().unwrap(), Some(TestOptions { priority: 3 }));

        let json = serde_json::json!({ "test": { "priority": 3, "prioritty": 4 } });
        let Value::Object(map) = json else { unreachable!() };
        let error = Options::from_json(map).get::<TestOptions>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains("prioritty"), "{error}");
    }

    #[test]
    fn a_list_of_options_is_not_taken_for_their_fields() {
        for list in [serde_json::json!({ "test": [3] }), serde_json::json!({ "test": [] })] {
            let Value::Object(map) = list else { unreachable!() };
            let error = Options::from_json(map).get::<TestOptions>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(error.to_string().contains("a list"), "{error}");
        }
    }

    #[test]
    fn what_no_database_could_keep_is_refused() {
        for builder in [
            Message::bytes("", "x"),
            Message::bytes("a\0b", "x"),
            Message::bytes("t", "x").key("\0"),
            Message::bytes("t", "x").header("", "v"),
            Message::bytes("t", "x").header("n", "v\0"),
        ] {
            assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Malformed);
        }
    }

    #[test]
    fn debug_shows_neither_payload_nor_header_values() {
        let message = Message::bytes("t", "secret-payload").header("h", "secret-value").build().unwrap();
        assert!(!format!("{message:?}").contains("secret"), "{message:?}");
    }

    #[test]
    fn a_trace_already_there_is_kept() {
        let trace = |parent: &str| Trace { parent: parent.to_owned(), state: None };
        let mut message = Message::bytes("t", "").trace(trace("first")).build().unwrap();
        message.set_trace(trace("second"));
        assert_eq!(message.headers()[TRACEPARENT], "first");
    }
}
