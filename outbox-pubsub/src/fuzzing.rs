//! What the fuzz targets reach of the private parts. It is no part of the interface.

use outbox_core::publishing::Routing;
use outbox_core::{Message, Result};
use prost::Message as _;

use crate::outgoing::{Outgoing, Rules};
use crate::routing::Topic;
use crate::wire::PublishRequest;

/// Makes a message ready, and asks that Pub/Sub takes what comes of it. `topic` is that of the settings.
///
/// # Errors
/// Why the message is refused.
pub fn ready(message: &Message, topic: Option<Topic>, ordering_keys: bool, max_bytes: usize) -> Result<()> {
    let routing = Routing { default: topic, ..Routing::default() };
    let project = Some("shop");
    let rules = Rules { routing: &routing, project, ordering_keys, max_request_bytes: max_bytes };
    let outgoing = Outgoing::new(0, message, rules)?;
    let wire = &outgoing.message;
    assert!(wire.data == message.payload() && wire.ordering_key.len() <= 1024);
    // A message needs one of the two.
    assert!((1..=100).contains(&wire.attributes.len()));
    for (name, value) in &wire.attributes {
        assert!((1..=256).contains(&name.len()) && value.len() <= 1024 && !name.starts_with("goog"));
    }
    for (name, value) in message.headers() {
        assert!(wire.attributes.get(name) == Some(value));
    }
    let attribute = |name: &str| wire.attributes.get(name).map(String::as_str);
    assert!(attribute("outbox-id") == Some(&*message.id().to_string()));
    assert!(attribute("outbox-topic") == Some(message.topic()));
    // The key is one of the two, as the README tells consumers.
    assert!(
        attribute("outbox-key").or(Some(&*wire.ordering_key).filter(|_| message.key().is_some()))
            == message.key()
    );
    let request = PublishRequest { topic: outgoing.topic.clone(), messages: vec![wire.clone()] };
    let bare = PublishRequest { topic: outgoing.topic, messages: Vec::new() };
    assert!(request.encoded_len() == bare.encoded_len() + outgoing.size);
    assert!(request.encoded_len() <= max_bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use outbox_core::{Options, Verdict};

    use super::*;

    #[test]
    fn strange_options_are_carried_or_refused_for_good() {
        for (options, fits) in [
            (r#"{"pubsub":{"ordering_key":"\u0000"}}"#, true),
            (r#"{"pubsub":{}}"#, true),
            (r#"{"pubsub":{"ordering_key":3}}"#, false),
            (r#"{"pubsub":null}"#, false),
        ] {
            let json = serde_json::from_str(options).unwrap();
            let builder = Message::bytes("t", "").header("h", "").key("");
            let message = builder.raw_options(Options::from_json(json)).build().unwrap();
            for ordering_keys in [true, false] {
                let ready = ready(&message, Some(Topic::id("orders")), ordering_keys, 10_000_000);
                assert_eq!(ready.is_ok(), fits, "{options}: {ready:?}");
                assert!(ready.err().is_none_or(|error| error.verdict() == Verdict::Permanent));
            }
        }
    }
}
