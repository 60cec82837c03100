//! The harness itself, on Google's fake of Pub/Sub: a test that relies on a failure must be able to rely on
//! the harness.

#![allow(clippy::unwrap_used, reason = "the functions next to the tests are test code")]

use std::time::Duration;

use integration_tests::pubsub::{Fault, POISON, Topic};
use integration_tests::{PubSub, Server};

/// The messages of the subscription, until a pull returns none.
async fn payloads(topic: &Topic) -> Vec<String> {
    let subscriber = topic.subscriber();
    let mut payloads = Vec::new();
    loop {
        let messages = subscriber.pull().await.unwrap();
        if messages.is_empty() {
            return payloads;
        }
        payloads.extend(messages.iter().map(|message| String::from_utf8(message.data.to_vec()).unwrap()));
    }
}

#[tokio::test]
async fn topics_of_two_tests_do_not_see_each_other() {
    let Some(pubsub) = PubSub::shared().await else { return };
    let (one, other) = (pubsub.topic().await, pubsub.topic().await);
    one.publish("k", &["a", "b"]).await.unwrap();
    one.publish("k", &["c"]).await.unwrap();
    assert_eq!(payloads(&one).await, ["a", "b", "c"]);
    assert!(payloads(&other).await.is_empty());
    let books = one.books();
    assert_eq!(books.len(), 2);
    assert!(books[0].was_taken() && books[0].heads == ["a", "b"] && books[0].key == "k");
    assert!(other.books().is_empty());
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_books_and_topics() {
    let Some(pubsub) = PubSub::start().await else { return };
    let topic = pubsub.topic().await;
    topic.publish("", &["forgotten"]).await.unwrap();
    pubsub.kill().await;
    topic.publish("", &["refused"]).await.unwrap_err();
    pubsub.restart().await;
    topic.publish("", &["unheard"]).await.unwrap();
    topic.subscriber().pull().await.unwrap_err();
    topic.subscribe().await;
    topic.publish("", &["kept"]).await.unwrap();
    assert_eq!(payloads(&topic).await, ["kept"]);
    let heads: Vec<_> = topic.books().into_iter().flat_map(|entry| entry.heads).collect();
    assert_eq!(heads, ["forgotten", "unheard", "kept"]);
}

#[tokio::test]
async fn the_server_fails_as_told_and_only_there() {
    let Some(pubsub) = PubSub::shared().await else { return };
    let (topic, other) = (pubsub.topic().await, pubsub.topic().await);
    let code = async |payloads: &[&str]| match topic.publish("", payloads).await {
        Ok(_) => 0,
        Err(status) => i32::from(status.code()),
    };
    assert_eq!(code(&["passed", "as well"]).await, 0);
    topic.set(Fault::Code(8));
    assert_eq!(code(&["throttled"]).await, 8);
    other.publish("", &["elsewhere"]).await.unwrap();
    topic.set(Fault::EverySecond(9));
    let mut codes = Vec::new();
    for payload in ["1", "2", "3", "4"] {
        codes.push(code(&[payload]).await);
    }
    assert_eq!(codes, [0, 9, 0, 9]);
    topic.set(Fault::AnswerLost);
    assert_ne!(code(&["lost"]).await, 0);
    topic.set(Fault::None);
    assert_eq!(code(&["good", POISON]).await, 3);

    let mut arrived = payloads(&topic).await;
    arrived.sort();
    assert_eq!(arrived, ["1", "3", "as well", "lost", "passed"]);
    let books: Vec<_> = topic.books().into_iter().map(|entry| entry.code).collect();
    let expected = [
        "OK",
        "ResourceExhausted",
        "OK",
        "FailedPrecondition",
        "OK",
        "FailedPrecondition",
        "OK",
        "InvalidArgument",
    ];
    assert_eq!(books, expected);
}

#[tokio::test]
async fn what_the_service_refuses_is_refused() {
    let Some(pubsub) = PubSub::shared().await else { return };
    let topic = pubsub.topic().await;
    topic.publish("", &vec!["x"; 1000]).await.unwrap();
    let many = vec!["x"; 1001];
    let large = "x".repeat(10_000_000);
    let long = "k".repeat(1025);
    for (key, payloads) in [("", &many[..]), ("", &[]), ("", &[&large]), ("", &[""]), (&long, &["x"])] {
        let status = topic.publish(key, payloads).await.unwrap_err();
        assert_eq!(i32::from(status.code()), 3, "{status}");
    }
    assert_eq!(topic.books().iter().filter(|entry| entry.was_taken()).count(), 1);
}

#[tokio::test]
async fn a_stopped_server_answers_when_it_goes_on() {
    let Some(pubsub) = PubSub::start().await else { return };
    let topic = pubsub.topic().await;
    pubsub.stop().await;
    let mut waiting = std::pin::pin!(topic.publish("", &["late"]));
    tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.unwrap_err();
    pubsub.cont().await;
    waiting.await.unwrap();
    assert_eq!(payloads(&topic).await, ["late"]);
}
