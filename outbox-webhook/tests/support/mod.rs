//! A consumer that reads what the README promises to receivers, and nothing else.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod fixture;

use std::time::Duration;

use integration_tests::webhook::Delivery;
use outbox_conformance::Received;
use outbox_core::Headers;
use outbox_webhook::{WebhookPublisher, WebhookPublisherBuilder};
use percent_encoding::percent_decode_str;

/// Signs the requests of tests.
pub(crate) const SECRET: &str = "whsec_dGhlIHNlY3JldCBvZiBhbGwgdGVzdHMgaGVyZQ==";

/// Builds a publisher that may connect to the receivers of tests. Its timeouts expire only if something hangs.
pub(crate) fn builder() -> WebhookPublisherBuilder {
    WebhookPublisher::builder()
        .allow_network("127.0.0.1".parse().unwrap())
        .connect_timeout(Duration::from_secs(100))
        .call_timeout(Duration::from_secs(100))
        .idle_timeout(Duration::from_secs(1_000))
}

/// Reads a request as the README tells receivers to.
pub(crate) fn read(delivery: Delivery) -> Received {
    let Delivery { path, mut headers, body, .. } = delivery;
    let decoded = |value: String| percent_decode_str(&value).decode_utf8().unwrap().into_owned();
    let id = headers.remove("webhook-id").and_then(|id| id.parse().ok());
    let topic = headers.remove("outbox-topic").map(decoded);
    let key = headers.remove("outbox-key").map(decoded);
    let content_type = headers.remove("content-type");
    let others: Headers = headers
        .remove("outbox-headers")
        .map(|json| serde_json::from_str(&decoded(json)).unwrap())
        .unwrap_or_default();
    let mut headers: Headers = headers.into_iter().map(|(name, value)| (name, decoded(value))).collect();
    headers.extend(others);
    let options = [("path".to_owned(), path)].into();
    let received = Received::new(body).id(id).topic(topic).key(key).content_type(content_type);
    received.headers(headers).options(options)
}
