//! A message made ready for Pub/Sub, with everything refused that the service would not take: it refuses a whole
//! request for one such message.

use outbox_core::publishing::Routing;
use outbox_core::{Error, ErrorKind, Message, Result};

use crate::attributes;
use crate::options::PubSubOptions;
use crate::routing::{Topic, route};
use crate::wire::{PubsubMessage, envelope_size, size_in_request};

/// In bytes: <https://cloud.google.com/pubsub/docs/ordering>.
const MAX_ORDERING_KEY: usize = 1024;

/// A message ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outgoing {
    /// Its place in the batch.
    pub(crate) index: usize,
    /// The outbox's key, whose messages must be sent in their order.
    pub(crate) key: Option<String>,
    /// The full name of the topic.
    pub(crate) topic: String,
    pub(crate) message: PubsubMessage,
    /// What it adds to a request.
    pub(crate) size: usize,
}

/// What of the settings decides what becomes of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) routing: &'a Routing<Topic>,
    pub(crate) project: Option<&'a str>,
    pub(crate) ordering_keys: bool,
    pub(crate) max_request_bytes: usize,
}

impl Outgoing {
    /// Reads the message's options, routes it, and translates it.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], both permanent, and [`ErrorKind::NotFound`].
    pub(crate) fn new(index: usize, message: &Message, rules: Rules<'_>) -> Result<Self> {
        let options = message.options().get::<PubSubOptions>()?.unwrap_or_default();
        let key = message.key().filter(|_| rules.ordering_keys).unwrap_or_default();
        let ordering_key = options.ordering_key.as_deref().unwrap_or(key);
        if ordering_key.len() > MAX_ORDERING_KEY {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the ordering key is longer than the 1024 bytes which Pub/Sub takes; shorten the key, or set the option \
                 ordering_key",
            )
            .with("bytes", ordering_key.len()));
        }
        let topic = route(message, rules.routing, rules.project)?;
        let attributes = attributes::of(message, ordering_key)?;
        let ordering_key = ordering_key.to_owned();
        let wire = PubsubMessage { data: message.payload().clone(), attributes, ordering_key };
        let size = size_in_request(&wire);
        let whole = envelope_size(&topic) + size;
        if whole > rules.max_request_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "payload and attributes are larger than one request to Pub/Sub may be; keep the payload elsewhere and \
                 send a reference to it",
            )
            .with("bytes", whole)
            .with("max_request_bytes", rules.max_request_bytes));
        }
        Ok(Self { index, key: message.key().map(str::to_owned), topic, message: wire, size })
    }

    /// Whether the two may be in one request, which has one topic, and one ordering key for all its messages:
    /// <https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1#pubsubmessage>.
    pub(crate) fn goes_with(&self, other: &Self) -> bool {
        self.topic == other.topic && self.message.ordering_key == other.message.ordering_key
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::{MessageBuilder, Options, Verdict};
    use serde_json::json;

    use super::*;

    const MOST: usize = 10_000_000;

    fn outgoing_with(builder: MessageBuilder, ordering_keys: bool) -> Result<Outgoing> {
        let routing = Routing::default();
        let rules =
            Rules { routing: &routing, project: Some("shop"), ordering_keys, max_request_bytes: MOST };
        Outgoing::new(3, &builder.build().unwrap(), rules)
    }

    fn outgoing(builder: MessageBuilder) -> Result<Outgoing> {
        outgoing_with(builder, true)
    }

    #[test]
    fn the_key_is_the_ordering_key_unless_told_otherwise() {
        let ordering_key = |builder, on| outgoing_with(builder, on).unwrap().message.ordering_key;
        let keyed = || Message::bytes("orders", "x").key("k");
        assert_eq!(ordering_key(keyed(), true), "k");
        assert_eq!(ordering_key(keyed(), false), "");
        assert_eq!(ordering_key(Message::bytes("orders", "x"), true), "");
        let options = PubSubOptions::new().ordering_key("other");
        assert_eq!(ordering_key(keyed().options(&options), true), "other");
        assert_eq!(ordering_key(keyed().options(&options), false), "other");
        assert_eq!(ordering_key(keyed().options(&PubSubOptions::new().ordering_key("")), true), "");
    }

    #[test]
    fn options_survive_the_store() {
        let options = PubSubOptions::new().ordering_key("k");
        let message = Message::bytes("orders", "").options(&options).build().unwrap();
        let stored: Options = Options::from_json(message.options().as_json().clone());
        assert_eq!(stored.get::<PubSubOptions>().unwrap(), Some(options));
    }

    #[test]
    fn unknown_and_wrong_options_are_permanent_and_named() {
        for (options, named) in [
            (json!({ "orderin_key": "k" }), "orderin_key"),
            (json!({ "ordering_key": 3 }), "3"),
            (json!("k"), "k"),
        ] {
            let json = json!({ "pubsub": options });
            let options = Options::from_json(json.as_object().unwrap().clone());
            let error = outgoing(Message::bytes("orders", "x").raw_options(options)).unwrap_err();
            assert_eq!((error.kind(), error.verdict()), (ErrorKind::Malformed, Verdict::Permanent));
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn what_is_exactly_as_large_as_a_request_passes() {
        let bare = outgoing(Message::bytes("orders", vec![0; 5_000_000])).unwrap();
        let around = envelope_size(&bare.topic) + bare.size - 5_000_000;
        outgoing(Message::bytes("orders", vec![0; MOST - around])).unwrap();
        let error = outgoing(Message::bytes("orders", vec![0; MOST - around + 1])).unwrap_err();
        assert_eq!((error.kind(), error.verdict()), (ErrorKind::TooLarge, Verdict::Permanent));

        outgoing(Message::bytes("orders", "x").key("k".repeat(1024))).unwrap();
        let error = outgoing(Message::bytes("orders", "x").key("k".repeat(1025))).unwrap_err();
        assert_eq!((error.kind(), error.verdict()), (ErrorKind::TooLarge, Verdict::Permanent));
    }
}
