//! What a message may ask of this publisher.

use outbox_core::{Error, PublisherOptions, Result};
use serde::{Deserialize, Serialize};

use crate::NAME;
use crate::text::{is_hash_key, is_partition_key, is_sequence_number};

/// Per-message options, stored as JSON under `"kinesis"`.
///
/// Every field is optional. A field that does not exist, or a value that Kinesis does not take, makes the message a
/// dead letter with the reason ([`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed)); the other messages of its
/// batch are not affected.
///
/// ```
/// use outbox_core::Message;
/// use outbox_kinesis::KinesisOptions;
///
/// let message = Message::bytes("orders", "17").options(&KinesisOptions::new().partition_key("eu")).build()?;
/// assert_eq!(serde_json::to_string(message.options())?, r#"{"kinesis":{"partition_key":"eu"}}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KinesisOptions {
    /// The shard's choice by number: a decimal of 128 bits in the range of the shard, which goes before the hash of the
    /// partition key. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explicit_hash_key: Option<String>,
    /// The partition key, 1 to 256 characters. Default: the message's key, or its id if it has no key; of a key that is
    /// longer, or empty, its SHA-256.
    ///
    /// Messages of one key that are given different partition keys may come to different shards, which have no common
    /// order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_key: Option<String>,
    /// A sequence number that the record's own is to be above, for writers to one shard that are not this relay.
    /// Default: none. Only `PutRecord` knows it, so that such a message is a request of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_number_for_ordering: Option<String>,
}

impl PublisherOptions for KinesisOptions {
    const PUBLISHER: &'static str = NAME;
}

impl KinesisOptions {
    /// No options: everything follows the message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`explicit_hash_key`](Self::explicit_hash_key).
    #[must_use]
    pub fn explicit_hash_key(mut self, key: impl Into<String>) -> Self {
        self.explicit_hash_key = Some(key.into());
        self
    }

    /// Sets [`partition_key`](Self::partition_key).
    #[must_use]
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// Sets [`sequence_number_for_ordering`](Self::sequence_number_for_ordering).
    #[must_use]
    pub fn sequence_number_for_ordering(mut self, number: impl Into<String>) -> Self {
        self.sequence_number_for_ordering = Some(number.into());
        self
    }

    /// Whether Kinesis takes them.
    pub(crate) fn check(&self) -> Result<()> {
        type Check = fn(&str) -> bool;
        let checks: [(&str, &Option<String>, Check, &'static str); 3] = [
            (
                "explicit_hash_key",
                &self.explicit_hash_key,
                is_hash_key,
                "a hash key is a decimal number from 0 to 2^128-1",
            ),
            (
                "partition_key",
                &self.partition_key,
                is_partition_key,
                "a partition key has 1 to 256 characters",
            ),
            (
                "sequence_number_for_ordering",
                &self.sequence_number_for_ordering,
                is_sequence_number,
                "a sequence number is a decimal number",
            ),
        ];
        for (name, value, fits, text) in checks {
            if value.as_deref().is_some_and(|value| !fits(value)) {
                return Err(Error::malformed(text).with("option", name));
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
        let all = KinesisOptions::new()
            .explicit_hash_key("7")
            .partition_key("p")
            .sequence_number_for_ordering("49");
        let message = Message::bytes("s", "x").options(&all).build().unwrap();
        let stored = serde_json::to_string(message.options().as_json()).unwrap();
        assert_eq!(
            stored,
            r#"{"kinesis":{"explicit_hash_key":"7","partition_key":"p","sequence_number_for_ordering":"49"}}"#
        );
        let read = Options::from_json(serde_json::from_str(&stored).unwrap());
        assert_eq!(read.get::<KinesisOptions>().unwrap(), Some(all));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (json, named) in
            [(r#"{"kinesis":{"partition":"p"}}"#, "partition"), (r#"{"kinesis":{"partition_key":7}}"#, "7")]
        {
            let options = Options::from_json(serde_json::from_str(json).unwrap());
            let error = options.get::<KinesisOptions>().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        for (options, named) in [
            (KinesisOptions::new().explicit_hash_key("-1"), "explicit_hash_key"),
            (KinesisOptions::new().partition_key(""), "partition_key"),
            (KinesisOptions::new().partition_key("p".repeat(257)), "partition_key"),
            (KinesisOptions::new().sequence_number_for_ordering("x"), "sequence_number_for_ordering"),
        ] {
            let error = options.check().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        KinesisOptions::new().explicit_hash_key("0").partition_key("p".repeat(256)).check().unwrap();
    }
}
