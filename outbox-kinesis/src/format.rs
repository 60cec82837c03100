//! What of a message is in the data of a record. Consumers live by it, so nothing of it may change.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use outbox_core::{Error, Message, Result};
use serde::Serialize;

/// What the data of a record is. A record has no place for headers beside its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// A JSON object:
    ///
    /// ```json
    /// {"id": "0190…", "topic": "order.placed", "key": "customer-4", "content_type": "application/json",
    ///  "headers": {"tenant": "acme"}, "payload": "{\"order\": 17}"}
    /// ```
    ///
    /// `key`, `content_type` and `headers` are left out where there are none. The payload is a text in `payload`, or if it
    /// is no UTF-8, base64 (RFC 4648, with padding) in `payload_base64`. Consumers drop repeats by `id`.
    #[default]
    Envelope,
    /// The payload and nothing else. Headers, topic, content type and, above all, the message's id are not sent:
    /// consumers can tell repeats only if the payload says what it is about.
    Raw,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: String,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Format {
    /// The data of a message's record.
    pub(crate) fn data(self, message: &Message) -> Result<Vec<u8>> {
        if self == Self::Raw {
            return Ok(message.payload().to_vec());
        }
        let text = std::str::from_utf8(message.payload()).ok();
        let envelope = Envelope {
            id: message.id().to_string(),
            topic: message.topic(),
            key: message.key(),
            content_type: message.content_type(),
            headers: message.headers(),
            payload: text,
            payload_base64: text.is_none().then(|| BASE64_STANDARD.encode(message.payload())),
        };
        serde_json::to_vec(&envelope)
            .map_err(|error| Error::malformed("the message cannot be written as JSON").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::MessageId;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn read(message: &Message) -> Value {
        serde_json::from_slice(&Format::Envelope.data(message).unwrap()).unwrap()
    }

    #[test]
    fn the_envelope_is_as_consumers_know_it() {
        let id: MessageId = "01900000-0000-7000-8000-000000000007".parse().unwrap();
        let full = Message::bytes("order.placed", r#"{"order": 17}"#)
            .id(id)
            .key("customer-4")
            .content_type("application/json")
            .header("tenant", "acme")
            .build()
            .unwrap();
        let least = Message::bytes("t", vec![0xff, 0]).id(id).build().unwrap();
        let text = |message| String::from_utf8(Format::Envelope.data(message).unwrap()).unwrap();
        insta::assert_snapshot!(format!("{}\n{}", text(&full), text(&least)));
        assert_eq!(Format::Raw.data(&least).unwrap(), [0xff, 0]);
    }

    proptest! {
        #[test]
        fn nothing_of_a_message_is_lost(
            payload in prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
            key in prop::option::of("[^\0]{1,9}"),
            headers in prop::collection::btree_map("[^\0]{1,5}", "[^\0]{0,5}", 0..4),
        ) {
            let mut builder = Message::bytes("t", payload.clone()).headers(headers.clone());
            if let Some(key) = &key { builder = builder.key(key); }
            let message = builder.build().unwrap();
            let read = read(&message);
            let carried = match &read["payload"] {
                Value::String(text) => text.clone().into_bytes(),
                _ => BASE64_STANDARD.decode(read["payload_base64"].as_str().unwrap()).unwrap(),
            };
            prop_assert_eq!(carried, payload);
            prop_assert_eq!(read["key"].as_str(), key.as_deref());
            prop_assert_eq!(read["id"].as_str(), Some(&*message.id().to_string()));
            for (name, value) in headers {
                prop_assert_eq!(read["headers"][&name].as_str(), Some(&*value));
            }
        }
    }
}
