//! A message made ready for NATS. What the server would take for something else is refused, or travels as JSON.

use std::str::FromStr;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use outbox_core::publishing::Routing;
use outbox_core::{Error, ErrorKind, Message, Result};

use crate::options::NatsOptions;
use crate::subject;

const ID: &str = "Nats-Msg-Id";
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
const TTL: &str = "Nats-TTL";
const TOPIC: &str = "outbox-topic";
const KEY: &str = "outbox-key";
const CONTENT_TYPE: &str = "content-type";
/// What cannot be a header, as JSON.
const MORE: &str = "outbox-more";

/// The server takes headers that begin so as commands, such as the one that deletes earlier messages.
const SERVER: &str = "nats-";
/// The publisher's own headers begin so.
const OWN: &str = "outbox-";

/// A message ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// Whether the stream shall delete it after a time, which not every server can.
    pub(crate) has_ttl: bool,
}

impl Outgoing {
    /// Reads the options of the message, finds its subject and makes its headers.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], both permanent.
    pub(crate) fn new(
        index: usize,
        message: &Message,
        routing: &Routing<String>,
        expected_stream: Option<&str>,
        max_bytes: usize,
    ) -> Result<Self> {
        let options = message.options().get::<NatsOptions>()?.unwrap_or_default();
        options.check()?;
        let subject = options.subject.clone().unwrap_or_else(|| subject::of(message, routing));
        subject::check(&subject)?;
        let payload = message.payload();
        if payload.len() > max_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the payload is larger than the publisher's limit; store it elsewhere and send a reference, or raise \
                 max_message_bytes and the server's max_payload",
            )
            .with("bytes", payload.len())
            .with("max_message_bytes", max_bytes));
        }

        let stream = options.stream.as_deref().or(expected_stream);
        let ttl = options.ttl_seconds.map(|seconds| seconds.to_string());
        let mut headers = HeaderMap::new();
        let own = [
            (ID, Some(message.id().to_string())),
            (EXPECTED_STREAM, stream.map(str::to_owned)),
            (TTL, ttl.clone()),
            (MORE, more(message)?),
        ];
        for (name, value) in own {
            if let Some(value) = value {
                insert(&mut headers, name, &value)?;
            }
        }
        for (name, value) in fields(message).into_iter().filter(|(_, value)| fits(value)) {
            insert(&mut headers, name, value)?;
        }
        if all_are_headers(message) {
            for (name, value) in message.headers() {
                insert(&mut headers, name, value)?;
            }
        }
        Ok(Self { index, subject, headers, payload: payload.clone(), has_ttl: ttl.is_some() })
    }
}

/// The parts of a message that have a header each.
fn fields(message: &Message) -> Vec<(&'static str, &str)> {
    let all = [(TOPIC, Some(message.topic())), (KEY, message.key()), (CONTENT_TYPE, message.content_type())];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A JSON object with everything that cannot be a header, if there is something.
fn more(message: &Message) -> Result<Option<String>> {
    let mut more = serde_json::Map::new();
    for (name, value) in fields(message).into_iter().filter(|(_, value)| !fits(value)) {
        let name = name.trim_start_matches(OWN).replace('-', "_");
        more.insert(name, value.into());
    }
    if !all_are_headers(message) {
        let headers = message.headers().iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        more.insert("headers".to_owned(), serde_json::Value::Object(headers.collect()));
    }
    if more.is_empty() {
        return Ok(None);
    }
    let json = serde_json::to_string(&more);
    json.map(Some).map_err(|error| {
        Error::new(ErrorKind::Internal, "the headers cannot be written as JSON").with_source(error)
    })
}

/// Whether each header of the message can be a header of NATS. A name that the server or a consumer would take for a command or
/// for a header of the publisher cannot.
fn all_are_headers(message: &Message) -> bool {
    message.headers().iter().all(|(name, value)| {
        let begins_with =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let reserved = begins_with(SERVER) || begins_with(OWN) || name.eq_ignore_ascii_case(CONTENT_TYPE);
        !reserved && HeaderName::from_str(name).is_ok() && fits(value)
    })
}

/// Whether a text can be the value of a header: the protocol ends a value with a line break, and readers cut off the spaces
/// around it.
fn fits(value: &str) -> bool {
    value.trim() == value && !value.contains(['\r', '\n'])
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<()> {
    let name = HeaderName::from_str(name).ok();
    match name.zip(HeaderValue::from_str(value).ok()) {
        Some((name, value)) => {
            headers.insert(name, value);
            Ok(())
        }
        // All of them were checked.
        None => Err(Error::new(ErrorKind::Internal, "the client library refuses a header")),
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
