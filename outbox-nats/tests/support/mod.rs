//! A consumer that reads what the README promises to consumers, and nothing else.

pub(crate) mod fixture;

use integration_tests::nats::StreamMessage;
use outbox_conformance::Received;
use outbox_core::Headers;
use serde_json::Value;

/// A message as its consumer reads it.
pub(crate) fn read(message: &StreamMessage) -> Received {
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
    let more = header("outbox-more").map_or(Value::Null, |json| serde_json::from_str(&json).unwrap());
    let field = |name: &str, field: &str| header(name).or_else(|| more[field].as_str().map(str::to_owned));
    let own = |name: &str| name.starts_with("Nats-") || name.starts_with("outbox-") || name == "content-type";
    let headers: Headers = match more["headers"].as_object() {
        Some(all) => {
            all.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
        }
        None => message
            .headers
            .iter()
            .map(|(name, values)| (name.to_string(), values[0].to_string()))
            .filter(|(name, _)| !own(name))
            .collect(),
    };
    let options = [
        ("subject", Some(message.subject.to_string())),
        ("stream", header("Nats-Expected-Stream")),
        ("ttl", header("Nats-TTL")),
    ];
    Received::new(message.payload.clone())
        .options(options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
        .id(header("Nats-Msg-Id").and_then(|id| id.parse().ok()))
        .topic(field("outbox-topic", "topic"))
        .key(field("outbox-key", "key"))
        .content_type(field("content-type", "content_type"))
        .headers(headers)
}
