//! The harness itself, on an emulator of SQS: a test that relies on a failure must be able to rely on the
//! harness.

#![allow(clippy::unwrap_used, reason = "the functions next to the tests are test code")]

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchOutput;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use integration_tests::sqs::{Fault, Queue, client};
use integration_tests::{Server, Sqs};

async fn send(client: &Client, queue: &Queue, bodies: &[&str]) -> Result<SendMessageBatchOutput, String> {
    let entry = |(place, body): (usize, &&str)| {
        SendMessageBatchRequestEntry::builder().id(place.to_string()).message_body(*body).build().unwrap()
    };
    let entries = bodies.iter().enumerate().map(entry).collect();
    let sent = client.send_message_batch().queue_url(queue.url()).set_entries(Some(entries)).send().await;
    sent.map_err(|error| format!("{error:?}"))
}

/// The messages of the queue, until a receive returns none.
async fn bodies(client: &Client, queue: &Queue) -> Vec<String> {
    let mut bodies = Vec::new();
    loop {
        let received = queue.receive(client).await.unwrap();
        if received.is_empty() {
            bodies.sort();
            return bodies;
        }
        bodies.extend(received.into_iter().map(|message| message.body.unwrap()));
    }
}

#[tokio::test]
async fn queues_of_two_tests_do_not_see_each_other() {
    let Some(sqs) = Sqs::shared().await else { return };
    let client = sqs.client();
    let (one, other) = (sqs.queue().await, sqs.fifo_queue().await);
    send(&client, &one, &["a", "b"]).await.unwrap();
    assert_eq!(bodies(&client, &one).await, ["a", "b"]);
    assert!(bodies(&client, &other).await.is_empty());
    assert!(other.name().ends_with(".fifo") && other.url().ends_with(other.name()));
}

#[tokio::test]
async fn a_killed_server_comes_back_empty_on_the_same_port() {
    let Some(sqs) = Sqs::start().await else { return };
    let client = sqs.client();
    let queue = sqs.queue().await;
    send(&client, &queue, &["lost"]).await.unwrap();
    sqs.kill().await;
    send(&client, &queue, &["refused"]).await.unwrap_err();
    sqs.restart().await;
    let error = send(&client, &queue, &["no queue"]).await.unwrap_err();
    assert!(error.contains("QueueDoesNotExist"), "{error}");
    queue.create_again().await;
    send(&client, &queue, &["kept"]).await.unwrap();
    assert_eq!(bodies(&client, &queue).await, ["kept"]);
}

#[tokio::test]
async fn the_gateway_counts_and_fails_as_told() {
    let Some(sqs) = Sqs::shared().await else { return };
    let (direct, queue, gateway) = (sqs.client(), sqs.queue().await, sqs.gateway().await);
    let client = client(gateway.address());
    send(&client, &queue, &["passed", "as well"]).await.unwrap();

    gateway.set(Fault::Throttled);
    let error = send(&client, &queue, &["throttled"]).await.unwrap_err();
    assert!(error.contains("RequestThrottled"), "{error}");

    gateway.set(Fault::EachThrottled);
    assert_eq!(send(&client, &queue, &["throttled"]).await.unwrap().failed()[0].code(), "RequestThrottled");

    gateway.set(Fault::PoisonRefused);
    let error = send(&client, &queue, &["good", "poison"]).await.unwrap_err();
    assert!(error.contains("InvalidMessageContents"), "{error}");

    gateway.set(Fault::EverySecondRefused);
    let answer = send(&client, &queue, &["first", "second", "third"]).await.unwrap();
    let ids = |ids: Vec<&str>| ids.join(" ");
    assert_eq!(ids(answer.successful().iter().map(|entry| entry.id()).collect()), "0 2");
    assert_eq!(ids(answer.failed().iter().map(|entry| entry.id()).collect()), "1");
    let mut alone = Vec::new();
    for _ in 0..4 {
        alone.push(send(&client, &queue, &["alone"]).await.unwrap().failed().len());
    }
    assert_eq!(alone, [1, 0, 1, 0]);

    gateway.set(Fault::AnswerLost);
    send(&client, &queue, &["unheard"]).await.unwrap_err();

    let there = ["alone", "alone", "as well", "first", "passed", "third", "unheard"];
    assert_eq!(bodies(&direct, &queue).await, there);
    assert_eq!(gateway.requests("SendMessageBatch"), [2, 1, 1, 2, 3, 1, 1, 1, 1, 1]);
    assert!(gateway.requests("ReceiveMessage").is_empty());
}

#[tokio::test]
async fn a_stopped_server_answers_when_it_goes_on() {
    let Some(sqs) = Sqs::start().await else { return };
    let (client, queue) = (sqs.client(), sqs.queue().await);
    sqs.stop().await;
    let waiting = send(&client, &queue, &["late"]);
    let mut waiting = std::pin::pin!(waiting);
    tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.unwrap_err();
    sqs.cont().await;
    waiting.await.unwrap();
    assert_eq!(bodies(&client, &queue).await, ["late"]);
}
