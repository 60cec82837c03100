//! A consumer that reads what the README promises to consumers, and nothing else.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod fixture;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::Message;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use integration_tests::Sqs;
use integration_tests::sqs::Queue;
use outbox_conformance::Received;
use outbox_sqs::{SqsPublisher, SqsPublisherBuilder};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A publisher whose calls end only if something hangs.
pub(crate) fn builder(client: Client) -> SqsPublisherBuilder {
    SqsPublisher::builder(client).call_timeout(Duration::from_secs(100))
}

/// Takes everything out of a queue until it is dropped.
pub(crate) struct Consumer {
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Consumer {
    pub(crate) fn start(sqs: &Sqs, queue: &Arc<Queue>) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (client, queue, all) = (sqs.client(), Arc::clone(queue), Arc::clone(&received));
        let task = tokio::spawn(async move {
            loop {
                let messages = queue.receive(&client).await.unwrap();
                all.lock().unwrap().extend(messages.iter().map(read));
            }
        });
        Self { received, task }
    }

    /// Everything so far, as soon as it is at least so much, or the time is over.
    pub(crate) async fn received(&self, at_least: usize, within: Duration) -> Vec<Received> {
        let deadline = Instant::now() + within;
        loop {
            let received = self.received.lock().unwrap().clone();
            if received.len() >= at_least || Instant::now() >= deadline {
                return received;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A message as its consumer reads it.
pub(crate) fn read(message: &Message) -> Received {
    let attributes: BTreeMap<String, String> = message
        .message_attributes()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.string_value().unwrap().to_owned()))
        .collect();
    let more: Value = attributes.get("outbox-more").map_or(Value::Null, |m| serde_json::from_str(m).unwrap());
    let field = |attribute: &str, field: &str| {
        attributes.get(attribute).cloned().or_else(|| more[field].as_str().map(str::to_owned))
    };
    let body = message.body().unwrap();
    let payload = match attributes.get("outbox-content-encoding").map(String::as_str) {
        None => body.as_bytes().to_vec(),
        Some("base64") => BASE64_STANDARD.decode(body).unwrap(),
        Some("empty") => Vec::new(),
        Some(other) => panic!("an encoding that the README does not know: {other}"),
    };
    let headers = match more["headers"].as_object() {
        Some(all) => {
            all.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
        }
        None => attributes
            .iter()
            .filter(|(n, _)| !n.starts_with("outbox-"))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
    };
    let system = message.attributes().into_iter().flatten();
    let options = system.map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
    Received::new(payload)
        .options(options)
        .id(attributes["outbox-id"].parse().ok())
        .topic(field("outbox-topic", "topic"))
        .key(field("outbox-key", "key"))
        .content_type(field("outbox-content-type", "content_type"))
        .headers(headers)
}
