//! What the publisher asks of the service, counted at the service, and what it makes of answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_sqs::error::BoxError;
use integration_tests::sqs::{Fault, Gateway, Queue as TestQueue, client};
use integration_tests::{Server, Sqs, with_growing_limit};
use outbox_core::{ErrorKind, Message, Outcome, Publisher, Scope, Verdict};
use outbox_sqs::{Queue, SqsOptions, SqsPublisher};

use support::{Consumer, builder};

const DEADLINE: Duration = Duration::from_secs(120);
const SEND: &str = "SendMessageBatch";
const LOOK_UP: &str = "GetQueueUrl";

struct Scene {
    sqs: &'static Sqs,
    queue: Arc<TestQueue>,
    gateway: Gateway,
    publisher: SqsPublisher,
}

impl Scene {
    /// `None` where there is no server; the harness has said so, or has failed.
    async fn new(fifo: bool) -> Option<Self> {
        let sqs = Sqs::shared().await?;
        let queue = Arc::new(if fifo { sqs.fifo_queue().await } else { sqs.queue().await });
        let gateway = sqs.gateway().await;
        let publisher = builder(client(gateway.address())).build().unwrap();
        Some(Self { sqs, queue, gateway, publisher })
    }

    fn messages(&self, count: usize, bytes: usize) -> Vec<Message> {
        let message = |i: usize| {
            let payload = format!("{i} {}", "x".repeat(bytes));
            Message::bytes(self.queue.name(), payload).key(format!("k{i}")).build().unwrap()
        };
        (0..count).map(message).collect()
    }

    /// Fails unless exactly these arrive.
    async fn expect_arrived(&self, messages: &[Message]) {
        let arrived = Consumer::start(self.sqs, &self.queue).received(messages.len(), DEADLINE).await;
        let arrived: BTreeSet<_> = arrived.iter().filter_map(|received| received.id).collect();
        assert_eq!(arrived, messages.iter().map(Message::id).collect());
    }
}

fn kind(outcome: &Outcome) -> Option<ErrorKind> {
    outcome.as_ref().err().map(|error| error.kind())
}

async fn publish(publisher: &SqsPublisher, batch: &[Message]) {
    for outcome in publisher.publish(batch).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn under_load_every_request_but_the_last_is_full() {
    let Some(scene) = Scene::new(false).await else { return };
    publish(&scene.publisher, &scene.messages(1_000, 10)[..495]).await;
    let mut requests = scene.gateway.requests(SEND);
    requests.sort();
    assert_eq!(requests, [vec![5], vec![10; 49]].concat());

    // By bytes: three of 300 KiB fit into 1 MiB.
    publish(&scene.publisher, &scene.messages(10, 300 << 10)).await;
    let requests = scene.gateway.requests(SEND);
    assert_eq!(requests[50..].iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 3]));
    assert_eq!(requests.len(), 54);
}

/// One request for ten messages, where a loop over messages makes ten. What that is worth in time is printed; time on
/// a machine that others use as well proves nothing.
#[tokio::test]
async fn a_loop_over_messages_makes_ten_times_as_many_requests() {
    let Some(scene) = Scene::new(false).await else { return };
    let messages = scene.messages(2_000, 200);
    let started = Instant::now();
    for message in &messages {
        publish(&scene.publisher, std::slice::from_ref(message)).await;
    }
    let (one_by_one, naive) = (started.elapsed(), scene.gateway.requests(SEND).len());
    let started = Instant::now();
    for batch in messages.chunks(500) {
        publish(&scene.publisher, batch).await;
    }
    let (packed, requests) = (started.elapsed(), scene.gateway.requests(SEND).len() - naive);
    assert_eq!((naive, requests), (2_000, 200));
    println!(
        "2000 messages: {one_by_one:.2?} one by one, {packed:.2?} packed, {:.1} times as fast",
        one_by_one.as_secs_f64() / packed.as_secs_f64()
    );
}

#[tokio::test]
async fn requests_are_on_their_way_at_the_same_time_and_no_more_are_begun_after_a_failure() {
    let Some(scene) = Scene::new(false).await else { return };
    scene.gateway.set(Fault::Throttled);
    let outcomes = scene.publisher.publish(&scene.messages(500, 10)).await;
    assert!(outcomes.iter().all(|outcome| kind(outcome) == Some(ErrorKind::Throttled)));
    let requests = scene.gateway.requests(SEND).len();
    assert!((1..=8).contains(&requests), "{requests} requests to a service that wants fewer");
}

#[tokio::test]
async fn retries_of_the_client_are_not_used() {
    let Some(scene) = Scene::new(false).await else { return };
    let config = client(scene.gateway.address()).config().to_builder();
    let eager = Client::from_conf(config.retry_config(RetryConfig::standard().with_max_attempts(5)).build());
    let publisher = builder(eager).build().unwrap();
    scene.gateway.set(Fault::AnswerLost);
    let message = scene.messages(1, 10);
    let error = publisher.publish(&message).await.remove(0).unwrap_err();
    assert_eq!((error.verdict(), error.scope()), (Verdict::Unknown, Scope::Endpoint), "{}", error.report());
    assert_eq!(scene.gateway.requests(SEND), [1]);
    scene.expect_arrived(&message).await;
}

#[tokio::test]
async fn one_message_over_which_a_request_is_refused_does_not_take_the_others_along() {
    let Some(scene) = Scene::new(false).await else { return };
    scene.gateway.set(Fault::PoisonRefused);
    let mut batch = scene.messages(25, 10);
    batch[13] = Message::bytes(scene.queue.name(), "poison").build().unwrap();
    let outcomes = scene.publisher.publish(&batch).await;
    let error = outcomes[13].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.verdict()), (ErrorKind::Malformed, Verdict::Permanent), "{error}");
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 24);
    batch.remove(13);
    scene.expect_arrived(&batch).await;
}

#[tokio::test]
async fn a_service_that_throttles_every_message_throttles() {
    let Some(scene) = Scene::new(false).await else { return };
    scene.gateway.set(Fault::EachThrottled);
    for outcome in scene.publisher.publish(&scene.messages(15, 10)).await {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.scope()), (ErrorKind::Throttled, Scope::Endpoint));
    }
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_a_failure_is_not_remembered() {
    let Some(scene) = Scene::new(false).await else { return };
    scene.queue.delete().await;
    let batch = scene.messages(30, 10);
    for outcome in scene.publisher.publish(&batch).await {
        let error = outcome.unwrap_err();
        let judged = (error.kind(), error.verdict(), error.scope());
        assert_eq!(judged, (ErrorKind::NotFound, Verdict::Retry, Scope::Message));
        assert!(error.to_string().contains(scene.queue.name()), "{error}");
    }
    scene.queue.create_again().await;
    publish(&scene.publisher, &batch).await;
    publish(&scene.publisher, &batch).await;
    assert_eq!(scene.gateway.requests(LOOK_UP).len(), 2);

    // Gone after it was found: told as well, and looked up anew.
    scene.queue.delete().await;
    let outcomes = scene.publisher.publish(&batch).await;
    assert!(outcomes.iter().all(|outcome| kind(outcome) == Some(ErrorKind::NotFound)), "{outcomes:?}");
    assert_eq!(scene.gateway.requests(LOOK_UP).len(), 2);
    scene.publisher.publish(&batch).await;
    assert_eq!(scene.gateway.requests(LOOK_UP).len(), 3);
    scene.queue.create_again().await;
}

#[tokio::test]
async fn a_queue_is_found_by_its_url_and_by_the_topic() {
    let Some(scene) = Scene::new(false).await else { return };
    let builder = || builder(client(scene.gateway.address()));
    let one = |topic: &str| vec![Message::bytes(topic, "x").build().unwrap()];
    let by_url = builder().queue(Queue::url(scene.queue.url())).build().unwrap();
    by_url.connect().await.unwrap();
    let (first, second) = (one("order.placed"), one("order.paid"));
    publish(&by_url, &first).await;
    assert!(scene.gateway.requests(LOOK_UP).is_empty());

    let name = scene.queue.name();
    let by_topic =
        builder().route("order.paid", Queue::name(name)).queue_owner("000000000000").build().unwrap();
    by_topic.connect().await.unwrap();
    assert_eq!(scene.gateway.requests(LOOK_UP).len(), 1);
    publish(&by_topic, &second).await;
    assert_eq!(scene.gateway.requests(LOOK_UP).len(), 1);
    scene.expect_arrived(&[first, second].concat()).await;

    let nowhere = builder().queue(Queue::name("nowhere")).build().unwrap();
    assert_eq!(nowhere.connect().await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_check_looks_at_every_queue_of_the_settings() {
    let (Some(scene), Some(fifo)) = (Scene::new(false).await, Scene::new(true).await) else { return };
    let builder = || builder(client(scene.gateway.address()));
    let publisher = builder().queue(Queue::name(scene.queue.name()));
    let publisher = publisher.route("order.paid", Queue::url(fifo.queue.url())).build().unwrap();
    publisher.check().await.unwrap();
    assert_eq!(scene.gateway.requests("GetQueueAttributes").len(), 2);

    let by_name = builder().route("order.paid", Queue::name("nowhere")).build().unwrap();
    // The service is not asked for the URL of this one.
    let lost = scene.queue.url().replace(scene.queue.name(), "no-such-queue");
    let by_url = builder().queue(Queue::url(lost)).build().unwrap();
    for (publisher, queue) in [(&by_name, "nowhere"), (&by_url, "no-such-queue")] {
        let error = publisher.check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
        assert!(error.report().contains(queue), "{}", error.report());
    }

    let anything = builder().build().unwrap();
    anything.check().await.unwrap();
    scene.gateway.set(Fault::LookingDenied);
    let error = publisher.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{}", error.report());
    // Whoever may not list queues has been recognized.
    anything.check().await.unwrap();
    assert_eq!(scene.gateway.requests("ListQueues").len(), 2);
}

#[tokio::test]
async fn within_the_window_a_fifo_queue_delivers_a_repeat_once() {
    let Some(scene) = Scene::new(true).await else { return };
    let batch = scene.messages(10, 10);
    for _ in 0..3 {
        publish(&scene.publisher, &batch).await;
    }
    let consumer = Consumer::start(scene.sqs, &scene.queue);
    assert_eq!(consumer.received(10, DEADLINE).await.len(), 10);
    let more = consumer.received(11, Duration::from_millis(300)).await;
    assert_eq!(more.len(), 10, "repeats were delivered");
}

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let cause: BoxError = "the token is s3cret".into();
        future::ProvideCredentials::ready(Err(CredentialsError::provider_error(cause)))
    }
}

#[tokio::test]
async fn without_credentials_nothing_is_sent_and_nobody_is_blamed() {
    let Some(scene) = Scene::new(false).await else { return };
    let config = client(scene.gateway.address()).config().to_builder();
    let provider = SharedCredentialsProvider::new(NoCredentials);
    let config = config.credentials_provider(provider).build();
    let unknown = Client::from_conf(config);
    let publisher = builder(unknown.clone());
    let publisher = publisher.queue(Queue::url(scene.queue.url())).build().unwrap();
    for outcome in publisher.publish(&scene.messages(15, 10)).await {
        let error = outcome.unwrap_err();
        let judged = (error.kind(), error.verdict(), error.scope());
        assert_eq!(judged, (ErrorKind::Permission, Verdict::Retry, Scope::Endpoint), "{}", error.report());
        assert!(!error.report().contains("s3cret"), "{}", error.report());
    }
    assert!(scene.gateway.requests(SEND).is_empty());
    let anything = builder(unknown).build().unwrap();
    for error in [publisher.check().await.unwrap_err(), anything.check().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Permission, "{}", error.report());
        assert!(!error.report().contains("s3cret"), "{}", error.report());
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    // Bound and closed again, so nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for endpoint in [format!("http://{address}"), "http://sqs.invalid".to_owned()] {
        let config = client(address).config().to_builder().endpoint_url(&endpoint).build();
        let publisher = builder(Client::from_conf(config));
        let publisher = publisher.queue(Queue::url("https://sqs.invalid/1/orders")).build().unwrap();
        let batch = [Message::bytes("t", "x").build().unwrap()];
        let error = publisher.publish(&batch).await.remove(0).unwrap_err();
        let judged = (error.kind(), error.verdict(), error.scope());
        let expected = (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
        assert_eq!(judged, expected, "{endpoint}: {}", error.report());
        assert_eq!(publisher.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_slow_service_makes_what_was_sent_unknown_and_what_was_not_sent_a_retry() {
    let Some(sqs) = Sqs::start().await else { return };
    let queue = sqs.queue().await;
    let message = |i: usize| Message::bytes("t", i.to_string()).build().unwrap();
    let batch: Vec<Message> = (0..20).map(message).collect();
    let (sqs, queue, batch) = (&sqs, &queue, &batch);
    with_growing_limit(async |limit| {
        let publisher = builder(sqs.client())
            .queue(Queue::url(queue.url()))
            .requests_in_flight(1)
            .call_timeout(limit)
            .build()
            .unwrap();
        // Connected first, so that what fails is not the connection.
        publisher.publish(&batch[..1]).await.remove(0).map_err(|error| error.report())?;
        sqs.stop().await;
        let outcomes = publisher.publish(batch).await;
        sqs.cont().await;
        let errors: Vec<_> = outcomes.into_iter().map(Outcome::unwrap_err).collect();
        assert!(errors.iter().all(|error| error.scope() == Scope::Endpoint), "{errors:?}");
        let verdicts: Vec<_> = errors.iter().map(outbox_core::Error::verdict).collect();
        let expected = [vec![Verdict::Unknown; 10], vec![Verdict::Retry; 10]].concat();
        if verdicts == expected { Ok(()) } else { Err(format!("{verdicts:?}")) }
    })
    .await;
}

/// The body of a request as the service gets it.
async fn wire(scene: &Scene, batch: &[Message]) -> serde_json::Value {
    publish(&scene.publisher, batch).await;
    let mut body = scene.gateway.last_batch();
    // With a port and a name of this run.
    assert_eq!(body["QueueUrl"], scene.queue.url());
    body["QueueUrl"] = "[the queue]".into();
    let entries = body["Entries"].as_array_mut().unwrap();
    for entry in entries {
        entry["MessageAttributes"]["outbox-topic"]["StringValue"] = "[the queue's name]".into();
    }
    body
}

fn id(n: u8) -> outbox_core::MessageId {
    format!("018f4d2e-7b1a-7c3d-9e5f-0123456789{n:02x}").parse().unwrap()
}

#[tokio::test]
async fn what_a_standard_queue_gets() {
    let Some(scene) = Scene::new(false).await else { return };
    let message = |n, payload: &'static [u8]| Message::bytes(scene.queue.name(), payload).id(id(n));
    let many = (0..10).map(|i| (format!("header-{i}"), "v".to_owned()));
    let batch = [
        message(0, b"bare").build().unwrap(),
        message(1, b"{}")
            .key("customer 4")
            .content_type("application/json")
            .header("tenant", "acme")
            .build()
            .unwrap(),
        message(2, b"\x00\xff").build().unwrap(),
        message(3, b"")
            .options(&SqsOptions::new().delay_seconds(5).message_group_id("tenant-7"))
            .build()
            .unwrap(),
        message(4, b"many").headers(many).build().unwrap(),
    ];
    insta::assert_json_snapshot!(wire(&scene, &batch).await);
}

#[tokio::test]
async fn what_a_fifo_queue_gets() {
    let Some(scene) = Scene::new(true).await else { return };
    let message = |n, payload: &'static [u8]| Message::bytes(scene.queue.name(), payload).id(id(n));
    let options = SqsOptions::new().message_group_id("g").message_deduplication_id("d");
    let batch = [
        message(0, b"bare").build().unwrap(),
        message(1, b"keyed").key("customer-4").build().unwrap(),
        message(2, b"a key with a space").key("customer 4").build().unwrap(),
        message(3, b"chosen").options(&options).build().unwrap(),
    ];
    insta::assert_json_snapshot!(wire(&scene, &batch).await);
}
