//! A message made ready for Kinesis, with everything refused that Kinesis would refuse.

use aws_sdk_kinesis::error::BuildError;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use outbox_core::publishing::Routing;
use outbox_core::{Error, ErrorKind, Message, Result};

use crate::format::Format;
use crate::options::KinesisOptions;
use crate::stream::Stream;
use crate::text::partition_key_of;

/// A message ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) stream: Stream,
    /// What of it counts towards the limits of Kinesis: data and partition key.
    pub(crate) size: usize,
    pub(crate) data: Blob,
    pub(crate) partition_key: String,
    pub(crate) explicit_hash_key: Option<String>,
    /// Set, it has to be a request of its own.
    pub(crate) sequence_number: Option<String>,
}

impl Outgoing {
    /// Reads the message's options, routes it and translates it.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], both permanent, and [`ErrorKind::NotFound`].
    pub(crate) fn new(
        index: usize,
        message: &Message,
        routing: &Routing<Stream>,
        format: Format,
        max_bytes: usize,
    ) -> Result<Self> {
        let options = message.options().get::<KinesisOptions>()?.unwrap_or_default();
        options.check()?;
        let stream = routing.route(message, |topic| Stream::name(topic));
        if !stream.is_possible() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "no stream can have this name (letters, digits, -, _ and ., 128 at most); lead the topic to a stream by \
                 `route`, `route_with` or `stream`",
            )
            .with("stream", stream.as_str()));
        }
        let KinesisOptions { explicit_hash_key, partition_key, sequence_number_for_ordering } = options;
        let partition_key = partition_key
            .unwrap_or_else(|| message.key().map_or_else(|| message.id().to_string(), partition_key_of));
        let data = format.data(message)?;
        let size = data.len() + partition_key.len();
        if size > max_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the record is larger than the stream takes; store the payload elsewhere and send where it is, or raise \
                 the stream's limit and max_record_bytes",
            )
            .with("bytes_with_partition_key", size)
            .with("max_record_bytes", max_bytes));
        }
        Ok(Self {
            index,
            stream,
            size,
            data: Blob::new(data),
            partition_key,
            explicit_hash_key,
            sequence_number: sequence_number_for_ordering,
        })
    }

    /// The entry of a request.
    pub(crate) fn entry(&self) -> Result<PutRecordsRequestEntry, BuildError> {
        PutRecordsRequestEntry::builder()
            .data(self.data.clone())
            .partition_key(&self.partition_key)
            .set_explicit_hash_key(self.explicit_hash_key.clone())
            .build()
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::MessageId;

    use super::*;

    fn ready(message: &Message, format: Format, max_bytes: usize) -> Result<Outgoing> {
        Outgoing::new(3, message, &Routing::default(), format, max_bytes)
    }

    #[test]
    fn the_partition_key_is_the_option_or_the_key_or_the_id() {
        let id = MessageId::new();
        let message = |options: KinesisOptions, key: Option<&str>| {
            let builder = Message::bytes("s", "x").id(id).options(&options);
            match key {
                Some(key) => builder.key(key),
                None => builder,
            }
            .build()
            .unwrap()
        };
        let none = KinesisOptions::new;
        for (options, key, expected) in [
            (none().partition_key("p"), Some("k"), "p".to_owned()),
            (none(), Some("k"), "k".to_owned()),
            (none(), None, id.to_string()),
        ] {
            let outgoing = ready(&message(options, key), Format::Raw, 100).unwrap();
            assert_eq!(outgoing.partition_key, expected);
            assert_eq!(outgoing.size, 1 + expected.len());
            assert_eq!(outgoing.index, 3);
        }
    }

    #[test]
    fn the_partition_key_counts_towards_the_limit() {
        let message = Message::bytes("s", "x".repeat(95)).key("kkkkk").build().unwrap();
        ready(&message, Format::Raw, 100).unwrap();
        let error = ready(&message, Format::Raw, 99).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.to_string().contains("100"), "{error}");
    }

    #[test]
    fn a_topic_that_is_no_stream_is_told() {
        let message = Message::bytes("order placed", "x").build().unwrap();
        assert_eq!(ready(&message, Format::Raw, 100).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
