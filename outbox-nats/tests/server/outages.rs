//! Servers that go away, and calls that are dropped.

use std::time::Duration;

use integration_tests::{Nats, Server};
use outbox_core::{ErrorKind, Message, Publisher, Scope, Verdict};

use crate::support::{SOON, assert_error, confirmed, message, publish_eventually, publish_one, publisher};

#[tokio::test]
async fn a_server_that_was_killed_is_used_again() {
    let Some(nats) = Nats::start().await else { return };
    let stream = nats.stream().await;
    let publisher = publisher(nats.url());
    confirmed(&publish_one(&publisher, message(stream.name())).await);
    nats.kill().await;
    let outcome = publish_one(&publisher, message(stream.name())).await;
    let error = outcome.unwrap_err();
    assert!(error.scope() == Scope::Endpoint && error.verdict() != Verdict::Permanent, "{}", error.report());
    nats.restart().await;
    publish_eventually(&publisher, &message(stream.name())).await;
    assert!(stream.messages().await.len() >= 2);
}

#[tokio::test]
async fn a_silent_server_leaves_the_outcome_unknown() {
    let Some(nats) = Nats::start().await else { return };
    let stream = nats.stream().await;
    let builder = crate::support::builder(nats.url()).ack_timeout(Duration::from_millis(500));
    let publisher = builder.build().unwrap();
    // Connected, however long that takes.
    integration_tests::eventually("a connection", SOON, || async { publisher.connect().await.ok() }).await;
    nats.stop().await;
    let outcome = publish_one(&publisher, message(stream.name())).await;
    assert_error(&outcome, (ErrorKind::Timeout, Verdict::Unknown, Scope::Endpoint), "no acknowledgement");
    nats.cont().await;
    publish_eventually(&publisher, &message(stream.name())).await;
}

/// More than the system keeps for a server that does not read, so that most of it is in the queue of the client.
#[tokio::test]
async fn a_dropped_call_sends_nothing_of_what_the_client_still_holds() {
    const MESSAGES: usize = 90;
    let Some(nats) = Nats::start().await else { return };
    let stream = nats.stream().await;
    let publisher = publisher(nats.url());
    publisher.connect().await.unwrap();
    let payload = vec![b'x'; 900 << 10];
    let batch: Vec<_> =
        (0..MESSAGES).map(|_| Message::bytes(stream.name(), payload.clone()).build().unwrap()).collect();
    nats.stop().await;
    let call = tokio::time::timeout(Duration::from_secs(2), publisher.publish(&batch)).await;
    assert!(call.is_err(), "a stopped server has answered");
    nats.cont().await;

    // Until the server has stored all that it had received.
    let (mut stored, mut same) = (usize::MAX, 0);
    while same < 10 {
        confirmed(&publish_one(&publisher, message(stream.name())).await);
        let large = stream.messages().await.iter().filter(|message| message.payload.len() > 1).count();
        same = if large == stored { same + 1 } else { 0 };
        stored = large;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(stored < MESSAGES / 2, "{stored} of {MESSAGES} messages of a dropped call were stored");
}
