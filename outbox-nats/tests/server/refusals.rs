//! Messages that a stream, or the whole of JetStream, does not take.

use integration_tests::nats::{DiscardPolicy, StreamConfig};
use outbox_core::{ErrorKind, Message, Publisher, Scope, Verdict};
use outbox_nats::NatsOptions;

use crate::support::{
    SOON, assert_error, confirmed, message, message_with, publish_one, publisher, stream_with,
};

#[tokio::test]
async fn a_subject_without_a_stream_is_not_found() {
    let Some((nats, stream)) = stream_with(StreamConfig::default()).await else { return };
    let publisher = publisher(nats.url());
    let outcomes = publisher.publish(&[message("no.such.subject"), message(stream.name())]).await;
    let expected = (ErrorKind::NotFound, Verdict::Retry, Scope::Message);
    let error = assert_error(&outcomes[0], expected, "create one, or add the subject to one");
    assert!(error.to_string().contains("subject: no.such.subject"), "{error}");
    confirmed(&outcomes[1]);
    assert_eq!(stream.messages().await.len(), 1);
}

#[tokio::test]
async fn a_repeated_message_is_confirmed_and_stored_once() {
    let Some((nats, stream)) = stream_with(StreamConfig::default()).await else { return };
    let publisher = publisher(nats.url());
    let (first, second) = (message(stream.name()), message(stream.name()));
    for batch in [vec![first.clone()], vec![first.clone(), second], vec![first]] {
        publisher.publish(&batch).await.iter().for_each(confirmed);
    }
    assert_eq!(stream.messages().await.len(), 2);
}

#[tokio::test]
async fn a_full_stream_lets_messages_wait() {
    let full = StreamConfig { max_messages: 1, discard: DiscardPolicy::New, ..StreamConfig::default() };
    let Some((nats, stream)) = stream_with(full).await else { return };
    let other = nats.stream().await;
    let publisher = publisher(nats.url());
    confirmed(&publish_one(&publisher, message(stream.name())).await);

    // Beside another stream, it is that stream only.
    let waiting = message(stream.name());
    let outcomes = publisher.publish(&[waiting.clone(), message(other.name())]).await;
    let throttled = |scope| (ErrorKind::Throttled, Verdict::Retry, scope);
    assert_error(&outcomes[0], throttled(Scope::Message), "raise its limits");
    confirmed(&outcomes[1]);
    // Alone, it is all that the call asked for.
    let outcome = publish_one(&publisher, waiting.clone()).await;
    assert_error(&outcome, throttled(Scope::Endpoint), "maximum messages exceeded");
    assert_eq!(stream.messages().await.len(), 1);

    stream.update(|config| config.max_messages = 2).await;
    confirmed(&publish_one(&publisher, waiting).await);
    assert_eq!(stream.messages().await.len(), 2);
}

#[tokio::test]
async fn a_stream_full_of_bytes_or_of_a_subject_lets_messages_wait() {
    let bytes = StreamConfig { max_bytes: 400, discard: DiscardPolicy::New, ..StreamConfig::default() };
    let subject = StreamConfig {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        ..StreamConfig::default()
    };
    for config in [bytes, subject] {
        let Some((nats, stream)) = stream_with(config).await else { return };
        let publisher = publisher(nats.url());
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            outcomes.push(publish_one(&publisher, message(stream.name())).await);
        }
        confirmed(&outcomes[0]);
        let expected = (ErrorKind::Throttled, Verdict::Retry, Scope::Endpoint);
        assert_error(&outcomes[3], expected, "exceeded");
    }
}

#[tokio::test]
async fn a_message_above_the_limit_of_its_stream_is_too_large() {
    let config = StreamConfig { max_message_size: 500, ..StreamConfig::default() };
    let Some((nats, stream)) = stream_with(config).await else { return };
    let publisher = publisher(nats.url());
    let large = Message::bytes(stream.name(), vec![b'x'; 501]).build().unwrap();
    let outcomes = publisher.publish(&[large, message(stream.name())]).await;
    let expected = (ErrorKind::TooLarge, Verdict::Permanent, Scope::Message);
    assert_error(&outcomes[0], expected, "max_msg_size");
    confirmed(&outcomes[1]);
}

#[tokio::test]
async fn a_message_for_another_stream_than_expected_is_refused() {
    let Some((nats, stream)) = stream_with(StreamConfig::default()).await else { return };
    let publisher = crate::support::builder(nats.url()).expect_stream("ORDERS").build().unwrap();
    let expected = (ErrorKind::Rejected, Verdict::Retry, Scope::Message);
    let outcome = publish_one(&publisher, message(stream.name())).await;
    assert_error(&outcome, expected, "correct the stream's subjects or the expected stream");
    // The message's own option takes precedence.
    let mine = NatsOptions::new().stream(stream.name());
    confirmed(&publish_one(&publisher, message_with(stream.name(), &mine)).await);
    assert_eq!(stream.messages().await.len(), 1);
}

#[tokio::test]
async fn a_stream_deletes_a_message_with_a_ttl() {
    let config = StreamConfig { allow_message_ttl: true, ..StreamConfig::default() };
    let Some((nats, stream)) = stream_with(config).await else { return };
    let publisher = publisher(nats.url());
    let brief = NatsOptions::new().ttl_seconds(1);
    confirmed(&publish_one(&publisher, message_with(stream.name(), &brief)).await);
    integration_tests::eventually("the end of a message that lives for a second", SOON, || async {
        stream.is_empty().await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_without_ttls_refuses_a_message_with_one() {
    let Some((nats, stream)) = stream_with(StreamConfig::default()).await else { return };
    let publisher = publisher(nats.url());
    let outcome =
        publish_one(&publisher, message_with(stream.name(), &NatsOptions::new().ttl_seconds(60))).await;
    assert_error(
        &outcome,
        (ErrorKind::Rejected, Verdict::Retry, Scope::Message),
        "set allow_msg_ttl on the stream",
    );
    assert!(stream.messages().await.is_empty());
}

#[tokio::test]
async fn a_sealed_stream_refuses_with_its_own_words() {
    let Some((nats, stream)) = stream_with(StreamConfig::default()).await else { return };
    stream.update(|config| config.sealed = true).await;
    let outcome = publish_one(&publisher(nats.url()), message(stream.name())).await;
    assert_error(&outcome, (ErrorKind::Rejected, Verdict::Retry, Scope::Message), "sealed");
}

#[tokio::test]
async fn the_check_looks_for_a_stream_of_each_subject() {
    let Some((nats, stream)) = stream_with(StreamConfig::default()).await else { return };
    let builder = || crate::support::builder(nats.url()).subject("shop.{topic}").route("a", stream.name());
    builder().build().unwrap().check().await.unwrap();
    crate::support::publisher(nats.url()).check().await.unwrap();
    builder().expect_stream(stream.name()).build().unwrap().check().await.unwrap();

    let error = builder().route("b", "no.such.subject").build().unwrap().check().await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("no.such.subject"), "{error}");
    let error = builder().expect_stream("ORDERS").build().unwrap().check().await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("expected: ORDERS"), "{error}");
}
