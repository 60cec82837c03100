//! Messages for people and for machines, the same wherever they are shown.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use outbox_core::{DeadLetter, Message};
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
