//! What a message may ask of this publisher.

use outbox_core::{Error, PublisherOptions, Result};
use serde::{Deserialize, Serialize};

use crate::NAME;

/// Maximum length of a stream's name. The server refuses longer ones
/// (<https://docs.nats.io/running-a-nats-service/nats_admin/jetstream_admin/naming>).
const MAX_STREAM_NAME: usize = 255;

/// Per-message options, stored as JSON under `"nats"`.
///
/// Every field is optional. An unknown field, or a value that NATS does not accept, makes the message a dead letter with
/// the reason ([`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed)). The other messages of its batch are not affected.
///
/// ```
/// use outbox_core::Message;
/// use outbox_nats::NatsOptions;
///
/// let options = NatsOptions::new().subject("orders.eu.17").ttl_seconds(3600);
/// let message = Message::bytes("orders", "17").options(&options).build()?;
/// assert_eq!(serde_json::to_string(message.options())?, r#"{"nats":{"subject":"orders.eu.17","ttl_seconds":3600}}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NatsOptions {
    /// Subject to publish to. Default: by the routing of the publisher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Name of the stream that must store the message. The server refuses the message if its subject belongs to another
    /// stream. Default: that of [`expect_stream`](crate::NatsPublisherBuilder::expect_stream).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Seconds after which the stream deletes the message, at least 1. It needs a server of version 2.11 or later, and a
    /// stream with `allow_msg_ttl`. Default: the stream's own `max_age`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

impl PublisherOptions for NatsOptions {
    const PUBLISHER: &'static str = NAME;
}

impl NatsOptions {
    /// Creates options without a value: everything follows the publisher and the stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`subject`](Self::subject).
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets [`stream`](Self::stream).
    #[must_use]
    pub fn stream(mut self, name: impl Into<String>) -> Self {
        self.stream = Some(name.into());
        self
    }

    /// Sets [`ttl_seconds`](Self::ttl_seconds).
    #[must_use]
    pub fn ttl_seconds(mut self, seconds: u32) -> Self {
        self.ttl_seconds = Some(seconds);
        self
    }

    /// Checks everything but the subject.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed).
    pub(crate) fn check(&self) -> Result<()> {
        if self.ttl_seconds == Some(0) {
            return Err(Error::malformed(
                "a message lives for at least 1 second; leave ttl_seconds out to keep it",
            )
            .with("option", "ttl_seconds"));
        }
        match &self.stream {
            Some(name) if !is_stream_name(name) => {
                let start: String = name.chars().take(80).collect();
                Err(Error::malformed("no stream can have this name")
                    .with("stream", format_args!("{start:?}")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a stream can have this name.
pub(crate) fn is_stream_name(name: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"*>./\\".contains(c);
    !name.is_empty() && name.len() <= MAX_STREAM_NAME && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use outbox_core::{Message, Options};

    use super::*;

    #[test]
    fn options_round_trip_through_the_stored_json() {
        let all = NatsOptions::new().subject("a.b").stream("ORDERS").ttl_seconds(7);
        let message = Message::bytes("q", "x").options(&all).build().unwrap();
        let stored = serde_json::to_string(message.options().as_json()).unwrap();
        assert_eq!(stored, r#"{"nats":{"stream":"ORDERS","subject":"a.b","ttl_seconds":7}}"#);
        let read = Options::from_json(serde_json::from_str(&stored).unwrap());
        assert_eq!(read.get::<NatsOptions>().unwrap(), Some(all));
    }

    #[test]
    fn unknown_fields_and_impossible_values_are_named() {
        for (json, named) in [
            (r#"{"nats":{"ttl":1}}"#, "ttl"),
            (r#"{"nats":{"ttl_seconds":-1}}"#, "-1"),
            (r#"{"nats":{"subject":7}}"#, "7"),
        ] {
            let error =
                Options::from_json(serde_json::from_str(json).unwrap()).get::<NatsOptions>().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        let long = "s".repeat(256);
        for name in ["", "a.b", "a b", "a*", "a>", "a/b", "a\\b", "a\nb", &long] {
            let error = NatsOptions::new().stream(name).check().unwrap_err();
            assert!(error.to_string().contains("stream") && !error.to_string().contains('\n'), "{error}");
        }
        assert!(NatsOptions::new().ttl_seconds(0).check().unwrap_err().to_string().contains("ttl_seconds"));
        NatsOptions::new().stream("s".repeat(255)).ttl_seconds(1).check().unwrap();
    }
}
