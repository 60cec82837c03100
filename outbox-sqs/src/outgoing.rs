//! A message made ready for SQS, with everything refused that SQS would refuse.

use std::collections::HashMap;

use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use outbox_core::publishing::Routing;
use outbox_core::{Error, ErrorKind, Message, Result};

use crate::attributes;
use crate::options::SqsOptions;
use crate::queue::Queue;
use crate::text::{group_of_key, is_queue_name, is_text};

/// The type of every attribute.
const STRING: &str = "String";
/// SQS refuses an empty body, so this one stands for it, with the encoding `empty`.
const EMPTY: &str = "-";

/// A message ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) queue: Queue,
    /// What of it counts towards the limits of SQS: the body, and names, types and values of the attributes.
    pub(crate) size: usize,
    /// Its id, which is its place in the request, is set later.
    entry: SendMessageBatchRequestEntry,
}

impl Outgoing {
    /// Reads the message's options, routes it and translates it.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], both permanent, and [`ErrorKind::NotFound`].
    pub(crate) fn new(
        index: usize,
        message: &Message,
        routing: &Routing<Queue>,
        max_bytes: usize,
    ) -> Result<Self> {
        let options = message.options().get::<SqsOptions>()?.unwrap_or_default();
        let queue = routing.route(message, |topic| Queue::name(topic));
        check_name(&queue)?;
        let fifo = queue.is_fifo();
        options.check(fifo)?;

        let (body, encoding) = body(message.payload());
        let attributes = attributes::of(message, encoding);
        let of_attributes = attributes.iter().map(|(name, value)| name.len() + STRING.len() + value.len());
        let size = body.len() + of_attributes.sum::<usize>();
        if size > max_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the message is larger than SQS takes; store the payload elsewhere and send where it is",
            )
            .with("bytes_with_attributes", size)
            .with("max_message_bytes", max_bytes));
        }

        let id = || message.id().to_string();
        let group = || message.key().map_or_else(id, group_of_key);
        let entry = entry(body, attributes, &options, fifo, id, group).map_err(|error| {
            Error::new(ErrorKind::Internal, "the message cannot be put into a request").with_source(error)
        })?;
        Ok(Self { index, queue, size, entry })
    }

    /// The entry for this place in a request.
    pub(crate) fn at(&self, place: usize) -> SendMessageBatchRequestEntry {
        let mut entry = self.entry.clone();
        entry.id = place.to_string();
        entry
    }
}

fn entry(
    body: String,
    attributes: impl IntoIterator<Item = (String, String)>,
    options: &SqsOptions,
    fifo: bool,
    id: impl Fn() -> String,
    group: impl Fn() -> String,
) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let mut typed = HashMap::new();
    for (name, value) in attributes {
        typed.insert(name, MessageAttributeValue::builder().data_type(STRING).string_value(value).build()?);
    }
    SendMessageBatchRequestEntry::builder()
        .id("0")
        .message_body(body)
        .set_message_attributes(Some(typed))
        // It is at most 900.
        .set_delay_seconds(options.delay_seconds.and_then(|seconds| i32::try_from(seconds).ok()))
        .set_message_group_id(options.message_group_id.clone().or_else(|| fifo.then(group)))
        .set_message_deduplication_id(options.message_deduplication_id.clone().or_else(|| fifo.then(id)))
        .build()
}

/// The payload as a body, and how it was encoded, if it was.
fn body(payload: &[u8]) -> (String, Option<&'static str>) {
    match std::str::from_utf8(payload) {
        Ok("") => (EMPTY.to_owned(), Some("empty")),
        Ok(text) if is_text(text) => (text.to_owned(), None),
        _ => (BASE64_STANDARD.encode(payload), Some("base64")),
    }
}

/// A name that no queue can have is told as what it leads to. It is for people to correct the routing.
fn check_name(queue: &Queue) -> Result<()> {
    if queue.as_url().is_none() && !is_queue_name(queue.as_str()) {
        return Err(Error::new(
            ErrorKind::NotFound,
            "no queue can have this name (letters, digits, - and _, 80 at most); lead the topic to a queue by `route`, \
             `route_with` or `queue`",
        )
        .with("queue", queue.as_str()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
