//! What a message may ask of this publisher.

use outbox_core::{Error, PublisherOptions, Result};
use serde::{Deserialize, Serialize};

use crate::NAME;
use crate::text::is_token;

/// The longest delay SQS takes:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>.
const MAX_DELAY: u32 = 900;

/// Per-message options, stored as JSON under `"sqs"`.
///
/// Every field is optional. A field that does not exist, or a value that SQS does not take, makes the message a dead
/// letter with the reason ([`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed)); the other messages of its
/// batch are not affected.
///
/// ```
/// use outbox_core::Message;
/// use outbox_sqs::SqsOptions;
///
/// let message = Message::bytes("orders", "17").options(&SqsOptions::new().delay_seconds(60)).build()?;
/// assert_eq!(serde_json::to_string(message.options())?, r#"{"sqs":{"delay_seconds":60}}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SqsOptions {
    /// For how many seconds SQS hides the message from consumers, 0 to 900. Default: the queue's own delay. FIFO
    /// queues refuse it: they have a delay per queue only. For those, schedule the message with
    /// [`deliver_at`](outbox_core::MessageBuilder::deliver_at); the relay then publishes it at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<u32>,
    /// The message group, 1 to 128 letters, digits and punctuation marks of ASCII. Default: on a FIFO queue, the
    /// message's key, or its id if it has no key; on a standard queue none. On a standard queue a group makes the
    /// queue a fair one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_group_id: Option<String>,
    /// The deduplication id, of the same form. Default: on a FIFO queue, the message's id. Standard queues refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_deduplication_id: Option<String>,
}

impl PublisherOptions for SqsOptions {
    const PUBLISHER: &'static str = NAME;
}

impl SqsOptions {
    /// No options: everything follows the queue and the message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`delay_seconds`](Self::delay_seconds).
    #[must_use]
    pub fn delay_seconds(mut self, seconds: u32) -> Self {
        self.delay_seconds = Some(seconds);
        self
    }

    /// Sets [`message_group_id`](Self::message_group_id).
    #[must_use]
    pub fn message_group_id(mut self, id: impl Into<String>) -> Self {
        self.message_group_id = Some(id.into());
        self
    }

    /// Sets [`message_deduplication_id`](Self::message_deduplication_id).
    #[must_use]
    pub fn message_deduplication_id(mut self, id: impl Into<String>) -> Self {
        self.message_deduplication_id = Some(id.into());
        self
    }

    /// Whether a queue of this type takes them.
    pub(crate) fn check(&self, fifo: bool) -> Result<()> {
        if let Some(seconds) = self.delay_seconds {
            if fifo {
                return Err(Error::malformed(
                    "a FIFO queue has no delay per message; set the delay of the queue, or schedule the message with \
                     deliver_at",
                )
                .with("option", "delay_seconds"));
            }
            if seconds > MAX_DELAY {
                return Err(Error::malformed(
                    "SQS delays a message for 0 to 900 seconds; use deliver_at for more",
                )
                .with("option", "delay_seconds")
                .with("value", seconds));
            }
        }
        if !fifo && self.message_deduplication_id.is_some() {
            return Err(Error::malformed(
                "only FIFO queues, whose names end in .fifo, have deduplication ids",
            )
            .with("option", "message_deduplication_id"));
        }
        for (name, id) in [
            ("message_group_id", &self.message_group_id),
            ("message_deduplication_id", &self.message_deduplication_id),
        ] {
            if id.as_deref().is_some_and(|id| !is_token(id)) {
                return Err(Error::malformed(
                    "an id of SQS has 1 to 128 letters, digits and punctuation marks of ASCII, and no spaces",
                )
                .with("option", name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::{Message, Options};

    use super::*;

    #[test]
    fn options_round_trip_through_the_stored_json() {
        let all = SqsOptions::new().delay_seconds(900).message_group_id("g").message_deduplication_id("d");
        let message = Message::bytes("q", "x").options(&all).build().unwrap();
        let stored = serde_json::to_string(message.options().as_json()).unwrap();
        assert_eq!(
            stored,
            r#"{"sqs":{"delay_seconds":900,"message_deduplication_id":"d","message_group_id":"g"}}"#
        );
        let read = Options::from_json(serde_json::from_str(&stored).unwrap());
        assert_eq!(read.get::<SqsOptions>().unwrap(), Some(all));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (json, named) in [
            (r#"{"sqs":{"delay_secs":1}}"#, "delay_secs"),
            (r#"{"sqs":{"delay_seconds":-1}}"#, "-1"),
            (r#"{"sqs":{"message_group_id":7}}"#, "7"),
        ] {
            let error =
                Options::from_json(serde_json::from_str(json).unwrap()).get::<SqsOptions>().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        let none = SqsOptions::new;
        for (options, fifo, named) in [
            (none().delay_seconds(901), false, "delay_seconds"),
            (none().delay_seconds(0), true, "delay_seconds"),
            (none().message_deduplication_id("d"), false, "message_deduplication_id"),
            (none().message_deduplication_id("d d"), true, "message_deduplication_id"),
            (none().message_group_id(""), true, "message_group_id"),
            (none().message_group_id("g".repeat(129)), false, "message_group_id"),
        ] {
            let error = options.check(fifo).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        none().delay_seconds(900).message_group_id("g".repeat(128)).check(false).unwrap();
        none().message_group_id("~").message_deduplication_id("!").check(true).unwrap();
    }
}
