//! What of a message travels in the attributes of the Pub/Sub message. The rules are told in the README: consumers live
//! by them, so none may change.

use std::collections::BTreeMap;

use outbox_core::{Error, ErrorKind, Message, Result};

/// <https://cloud.google.com/pubsub/quotas#resource_limits>: attributes of a message, and the bytes of each.
const MAX_ATTRIBUTES: usize = 100;
const MAX_KEY_BYTES: usize = 256;
const MAX_VALUE_BYTES: usize = 1024;
/// Names that begin so are Google's.
const GOOGLE: &str = "goog";

/// Begins the names of our own attributes.
const PREFIX: &str = "outbox-";
const ID: &str = "outbox-id";
const TOPIC: &str = "outbox-topic";
const KEY: &str = "outbox-key";
const CONTENT_TYPE: &str = "outbox-content-type";

/// The attributes of a message that is sent with this ordering key.
///
/// # Errors
/// [`ErrorKind::TooLarge`] and [`ErrorKind::Malformed`], both permanent, for headers that Pub/Sub does not take.
pub(crate) fn of(message: &Message, ordering_key: &str) -> Result<BTreeMap<String, String>> {
    // A key that travels as ordering key need not travel twice.
    let key = message.key().filter(|key| *key != ordering_key);
    let own = [(TOPIC, Some(message.topic())), (KEY, key), (CONTENT_TYPE, message.content_type())];
    let mut attributes = BTreeMap::from([(ID.to_owned(), message.id().to_string())]);
    for (name, value) in own {
        if let Some(value) = value {
            check_size(name, value)?;
            attributes.insert(name.to_owned(), value.to_owned());
        }
    }
    for (name, value) in message.headers() {
        let begins_with =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if begins_with(GOOGLE) || begins_with(PREFIX) {
            return Err(Error::malformed(
                "a header cannot be an attribute: names that begin with goog are Google's, and those with outbox- the \
                 publisher's; give the header another name",
            )
            .with("header", name));
        }
        check_size(name, value)?;
        attributes.insert(name.clone(), value.clone());
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            "the message has more attributes than Pub/Sub takes; move headers into the payload",
        )
        .with("attributes", attributes.len())
        .with("most", MAX_ATTRIBUTES));
    }
    Ok(attributes)
}

fn check_size(name: &str, value: &str) -> Result<()> {
    if name.len() <= MAX_KEY_BYTES && value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        "an attribute is larger than Pub/Sub takes, 256 bytes for its name and 1024 for its value; shorten it, or move \
         it into the payload",
    )
    .with("attribute", name.chars().take(80).collect::<String>())
    .with("value_bytes", value.len()))
}

#[cfg(test)]
mod tests {
    use outbox_core::{MessageBuilder, Verdict};

    use super::*;

    fn builder() -> MessageBuilder {
        Message::bytes("orders", "x").key("k")
    }

    fn refused(builder: MessageBuilder) -> Error {
        of(&builder.build().unwrap(), "k").unwrap_err()
    }

    #[test]
    fn everything_but_the_payload_is_in_attributes() {
        let message = builder().content_type("text/plain").header("tenant", "acme").build().unwrap();
        let names =
            |ordering_key| -> Vec<String> { of(&message, ordering_key).unwrap().into_keys().collect() };
        assert_eq!(names("k"), ["outbox-content-type", "outbox-id", "outbox-topic", "tenant"]);
        assert_eq!(names(""), ["outbox-content-type", "outbox-id", "outbox-key", "outbox-topic", "tenant"]);
    }

    #[test]
    fn what_is_at_a_limit_passes_and_what_is_above_is_named() {
        let headers = |count: usize| (0..count).map(|i| (format!("h{i}"), String::new()));
        assert_eq!(of(&builder().headers(headers(98)).build().unwrap(), "k").unwrap().len(), 100);
        assert_eq!(refused(builder().headers(headers(99))).kind(), ErrorKind::TooLarge);

        let edge = builder().header("n".repeat(256), "v".repeat(1024)).build().unwrap();
        of(&edge, "k").unwrap();
        for (name, value) in [("n".repeat(257), String::new()), ("long".to_owned(), "v".repeat(1025))] {
            let error = refused(builder().header(name.clone(), value));
            assert_eq!((error.kind(), error.verdict()), (ErrorKind::TooLarge, Verdict::Permanent));
            assert!(error.to_string().contains(&name[..4]), "{error}");
        }
        for name in ["googclient", "Goog-x", "outbox-id", "OUTBOX-mine"] {
            let error = refused(builder().header(name, "x"));
            assert_eq!((error.kind(), error.verdict()), (ErrorKind::Malformed, Verdict::Permanent));
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
