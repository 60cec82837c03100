//! What the publisher asks of the service, counted in the service's books, and what it makes of refusals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::pubsub::{Fault, POISON, Topic as TestTopic};
use integration_tests::{PubSub, Server, with_growing_limit};
use outbox_core::{ErrorKind, Message, MessageBuilder, Outcome, Publisher, Scope, Verdict};
use outbox_pubsub::{PubSubOptions, PubSubPublisher, PubSubPublisherBuilder, Topic};

use support::{Consumer, builder};

const DEADLINE: Duration = Duration::from_secs(120);
const RESOURCE_EXHAUSTED: i32 = 8;
const PERMISSION_DENIED: i32 = 7;

struct Scene {
    topic: TestTopic,
    pubsub: &'static PubSub,
}

impl Scene {
    /// `None` where there is no server; the harness has said so, or has failed.
    async fn new() -> Option<Self> {
        let pubsub = PubSub::shared().await?;
        Some(Self { topic: pubsub.topic().await, pubsub })
    }

    fn builder(&self) -> PubSubPublisherBuilder {
        builder(self.pubsub.address())
    }

    fn message(&self, payload: impl Into<String>) -> MessageBuilder {
        Message::bytes(self.topic.id(), payload.into())
    }

    /// `count` messages over `keys` keys, or without any.
    fn messages(&self, count: usize, keys: usize) -> Vec<Message> {
        let message = |i: usize| {
            let message = self.message(i.to_string());
            if keys == 0 { message } else { message.key(format!("k{}", i % keys)) }.build().unwrap()
        };
        (0..count).map(message).collect()
    }

    /// How many messages each request had that the service has taken.
    fn taken(&self) -> Vec<usize> {
        self.topic.books().iter().filter(|entry| entry.was_taken()).map(|entry| entry.ids.len()).collect()
    }

    /// Fails unless exactly these arrive, and those of a key in their order.
    async fn expect_arrived(&self, messages: &[Message]) {
        let arrived = Consumer::start(&self.topic).received(messages.len(), DEADLINE).await;
        let ids: BTreeSet<_> = arrived.iter().filter_map(|received| received.id).collect();
        assert_eq!(ids, messages.iter().map(Message::id).collect());
        let mut order: BTreeMap<Option<String>, Vec<_>> = BTreeMap::new();
        for received in arrived.into_iter().filter(|received| received.key.is_some()) {
            order.entry(received.key).or_default().push(received.id.unwrap());
        }
        for (key, ids) in order {
            let sent = messages.iter().filter(|message| message.key() == key.as_deref());
            assert_eq!(ids, sent.map(Message::id).collect::<Vec<_>>(), "order of {key:?}");
        }
    }
}

fn kinds(outcomes: &[Outcome]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|outcome| outcome.as_ref().err().map(|error| error.kind())).collect()
}

async fn publish(publisher: &PubSubPublisher, batch: &[Message]) {
    for outcome in publisher.publish(batch).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn under_load_requests_are_full() {
    let Some(scene) = Scene::new().await else { return };
    // No keys: as many as a request takes.
    publish(&scene.builder().build().unwrap(), &scene.messages(2_500, 0)).await;
    let mut taken = scene.taken();
    taken.sort_unstable();
    assert_eq!(taken, [500, 1000, 1000]);

    // The same with keys that are not ordering keys.
    let Some(scene) = Scene::new().await else { return };
    publish(&scene.builder().ordering_keys(false).build().unwrap(), &scene.messages(1_000, 1_000)).await;
    assert_eq!(scene.taken(), [1000]);

    // A request per key with ordering keys, which is what the service allows.
    let Some(scene) = Scene::new().await else { return };
    let batch = scene.messages(1_000, 10);
    publish(&scene.builder().build().unwrap(), &batch).await;
    assert_eq!(scene.taken(), [100; 10]);
    scene.expect_arrived(&batch).await;

    // By bytes: three of 300 000 bytes fit into a million.
    let Some(scene) = Scene::new().await else { return };
    let large: Vec<Message> = (0..10).map(|_| scene.message("x".repeat(300_000)).build().unwrap()).collect();
    publish(&scene.builder().max_request_bytes(1_000_000).build().unwrap(), &large).await;
    let mut taken = scene.taken();
    taken.sort_unstable();
    assert_eq!(taken, [1, 3, 3, 3]);
}

/// One request for a thousand messages, where a loop over messages makes a thousand. What that is worth in time is
/// printed; time on a machine that others use as well proves nothing.
#[tokio::test]
async fn a_loop_over_messages_makes_a_request_for_each() {
    let Some(naive) = Scene::new().await else { return };
    let Some(packed) = Scene::new().await else { return };
    let Some(keyed) = Scene::new().await else { return };
    let publisher = naive.builder().build().unwrap();
    publisher.connect().await.unwrap();
    const COUNT: usize = 2_000;

    let started = Instant::now();
    for message in naive.messages(COUNT, 0) {
        publish(&publisher, std::slice::from_ref(&message)).await;
    }
    let one_by_one = started.elapsed();
    let started = Instant::now();
    for batch in packed.messages(COUNT, 0).chunks(1_000) {
        publish(&publisher, batch).await;
    }
    let in_full = started.elapsed();
    let started = Instant::now();
    for batch in keyed.messages(COUNT, 200).chunks(1_000) {
        publish(&publisher, batch).await;
    }
    let by_key = started.elapsed();
    assert_eq!((naive.taken().len(), packed.taken().len(), keyed.taken().len()), (COUNT, 2, 400));
    let times = |took: Duration| one_by_one.as_secs_f64() / took.as_secs_f64();
    println!(
        "{COUNT} messages: {one_by_one:.2?} one by one; {in_full:.2?} in full requests, {:.1} times as fast; \
         {by_key:.2?} in a request per key over 200 keys, {:.1} times as fast",
        times(in_full),
        times(by_key),
    );
}

#[tokio::test]
async fn no_more_requests_are_begun_after_a_failure_of_the_service() {
    for (code, kind) in
        [(RESOURCE_EXHAUSTED, ErrorKind::Throttled), (PERMISSION_DENIED, ErrorKind::Permission)]
    {
        let Some(scene) = Scene::new().await else { return };
        scene.topic.set(Fault::Code(code));
        let publisher = scene.builder().requests_in_flight(8).build().unwrap();
        for outcome in publisher.publish(&scene.messages(500, 500)).await {
            let error = outcome.unwrap_err();
            let judged = (error.kind(), error.verdict(), error.scope());
            assert_eq!(judged, (kind, Verdict::Retry, Scope::Endpoint), "{}", error.report());
        }
        let requests = scene.topic.books().len();
        assert!((1..=8).contains(&requests), "{requests} requests to a service that said no");
    }
}

#[tokio::test]
async fn one_message_over_which_a_request_is_refused_does_not_take_the_others_along() {
    let Some(scene) = Scene::new().await else { return };
    let mut batch = scene.messages(300, 0);
    for place in [0, 137, 299] {
        batch[place] = scene.message(POISON).build().unwrap();
    }
    let outcomes = scene.builder().build().unwrap().publish(&batch).await;
    for (place, outcome) in outcomes.iter().enumerate() {
        match (place, outcome) {
            (0 | 137 | 299, Err(error)) => {
                assert_eq!(
                    (error.kind(), error.verdict()),
                    (ErrorKind::Malformed, Verdict::Permanent),
                    "{error}"
                );
                assert_eq!(error.scope(), Scope::Message);
            }
            (_, outcome) => assert!(outcome.is_ok(), "message {place}: {outcome:?}"),
        }
    }
    // By halves: about two requests for each halving on the way to each culprit.
    let requests = scene.topic.books().len();
    assert!(requests <= 3 * 2 * 9 + 1, "{requests} requests to find three among 300");
    let good: Vec<Message> = batch.into_iter().filter(|message| message.payload() != POISON).collect();
    scene.expect_arrived(&good).await;
}

#[tokio::test]
async fn a_key_goes_up_to_its_bad_message_and_no_further() {
    let Some(scene) = Scene::new().await else { return };
    let mut batch = scene.messages(60, 3);
    batch[31] = scene.message(POISON).key("k1").build().unwrap();
    let publisher = scene.builder().build().unwrap();
    let outcomes = publisher.publish(&batch).await;
    let expected = |place: usize| match place {
        31 => Some(ErrorKind::Malformed),
        _ if place > 31 && place % 3 == 1 => Some(ErrorKind::Rejected),
        _ => None,
    };
    assert_eq!(kinds(&outcomes), (0..60).map(expected).collect::<Vec<_>>());
    // As a relay does when a person has discarded the bad one.
    let rest: Vec<Message> =
        (32..60).filter(|place| place % 3 == 1).map(|place| batch[place].clone()).collect();
    publish(&publisher, &rest).await;
    batch.remove(31);
    scene.expect_arrived(&batch).await;
}

#[tokio::test]
async fn a_key_is_sent_in_order_through_several_topics_and_ordering_keys() {
    let Some(scene) = Scene::new().await else { return };
    let other = scene.pubsub.topic().await;
    let publisher = scene.builder().route("elsewhere", Topic::full(other.name())).build().unwrap();
    let options = |key: &str| PubSubOptions::new().ordering_key(key);
    let batch = [
        scene.message("1").key("k").build().unwrap(),
        Message::bytes("elsewhere", "2").key("k").build().unwrap(),
        scene.message("3").key("k").options(&options("other")).build().unwrap(),
        Message::bytes("elsewhere", POISON).key("k").build().unwrap(),
        scene.message("5").key("k").build().unwrap(),
        scene.message("6").build().unwrap(),
    ];
    let outcomes = publisher.publish(&batch).await;
    let malformed = Some(ErrorKind::Malformed);
    assert_eq!(kinds(&outcomes), [None, None, None, malformed, Some(ErrorKind::Rejected), None]);
    let keyed = scene.topic.books().into_iter().filter(|entry| !entry.key.is_empty());
    let keyed: Vec<_> = keyed.map(|entry| (entry.key, entry.heads)).collect();
    let one = |payload: &str| vec![payload.to_owned()];
    assert_eq!(keyed, [("k".to_owned(), one("1")), ("other".to_owned(), one("3"))]);
    let taken: Vec<_> = other.books().into_iter().filter(|entry| entry.was_taken()).collect();
    assert_eq!(taken.len(), 1);
}

#[tokio::test]
async fn a_topic_that_does_not_exist_fails_its_own_messages_only() {
    let Some(scene) = Scene::new().await else { return };
    let publisher = scene.builder().build().unwrap();
    let batch = [
        Message::bytes("nowhere", "x").key("a").build().unwrap(),
        scene.message("x").key("b").build().unwrap(),
        Message::bytes("?", "x").key("c").build().unwrap(),
    ];
    let outcomes = publisher.publish(&batch).await;
    assert_eq!(kinds(&outcomes), [Some(ErrorKind::NotFound), None, Some(ErrorKind::NotFound)]);
    let error = outcomes[0].as_ref().unwrap_err();
    assert!(error.to_string().contains("projects/outbox-test/topics/nowhere"), "{error}");
    assert_eq!((error.verdict(), error.scope()), (Verdict::Retry, Scope::Message));
}

#[tokio::test]
async fn a_check_looks_for_every_topic_of_the_settings_and_for_subscriptions_without_order() {
    let (Some(scene), Some(other)) = (Scene::new().await, Scene::new().await) else { return };
    let builder = || {
        scene.builder().route("w", Topic::id(scene.topic.id())).route("x", Topic::full(other.topic.name()))
    };
    let publisher = builder().build().unwrap();
    publisher.check().await.unwrap();
    assert_eq!(publisher.unordered_subscriptions().await.unwrap(), Vec::<String>::new());
    let unordered = other.topic.subscribe_without_order().await;
    publisher.check().await.unwrap();
    assert_eq!(publisher.unordered_subscriptions().await.unwrap(), [unordered]);
    let without_keys = builder().ordering_keys(false).build().unwrap();
    assert_eq!(without_keys.unordered_subscriptions().await.unwrap(), Vec::<String>::new());

    let lost = builder().route("y", Topic::id("nowhere")).build().unwrap();
    let error = lost.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    assert!(error.report().contains("projects/outbox-test/topics/nowhere"), "{}", error.report());
    assert_eq!(lost.unordered_subscriptions().await.unwrap().len(), 1);
    scene.builder().build().unwrap().check().await.unwrap();
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    // Bound and closed again, so nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for host in [address.to_string(), "pubsub.invalid:8085".to_owned()] {
        let publisher = PubSubPublisher::emulator_builder(&host).project("p").build().unwrap();
        let batch = [Message::bytes("orders", "x").build().unwrap()];
        let error = publisher.publish(&batch).await.remove(0).unwrap_err();
        let judged = (error.kind(), error.verdict(), error.scope());
        let expected = (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
        assert_eq!(judged, expected, "{host}: {}", error.report());
        let error = publisher.connect().await.unwrap_err();
        assert_eq!((error.kind(), error.scope()), (ErrorKind::Unavailable, Scope::Endpoint));
        assert_eq!(publisher.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_stopped_service_makes_what_was_sent_unknown_and_what_was_not_sent_a_retry() {
    let Some(pubsub) = PubSub::start().await else { return };
    let topic = pubsub.topic().await;
    let message = |i: usize| Message::bytes(topic.id(), i.to_string()).key(i.to_string()).build().unwrap();
    let batch: Vec<Message> = (0..3).map(message).collect();
    let (pubsub, batch) = (&pubsub, &batch);
    with_growing_limit(async |limit| {
        let publisher = builder(pubsub.address()).requests_in_flight(1).call_timeout(limit).build().unwrap();
        // Connected first, so that what fails is not the connection.
        publisher.publish(&batch[..1]).await.remove(0).map_err(|error| error.report())?;
        pubsub.stop().await;
        let outcomes = publisher.publish(batch).await;
        pubsub.cont().await;
        let errors: Vec<_> = outcomes.into_iter().map(Outcome::unwrap_err).collect();
        assert!(errors.iter().all(|error| error.scope() == Scope::Endpoint), "{errors:?}");
        let verdicts: Vec<_> = errors.iter().map(outbox_core::Error::verdict).collect();
        if verdicts != [Verdict::Unknown, Verdict::Retry, Verdict::Retry] {
            return Err(format!("{verdicts:?}"));
        }
        assert_eq!(errors[0].kind(), ErrorKind::Timeout);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_begins_no_further_request() {
    let Some(pubsub) = PubSub::start().await else { return };
    let topic = pubsub.topic().await;
    let publisher = builder(pubsub.address()).requests_in_flight(2).build().unwrap();
    let message =
        |text: &str| Message::bytes(topic.id(), text.to_owned()).key(text.to_owned()).build().unwrap();
    publish(&publisher, &[message("connected")]).await;
    pubsub.stop().await;
    let batch: Vec<Message> = (0..50).map(|i| message(&i.to_string())).collect();
    // Nobody answers, so no request makes way for another.
    tokio::time::timeout(Duration::from_millis(300), publisher.publish(&batch)).await.unwrap_err();
    pubsub.cont().await;
    publish(&publisher, &[message("after")]).await;
    let heads: Vec<String> = topic.books().into_iter().flat_map(|entry| entry.heads).collect();
    assert!(
        heads.contains(&"after".to_owned()) && heads.len() <= 2 + 2,
        "sent after the call was dropped: {heads:?}"
    );
}

/// Set for the process below, which is this test again.
const TOPIC: &str = "OUTBOX_PUBSUB_TEST_TOPIC";
const EMULATOR: &str = "PUBSUB_EMULATOR_HOST";

#[tokio::test]
async fn only_the_constructor_that_says_so_reads_the_environment() {
    if let Ok(topic) = std::env::var(TOPIC) {
        let message = Message::bytes(topic, "x").build().unwrap();
        let publisher = PubSubPublisher::builder_from_emulator_env().unwrap().build().unwrap();
        publish(&publisher, std::slice::from_ref(&message)).await;
        // Another one goes where it is told.
        let elsewhere = PubSubPublisher::emulator_builder("127.0.0.1:1").build().unwrap();
        let outcome = elsewhere.publish(&[message]).await.remove(0);
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
        return;
    }
    let Some(scene) = Scene::new().await else { return };
    // Not in this process: changing its environment while others read it is not safe.
    let again = |host: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "only_the_constructor_that_says_so_reads_the_environment"]);
        command.env(TOPIC, scene.topic.name()).env(EMULATOR, host).output().unwrap()
    };
    let output = again(&scene.pubsub.address().to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(scene.taken(), [1]);
    let output = again("");
    assert!(!output.status.success());
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("PUBSUB_EMULATOR_HOST names no emulator"), "{text}");
}
