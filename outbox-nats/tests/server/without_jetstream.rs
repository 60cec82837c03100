//! Servers and accounts without JetStream, and subjects to which something other than a stream listens.

use futures_util::StreamExt as _;
use integration_tests::{Nats, Server, with_growing_limit};
use outbox_core::{ErrorKind, Scope, Verdict};

use crate::support::{SOON, assert_error, builder, confirmed, message, publish_one, publisher};

const UNAVAILABLE: (ErrorKind, Verdict, Scope) = (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);

#[tokio::test]
async fn a_server_without_jetstream_is_reported_as_such() {
    let Some(nats) = Nats::start_with("jetstream: false").await else { return };
    let publisher = publisher(nats.url());
    publisher.connect().await.unwrap();
    assert_error(&publish_one(&publisher, message("orders")).await, UNAVAILABLE, "JetStream is not enabled");
    assert_error(&publisher.check().await, UNAVAILABLE, "add jetstream to its configuration");
}

#[tokio::test]
async fn an_account_without_jetstream_is_reported_as_such() {
    let accounts = "accounts {
        WITH: { jetstream: enabled, users: [ { user: with, password: secret } ] }
        WITHOUT: { users: [ { user: without, password: secret } ] }
    }
    no_auth_user: with";
    let Some(nats) = Nats::start_with(accounts).await else { return };
    let stream = nats.stream().await;
    confirmed(&publish_one(&publisher(&nats.url_of("with", "secret")), message(stream.name())).await);

    let publisher = publisher(&nats.url_of("without", "secret"));
    assert_error(&publish_one(&publisher, message(stream.name())).await, UNAVAILABLE, "not for this account");
    assert_error(&publisher.check().await, UNAVAILABLE, "not for this account");
}

#[tokio::test]
async fn a_subscriber_that_does_not_answer_confirms_nothing() {
    let Some(nats) = Nats::shared().await else { return };
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut subscriber = client.subscribe("outbox.silent").await.unwrap();
    client.flush().await.unwrap();
    with_growing_limit(async |limit| {
        let publisher = builder(nats.url()).ack_timeout(limit).build().unwrap();
        match publish_one(&publisher, message("outbox.silent")).await {
            Err(error) if error.verdict() == Verdict::Retry => return Err(error.report()),
            outcome => {
                let expected = (ErrorKind::Timeout, Verdict::Unknown, Scope::Endpoint);
                assert_error(&outcome, expected, "not only a subscriber listens to it");
            }
        }
        Ok(())
    })
    .await;
    tokio::time::timeout(SOON, subscriber.next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_that_answers_confirms_nothing() {
    let Some(nats) = Nats::shared().await else { return };
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut requests = client.subscribe("outbox.service").await.unwrap();
    client.flush().await.unwrap();
    let service = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            client.publish(request.reply.unwrap(), "thank you".into()).await.unwrap();
        }
    });
    let outcome = publish_one(&publisher(nats.url()), message("outbox.service")).await;
    let expected = (ErrorKind::Internal, Verdict::Unknown, Scope::Message);
    assert_error(&outcome, expected, "check that no service answers to this subject");
    service.abort();
}
