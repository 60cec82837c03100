//! Messages for people and for machines, the same wherever they are shown.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use outbox_core::{Count, DeadLetter, Message, Timestamp, Waiting};
use serde_json::{Map, Value, json};

/// A payload as a text, or what is to be said of one that is none.
pub(crate) fn payload(message: &Message) -> String {
    match std::str::from_utf8(message.payload()) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("({} bytes that are no text)", message.payload().len()),
    }
}

/// Adds what may hold secrets of others.
pub(crate) fn content(message: &Message, json: &mut Map<String, Value>) {
    match std::str::from_utf8(message.payload()) {
        Ok(text) => json.insert("payload".to_owned(), text.into()),
        Err(_) => json.insert("payload_base64".to_owned(), BASE64_STANDARD.encode(message.payload()).into()),
    };
    json.insert("headers".to_owned(), json!(message.headers()));
    json.insert("options".to_owned(), Value::Object(message.options().as_json().clone()));
}

/// A dead letter for machines, with its payload only where that is wanted.
pub(crate) fn dead_letter(letter: &DeadLetter, payload: bool) -> Value {
    let mut json = Map::new();
    json.insert("position".to_owned(), letter.position.0.into());
    json.insert("id".to_owned(), letter.id.map(|id| id.to_string()).into());
    json.insert("topic".to_owned(), letter.topic.clone().into());
    json.insert("key".to_owned(), letter.key.clone().into());
    json.insert("attempts".to_owned(), letter.attempts.into());
    json.insert("error".to_owned(), letter.error.clone().into());
    json.insert("blocks_key".to_owned(), letter.blocks_key.into());
    json.insert("enqueued_at".to_owned(), letter.enqueued_at.to_string().into());
    json.insert("died_at".to_owned(), letter.died_at.to_string().into());
    if let Some(message) = &letter.message {
        json.insert("content_type".to_owned(), message.content_type().into());
        json.insert("payload_bytes".to_owned(), message.payload().len().into());
        if payload {
            content(message, &mut json);
        }
    }
    Value::Object(json)
}

/// A count, and whether it stopped at its limit.
pub(crate) fn count(count: Count) -> Value {
    json!({ "count": count.value, "at_least": count.at_least })
}

/// What a message waits for.
pub(crate) fn state(waiting: &Waiting, now: Timestamp) -> &'static str {
    match waiting.available_at {
        None => "ready",
        Some(at) if at <= now => "due",
        // Held messages are given a time that never comes.
        Some(at) if at.since(now).as_secs() > 100 * 365 * 86_400 => "held",
        Some(_) if waiting.blocks_key || waiting.attempts > 0 => "retrying",
        Some(_) => "scheduled",
    }
}

/// A waiting message for machines, with its payload only where that is wanted.
pub(crate) fn waiting(waiting: &Waiting, now: Timestamp, payload: bool) -> Value {
    let mut json = Map::new();
    json.insert("position".to_owned(), waiting.position.0.into());
    json.insert("partition".to_owned(), waiting.partition.0.into());
    json.insert("state".to_owned(), state(waiting, now).into());
    json.insert("id".to_owned(), waiting.id.map(|id| id.to_string()).into());
    json.insert("topic".to_owned(), waiting.topic.clone().into());
    json.insert("key".to_owned(), waiting.key.clone().into());
    json.insert("attempts".to_owned(), waiting.attempts.into());
    json.insert("error".to_owned(), waiting.error.clone().into());
    json.insert("enqueued_at".to_owned(), waiting.enqueued_at.to_string().into());
    if let (true, Some(message)) = (payload, &waiting.message) {
        content(message, &mut json);
    }
    Value::Object(json)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::{Partition, Position};

    use super::*;

    #[test]
    fn every_state_has_its_name() {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let waiting = |at: Option<Timestamp>, attempts| {
            let mut waiting = Waiting::new(Position(1), Partition(0), now);
            (waiting.available_at, waiting.attempts) = (at, attempts);
            state(&waiting, now)
        };
        let later = Some(now.saturating_add(Duration::from_secs(60)));
        assert_eq!(waiting(None, 0), "ready");
        assert_eq!(waiting(Some(now), 1), "due");
        assert_eq!(waiting(later, 1), "retrying");
        assert_eq!(waiting(later, 0), "scheduled");
        assert_eq!(waiting(Some(Timestamp::from_micros(i64::MAX)), 0), "held");
    }
}
