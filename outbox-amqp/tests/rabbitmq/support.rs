//! What the tests share.

use std::time::Duration;

use integration_tests::rabbitmq::Vhost;
use integration_tests::{RabbitMq, Server};
use outbox_amqp::{AmqpOptions, AmqpPublisher, AmqpPublisherBuilder};
use outbox_core::{Error, ErrorKind, Message, Outcome, Publisher, Scope, Verdict};

/// Maximum time to wait for a condition or a call. Only a failing test waits this long.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// The common broker and a virtual host in it, or `None` if the test is to be skipped.
pub(crate) async fn vhost() -> Option<Vhost> {
    Some(RabbitMq::shared().await?.vhost().await)
}

/// A publisher with settings a loaded machine can keep.
pub(crate) fn builder(uri: &str) -> AmqpPublisherBuilder {
    AmqpPublisher::builder(uri).connect_timeout(SOON).confirm_timeout(SOON).heartbeat(SOON)
}

pub(crate) fn publisher(vhost: &Vhost) -> AmqpPublisher {
    builder(vhost.uri()).build().unwrap()
}

pub(crate) fn message(topic: &str, payload: impl Into<bytes::Bytes>) -> Message {
    Message::bytes(topic, payload.into()).build().unwrap()
}

/// A message to an exchange, with its own options.
pub(crate) fn message_with(topic: &str, options: &AmqpOptions) -> Message {
    Message::bytes(topic, "x").options(options).build().unwrap()
}

pub(crate) fn messages(topic: &str, count: usize) -> Vec<Message> {
    (0..count).map(|number| message(topic, number.to_string())).collect()
}

pub(crate) async fn publish_one(publisher: &AmqpPublisher, message: Message) -> Outcome {
    publisher.publish(&[message]).await.pop().expect("one outcome per message")
}

/// Publishes until the broker confirms: for what may take a moment after an outage.
pub(crate) async fn publish_eventually(publisher: &AmqpPublisher, message: &Message) {
    integration_tests::eventually("a confirm", SOON, || async {
        publisher.publish(std::slice::from_ref(message)).await.remove(0).ok()
    })
    .await;
}

#[track_caller]
pub(crate) fn all_confirmed(outcomes: &[Outcome]) {
    for (index, outcome) in outcomes.iter().enumerate() {
        if let Err(error) = outcome {
            panic!("message {index} of {}: {}", outcomes.len(), error.report());
        }
    }
}

/// Checks an error by what a relay makes of it.
#[track_caller]
pub(crate) fn assert_error(outcome: &Outcome, kind: ErrorKind, verdict: Verdict, scope: Scope) -> &Error {
    let error = outcome.as_ref().expect_err("the message must fail");
    assert_eq!((error.kind(), error.verdict(), error.scope()), (kind, verdict, scope), "{}", error.report());
    error
}
