//! What of a message travels in the attributes of the SQS message. The rules are told in the README: consumers live by
//! them, so none may change.

use std::collections::BTreeMap;

use outbox_core::Message;
use serde_json::{Map, Value};

use crate::text::{is_allowed, is_attribute_name, is_text};

/// A message has at most so many attributes:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>.
const MAX_ATTRIBUTES: usize = 10;

/// Begins the names of our own attributes. A header of such a name is not made an attribute.
const PREFIX: &str = "outbox-";
const ID: &str = "outbox-id";
const TOPIC: &str = "outbox-topic";
const KEY: &str = "outbox-key";
const CONTENT_TYPE: &str = "outbox-content-type";
const CONTENT_ENCODING: &str = "outbox-content-encoding";
/// A JSON object with what could not be an attribute of its own.
const MORE: &str = "outbox-more";

/// The attributes of a message, all of the type `String`.
pub(crate) fn of(message: &Message, encoding: Option<&'static str>) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([(ID.to_owned(), message.id().to_string())]);
    let mut more = Map::new();
    if let Some(encoding) = encoding {
        attributes.insert(CONTENT_ENCODING.to_owned(), encoding.to_owned());
    }
    let fields = [
        (TOPIC, "topic", Some(message.topic())),
        (KEY, "key", message.key()),
        (CONTENT_TYPE, "content_type", message.content_type()),
    ];
    for (attribute, field, value) in fields {
        match value {
            Some(value) if is_text(value) => drop(attributes.insert(attribute.to_owned(), value.to_owned())),
            Some(value) => drop(more.insert(field.to_owned(), value.into())),
            None => {}
        }
    }

    let headers = message.headers();
    let room = MAX_ATTRIBUTES - attributes.len() - usize::from(!more.is_empty());
    if headers.len() <= room && headers.iter().all(|(name, value)| is_attribute(name, value)) {
        attributes.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    } else {
        let all: Map<String, Value> =
            headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        more.insert("headers".to_owned(), all.into());
    }
    if !more.is_empty() {
        attributes.insert(MORE.to_owned(), as_text(&Value::from(more)));
    }
    attributes
}

fn is_attribute(name: &str, value: &str) -> bool {
    let reserved = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    !reserved && is_attribute_name(name) && is_text(value)
}

/// JSON escapes control characters by itself, but not the two others that SQS refuses. They can only be in strings.
fn as_text(json: &Value) -> String {
    let mut text = String::new();
    for c in json.to_string().chars() {
        if is_allowed(c) {
            text.push(c);
        } else {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use outbox_core::MessageId;
    use proptest::prelude::*;

    use super::*;

    fn message(headers: &[(&str, &str)]) -> Message {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Message::bytes("orders", "x").headers(headers).build().unwrap()
    }

    fn more(attributes: &BTreeMap<String, String>) -> Value {
        serde_json::from_str(&attributes[MORE]).unwrap()
    }

    #[test]
    fn ten_attributes_are_not_too_many_and_eleven_are() {
        let names: Vec<String> = (0..9).map(|i| format!("h{i}")).collect();
        let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
        // With the id and the topic.
        let fits = of(&message(&headers[..8]), None);
        assert_eq!((fits.len(), fits.contains_key(MORE)), (10, false));
        let over = of(&message(&headers), None);
        assert_eq!(over.keys().collect::<Vec<_>>(), ["outbox-id", "outbox-more", "outbox-topic"]);
        assert_eq!(more(&over)["headers"].as_object().unwrap().len(), 9);
        let over = of(&message(&headers[..8]), Some("base64"));
        assert_eq!(more(&over)["headers"].as_object().unwrap().len(), 8);
    }

    #[test]
    fn one_header_that_is_no_attribute_takes_all_along() {
        for (name, value) in
            [("x y", "v"), ("x", ""), ("x", "\u{1}"), ("aws.x", "v"), ("outbox-id", "v"), ("Outbox-New", "v")]
        {
            let attributes = of(&message(&[("a", "1"), (name, value)]), None);
            assert_eq!(attributes.len(), 3, "{attributes:?}");
            assert_eq!(more(&attributes), serde_json::json!({ "headers": { "a": "1", name: value } }));
        }
    }

    proptest! {
        #[test]
        fn every_message_gets_attributes_that_sqs_takes_and_nothing_of_it_is_lost(
            topic in "[^\0]{1,20}",
            key in proptest::option::of("[^\0]{0,20}"),
            content_type in proptest::option::of("[^\0]{0,20}"),
            headers in proptest::collection::btree_map("([a-zO.-]{1,4}|[^\0]{1,8})", "[^\0]{0,8}", 0..14),
        ) {
            let mut builder = Message::bytes(&topic, "x").id(MessageId::new()).headers(headers.clone());
            if let Some(key) = &key { builder = builder.key(key); }
            if let Some(kind) = &content_type { builder = builder.content_type(kind); }
            let message = builder.build().unwrap();
            let attributes = of(&message, None);

            prop_assert!(attributes.len() <= MAX_ATTRIBUTES);
            for (name, value) in &attributes {
                prop_assert!(is_attribute_name(name) && is_text(value), "{name:?}: {value:?}");
            }
            let more: Value = attributes.get(MORE).map_or(Value::Null, |more| serde_json::from_str(more).unwrap());
            let field = |attribute: &str, field: &str| {
                attributes.get(attribute).cloned().or(more[field].as_str().map(str::to_owned))
            };
            prop_assert_eq!(field(TOPIC, "topic"), Some(topic));
            prop_assert_eq!(field(KEY, "key"), key);
            prop_assert_eq!(field(CONTENT_TYPE, "content_type"), content_type);
            let carried: BTreeMap<String, String> = match more["headers"].as_object() {
                Some(all) => all.iter().map(|(n, v)| (n.clone(), v.as_str().unwrap().to_owned())).collect(),
                None => attributes.into_iter().filter(|(name, _)| !name.starts_with(PREFIX)).collect(),
            };
            prop_assert_eq!(carried, headers);
        }
    }
}
