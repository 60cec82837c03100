//! The harness itself, on NATS: a test that relies on a fault must be able to rely on the fault.

#![allow(clippy::unwrap_used, reason = "the functions beside the tests are tests, too")]

use std::time::Duration;

use async_nats::jetstream::Context;
use integration_tests::nats::StreamMessage;
use integration_tests::{Nats, Server, eventually};

/// Publishes, and waits for the acknowledgement.
async fn publish(jetstream: &Context, subject: &str, payload: &'static str) -> Result<(), String> {
    let sent =
        jetstream.publish(subject.to_owned(), payload.into()).await.map_err(|error| error.to_string())?;
    sent.await.map(drop).map_err(|error| error.to_string())
}

fn payloads(messages: &[StreamMessage]) -> Vec<&[u8]> {
    messages.iter().map(|message| &message.payload[..]).collect()
}

#[tokio::test]
async fn streams_of_two_tests_do_not_see_each_other() {
    let Some(nats) = Nats::shared().await else { return };
    let jetstream = nats.jetstream().await;
    let (one, other) = (nats.stream().await, nats.stream().await);
    publish(&jetstream, one.name(), "a").await.unwrap();
    publish(&jetstream, &format!("{}.below", one.name()), "b").await.unwrap();
    assert_eq!(payloads(&one.messages().await), [b"a", b"b"]);
    assert_eq!(payloads(&one.read(2).await.unwrap()), [b"b"]);
    assert!(one.read(3).await.unwrap().is_empty() && other.messages().await.is_empty());
    let name = other.name().to_owned();
    drop(other);
    eventually("the end of a stream whose value was dropped", Duration::from_secs(60), || async {
        jetstream.get_stream(&name).await.err()
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_messages_on_the_same_port() {
    let Some(nats) = Nats::start().await else { return };
    let (jetstream, stream) = (nats.jetstream().await, nats.stream().await);
    publish(&jetstream, stream.name(), "kept").await.unwrap();
    nats.kill().await;
    nats.restart().await;
    let again = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    publish(&again, stream.name(), "again").await.unwrap();
    assert_eq!(payloads(&stream.messages().await), [&b"kept"[..], b"again"]);
}

#[tokio::test]
async fn a_server_can_be_started_with_settings_of_the_test() {
    let Some(nats) = Nats::start_with("jetstream: false\nmax_payload: 1000").await else { return };
    let info = async_nats::connect(nats.url()).await.unwrap().server_info();
    assert_eq!((info.jetstream, info.max_payload), (false, 1000));
}

#[tokio::test]
async fn a_stopped_server_answers_when_it_goes_on() {
    let Some(nats) = Nats::start().await else { return };
    let (jetstream, stream) = (nats.jetstream().await, nats.stream().await);
    nats.stop().await;
    let waiting = publish(&jetstream, stream.name(), "late");
    let mut waiting = std::pin::pin!(waiting);
    tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.unwrap_err();
    nats.cont().await;
    waiting.await.unwrap();
    assert_eq!(payloads(&stream.messages().await), [b"late"]);
}
