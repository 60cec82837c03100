//! What goes over the wire, and how often.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions next to the tests are test code; ratios are for people"
)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::primitives::Blob;
use integration_tests::kinesis::Fault;
use integration_tests::{Kinesis, Mode, Proxy};
use outbox_core::{ErrorKind, Message, Publisher, Scope, Verdict};
use outbox_kinesis::{Format, KinesisOptions, Stream, aws_sdk_kinesis};
use support::{builder, message};

/// Publishes 5000 messages as a relay does, several calls at a time, and a tenth as many one by one, as a loop over
/// messages does. The first need a request for each 500. What that is worth in time is printed; time on a machine that
/// others use as well proves nothing.
async fn in_full_requests_and_one_by_one(server: &Kinesis, client: &aws_sdk_kinesis::Client, way: &str) {
    const COUNT: usize = 5000;
    let stream = server.stream(4).await;
    let publisher = builder(client.clone()).build().unwrap();
    let messages: Vec<Message> =
        (0..COUNT).map(|number| message(&stream, Some(&number.to_string()), vec![b'x'; 200])).collect();
    let (batches, singles) = (server.requests("PutRecords"), server.requests("PutRecord"));

    let begun = Instant::now();
    let calls = messages.chunks(500).map(|batch| publisher.publish(batch));
    let outcomes = futures_util::future::join_all(calls).await;
    assert!(outcomes.iter().flatten().all(Result::is_ok));
    let batched = begun.elapsed();
    assert_eq!(server.requests("PutRecords") - batches, COUNT / 500);
    assert_eq!(server.requests("PutRecord"), singles);

    let alone = COUNT / 10;
    let begun = Instant::now();
    for message in &messages[..alone] {
        let put = client.put_record().stream_name(&stream).partition_key(message.key().unwrap());
        put.data(Blob::new(message.payload().to_vec())).send().await.unwrap();
    }
    let ratio = begun.elapsed().as_secs_f64() * 10.0 / batched.as_secs_f64();
    println!(
        "{way}: {:.0} messages/s in requests of 500, {ratio:.1} times the rate of one request after another",
        COUNT as f64 / batched.as_secs_f64()
    );
    assert_eq!(server.requests("PutRecord") - singles, alone);
    assert_eq!(server.records(&stream).await.len(), COUNT + alone);
}

#[tokio::test]
async fn five_hundred_messages_are_one_request_and_faster_than_one_by_one() {
    let server = Kinesis::start().await;
    in_full_requests_and_one_by_one(&server, &server.client(), "within the machine").await;
    // As far away as another zone of the same region.
    let proxy = Proxy::start(server.address()).await;
    proxy.set(Mode::Delay(Duration::from_millis(1))).await;
    let client = integration_tests::kinesis::client(proxy.address());
    in_full_requests_and_one_by_one(&server, &client, "a millisecond away").await;
}

#[tokio::test]
async fn a_busy_shard_delays_its_own_records_and_costs_no_attempt() {
    let server = Kinesis::start_with_limits().await;
    let stream = server.stream(2).await;
    let builder = || support::builder(server.client()).format(Format::Raw);
    let impatient = builder().throttle_patience(Duration::ZERO).build().unwrap();
    // The lowest and the highest hash are on different shards.
    let on = |hash: &str, number: usize| {
        let options = KinesisOptions::new().explicit_hash_key(hash);
        Message::bytes(&stream, vec![b'x'; 40_000])
            .key(format!("{hash} {number}"))
            .options(&options)
            .build()
            .unwrap()
    };
    let (low, high) = ("0", "340282366920938463463374607431768211455");
    let mut batch: Vec<Message> = (0..60).map(|number| on(low, number)).collect();
    batch.extend((0..5).map(|number| on(high, number)));
    let outcomes = impatient.publish(&batch).await;
    assert!(outcomes[60..].iter().all(Result::is_ok), "the other shard is not busy");
    let throttled: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    // How many depends on the time that the server takes for them.
    assert!((1..60).contains(&throttled.len()), "{} of 60", throttled.len());
    for error in &throttled {
        assert_eq!(
            (error.kind(), error.verdict(), error.scope()),
            (ErrorKind::Throttled, Verdict::Retry, Scope::Message)
        );
        assert!(error.retry_after().is_some());
    }
    // If nothing gets through, it is the whole stream that is busy.
    let again: Vec<Message> = (60..70).map(|number| on(low, number)).collect();
    server.set(Fault::EachThrottled);
    let outcomes = impatient.publish(&again).await;
    server.set(Fault::None);
    assert!(
        outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.scope() == Scope::Endpoint))
    );

    // With patience, they get through within the call.
    let patient = builder().throttle_patience(Duration::from_secs(90)).build().unwrap();
    let outcomes = patient.publish(&batch[..40]).await;
    assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
}

#[tokio::test]
async fn partial_failures_do_not_reorder_a_key() {
    let server = Kinesis::start_with_limits().await;
    let stream = server.stream(1).await;
    let publisher = builder(server.client()).throttle_patience(Duration::from_secs(1)).build().unwrap();
    // What a relay does: one message of a key at a time, the next one when it is confirmed.
    let keys = 50;
    let mut next = vec![0_usize; keys];
    while next.iter().any(|number| *number < 8) {
        let due: Vec<usize> = (0..keys).filter(|key| next[*key] < 8).collect();
        let batch: Vec<Message> = due
            .iter()
            .map(|key| {
                let payload = format!("{}{}", next[*key], "x".repeat(8_000));
                message(&stream, Some(&key.to_string()), payload)
            })
            .collect();
        for (key, outcome) in due.iter().zip(publisher.publish(&batch).await) {
            next[*key] += usize::from(outcome.is_ok());
        }
    }
    let mut came = BTreeMap::<String, Vec<String>>::new();
    for record in server.records(&stream).await {
        let received: serde_json::Value = serde_json::from_slice(&record.data).unwrap();
        let number = received["payload"].as_str().unwrap()[..1].to_owned();
        came.entry(record.partition_key).or_default().push(number);
    }
    let expected: Vec<String> = (0..8).map(|number: usize| number.to_string()).collect();
    assert!(came.len() == keys && came.values().all(|numbers| *numbers == expected), "{came:?}");
}

#[tokio::test]
async fn what_the_service_refuses_among_others_is_found_and_the_others_pass() {
    let server = Kinesis::start().await;
    let stream = server.stream(1).await;
    // The publisher is told that the stream takes more than it does.
    let publisher = builder(server.client()).max_record_bytes(4 << 20).build().unwrap();
    let mut batch: Vec<Message> =
        (0..4).map(|number: usize| message(&stream, None, number.to_string())).collect();
    batch.insert(2, message(&stream, None, vec![b'x'; 2 << 20]));
    let outcomes = publisher.publish(&batch).await;
    for (place, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(()) => assert_ne!(place, 2),
            Err(error) => {
                assert_eq!(place, 2, "{error}");
                assert_eq!(error.verdict(), Verdict::Permanent, "{error}");
            }
        }
    }
    assert_eq!(server.records(&stream).await.len(), 4);
}

#[tokio::test]
async fn streams_are_routed_and_named_by_arn_too() {
    let server = Kinesis::start().await;
    let (one, other) = (server.stream(1).await, server.stream(1).await);
    let described = server.client().describe_stream_summary().stream_name(&other).send().await.unwrap();
    let arn = described.stream_description_summary().unwrap().stream_arn().to_owned();
    let publisher = builder(server.client())
        .stream(Stream::name(&one))
        .route("elsewhere", Stream::arn(arn))
        .build()
        .unwrap();
    let sequence = KinesisOptions::new().sequence_number_for_ordering("1");
    let batch = [
        message("anything", None, "1"),
        message("elsewhere", None, "2"),
        Message::bytes("elsewhere", "3").options(&sequence).build().unwrap(),
    ];
    let outcomes = publisher.publish(&batch).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((server.records(&one).await.len(), server.records(&other).await.len()), (1, 2));
    assert_eq!((server.requests("PutRecords"), server.requests("PutRecord")), (2, 1));

    // This server describes streams by name only.
    let named = builder(server.client()).stream(Stream::name(&one)).build().unwrap();
    named.connect().await.unwrap();
    let lost = builder(server.client()).stream(Stream::name("nowhere")).build().unwrap();
    assert_eq!(lost.connect().await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_check_looks_at_every_stream_of_the_settings() {
    let server = Kinesis::start().await;
    let (one, other) = (server.stream(1).await, server.stream(1).await);
    let builder = || support::builder(server.client());
    let publisher = builder().stream(Stream::name(&one)).route("elsewhere", Stream::name(&other));
    let publisher = publisher.build().unwrap();
    // Whoever makes a stream looks at it, too.
    let before = server.requests("DescribeStreamSummary");
    publisher.check().await.unwrap();
    assert_eq!(server.requests("DescribeStreamSummary") - before, 2);
    let lost = builder().stream(Stream::name(&one)).route("lost", Stream::name("nowhere")).build().unwrap();
    let error = lost.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    assert!(error.report().contains("nowhere"), "{}", error.report());

    let anything = builder().build().unwrap();
    anything.check().await.unwrap();
    server.set(Fault::LookingDenied);
    let error = publisher.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{}", error.report());
    // Whoever may not list streams has been recognized.
    anything.check().await.unwrap();
    assert_eq!(server.requests("ListStreams"), 2);
    server.kill().await;
    for publisher in [publisher, anything] {
        // Refused, or cut where there was a connection.
        let error = publisher.check().await.unwrap_err();
        assert_eq!(error.scope(), Scope::Endpoint, "{}", error.report());
    }
}

#[tokio::test]
async fn what_was_confirmed_outlives_a_kill_of_the_server() {
    let server = Kinesis::start_durable().await;
    let stream = server.stream(2).await;
    let publisher = builder(server.client()).build().unwrap();
    let batch: Vec<Message> =
        (0..300).map(|number: usize| message(&stream, None, number.to_string())).collect();
    assert!(publisher.publish(&batch[..200]).await.iter().all(Result::is_ok));
    server.kill().await;
    let down = publisher.publish(&batch[200..]).await;
    assert!(down.iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.scope() == Scope::Endpoint)));
    server.restart().await;
    assert!(publisher.publish(&batch[200..]).await.iter().all(Result::is_ok));
    assert_eq!(server.records(&stream).await.len(), 300);
}
