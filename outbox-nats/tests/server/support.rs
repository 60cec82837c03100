//! What the tests share.

use std::time::Duration;

use integration_tests::nats::{Stream, StreamConfig};
use integration_tests::{Nats, Server};
use outbox_core::{Error, ErrorKind, Message, Outcome, Publisher, Scope, Verdict};
use outbox_nats::{NatsOptions, NatsPublisher, NatsPublisherBuilder};

/// Maximum time to wait for a condition or a call. Only a failing test waits this long.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// The common server and a stream of it, or `None` if the test is to be skipped.
pub(crate) async fn stream_with(config: StreamConfig) -> Option<(&'static Nats, Stream)> {
    let nats = Nats::shared().await?;
    Some((nats, nats.stream_with(config).await))
}

/// A publisher with settings that a loaded machine can keep.
pub(crate) fn builder(url: &str) -> NatsPublisherBuilder {
    NatsPublisher::builder(url).connect_timeout(SOON).ack_timeout(SOON)
}

pub(crate) fn publisher(url: &str) -> NatsPublisher {
    builder(url).build().unwrap()
}

pub(crate) fn message(topic: &str) -> Message {
    Message::bytes(topic, "x").build().unwrap()
}

pub(crate) fn message_with(topic: &str, options: &NatsOptions) -> Message {
    Message::bytes(topic, "x").options(options).build().unwrap()
}

pub(crate) async fn publish_one(publisher: &NatsPublisher, message: Message) -> Outcome {
    publisher.publish(&[message]).await.pop().expect("one outcome per message")
}

/// Publishes until the stream confirms: for what may take a moment after an outage.
pub(crate) async fn publish_eventually(publisher: &NatsPublisher, message: &Message) {
    integration_tests::eventually("an acknowledgement", SOON, || async {
        publisher.publish(std::slice::from_ref(message)).await.remove(0).ok()
    })
    .await;
}

#[track_caller]
pub(crate) fn confirmed(outcome: &Outcome) {
    if let Err(error) = outcome {
        panic!("the message failed: {}", error.report());
    }
}

/// Checks an error by what a relay makes of it, and by what it says to do.
#[track_caller]
pub(crate) fn assert_error<'a>(
    outcome: &'a Outcome,
    (kind, verdict, scope): (ErrorKind, Verdict, Scope),
    says: &str,
) -> &'a Error {
    let error = outcome.as_ref().expect_err("the message must fail");
    let text = error.report();
    assert_eq!((error.kind(), error.verdict(), error.scope()), (kind, verdict, scope), "{text}");
    assert!(text.contains(says), "{text}");
    error
}
