//! A consumer that reads what the README promises to consumers, and nothing else.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod fixture;

use std::time::Duration;

use aws_sdk_kinesis::Client;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use integration_tests::kinesis::Record;
use outbox_conformance::Received;
use outbox_core::Message;
use outbox_kinesis::{KinesisPublisher, KinesisPublisherBuilder};
use serde_json::Value;

/// A publisher whose calls end only if something hangs.
pub(crate) fn builder(client: Client) -> KinesisPublisherBuilder {
    KinesisPublisher::builder(client).call_timeout(Duration::from_secs(100))
}

/// A record as its consumer reads it.
pub(crate) fn read(record: &Record) -> Received {
    let envelope: Value = serde_json::from_slice(&record.data).unwrap();
    let payload = match &envelope["payload"] {
        Value::String(text) => text.clone().into_bytes(),
        _ => BASE64_STANDARD.decode(envelope["payload_base64"].as_str().unwrap()).unwrap(),
    };
    let text = |field: &str| envelope[field].as_str().map(str::to_owned);
    let headers = envelope["headers"].as_object().into_iter().flatten();
    let partition_key = ("partition_key".to_owned(), record.partition_key.clone());
    Received::new(payload)
        .options([partition_key].into())
        .id(text("id").unwrap().parse().ok())
        .topic(text("topic"))
        .key(text("key"))
        .content_type(text("content_type"))
        .headers(headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect())
}

/// A message to a stream.
pub(crate) fn message(stream: &str, key: Option<&str>, payload: impl Into<Vec<u8>>) -> Message {
    let builder = Message::bytes(stream, payload.into());
    match key {
        Some(key) => builder.key(key),
        None => builder,
    }
    .build()
    .unwrap()
}
