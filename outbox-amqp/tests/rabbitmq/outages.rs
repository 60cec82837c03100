//! The network between us and a healthy broker fails.

use std::time::Duration;

use integration_tests::rabbitmq::Vhost;
use integration_tests::{Mode, Proxy, RabbitMq, Server, with_growing_limit};
use outbox_amqp::{AmqpPublisher, AmqpPublisherBuilder};
use outbox_core::{ErrorKind, Message, Outcome, Publisher, Scope, Verdict};
use tokio::time::Instant;

use crate::support::{
    SOON, all_confirmed, assert_error, builder, message, messages, publish_eventually, publish_one, vhost,
};

async fn through_proxy() -> Option<(Vhost, Proxy, AmqpPublisherBuilder)> {
    let vhost = vhost().await?;
    vhost.declare_queue("orders").await;
    let proxy = RabbitMq::shared().await?.proxy().await;
    let builder = builder(&vhost.uri_through(&proxy));
    Some((vhost, proxy, builder))
}

async fn ids(vhost: &Vhost, queue: &str) -> Vec<String> {
    let count = usize::try_from(vhost.queue_depth(queue).await).unwrap();
    let deliveries = vhost.consume(queue, count, SOON).await;
    deliveries.iter().map(|delivery| delivery.properties.message_id().as_ref().unwrap().to_string()).collect()
}

#[tokio::test]
async fn an_outage_fails_calls_soon_and_is_over_by_itself() {
    let Some((_vhost, proxy, builder)) = through_proxy().await else { return };
    let publisher = builder.build().unwrap();
    // Several times, because the end of a connection is noticed now here, now there.
    for round in 0..10 {
        // No second try: whoever asks after an outage is served.
        publish_one(&publisher, message("orders", "before")).await.unwrap();
        proxy.set(Mode::Refuse).await;
        for call in 0..3 {
            let started = Instant::now();
            let outcome = publish_one(&publisher, message("orders", "during")).await;
            if call == 0 {
                // The one that notices may have been sent.
                assert_eq!(outcome.as_ref().unwrap_err().scope(), Scope::Endpoint);
            } else {
                assert_error(&outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
            }
            let took = started.elapsed();
            // No timeout was waited for.
            assert!(took < SOON, "round {round}, call {call}: {took:?} for {outcome:?}");
        }
        proxy.set(Mode::Pass).await;
    }
}

#[tokio::test]
async fn answers_that_are_lost_make_unknown_outcomes_never_wrong_ones() {
    let Some((vhost, proxy, builder)) = through_proxy().await else { return };
    let publisher = builder.build().unwrap();
    for bytes in [0, 1, 21, 50, 200, 1_000] {
        publish_eventually(&publisher, &message("orders", "opens a connection and a channel")).await;
        vhost.purge_queue("orders").await;
        let batch = messages("orders", 300);
        proxy.set(Mode::CutAnswersAfter(bytes)).await;
        let outcomes = publisher.publish(&batch).await;
        proxy.set(Mode::Pass).await;

        let arrived = ids(&vhost, "orders").await;
        for (message, outcome) in batch.iter().zip(&outcomes) {
            match outcome {
                Ok(()) => assert!(arrived.contains(&message.id().to_string()), "confirmed, but not there"),
                Err(error) => {
                    assert_eq!(error.scope(), Scope::Endpoint, "{}", error.report());
                    let unknown = error.verdict() == Verdict::Unknown;
                    assert!(unknown || !arrived.contains(&message.id().to_string()), "{}", error.report());
                }
            }
        }
        // A confirm takes 21 bytes, and may confirm all of them.
        assert!(bytes >= 21 || outcomes.iter().all(Outcome::is_err), "confirmed without an answer");
    }
}

#[tokio::test]
async fn requests_that_are_cut_off_make_no_false_confirm() {
    let Some((vhost, proxy, builder)) = through_proxy().await else { return };
    let publisher = builder.build().unwrap();
    for bytes in [0, 10, 500, 20_000] {
        publish_eventually(&publisher, &message("orders", "opens a connection and a channel")).await;
        vhost.purge_queue("orders").await;
        let batch: Vec<Message> = (0..100).map(|_| message("orders", vec![0; 1_000])).collect();
        proxy.set(Mode::CutRequestsAfter(bytes)).await;
        let outcomes = publisher.publish(&batch).await;
        proxy.set(Mode::Pass).await;
        let arrived = ids(&vhost, "orders").await;
        for (message, outcome) in batch.iter().zip(&outcomes) {
            assert!(
                outcome.is_err() || arrived.contains(&message.id().to_string()),
                "confirmed, but not there"
            );
        }
        assert!(outcomes.last().unwrap().is_err());
    }
}

#[tokio::test]
async fn without_an_answer_the_deadline_ends_the_call() {
    let Some((vhost, proxy, _)) = through_proxy().await else { return };
    with_growing_limit(async |limit| {
        let builder = builder(&vhost.uri_through(&proxy)).confirm_timeout(limit).connect_timeout(limit);
        let publisher = builder.build().unwrap();
        publish_eventually(&publisher, &message("orders", "before")).await;

        proxy.set(Mode::Blackhole).await;
        let started = Instant::now();
        let outcomes = publisher.publish(&messages("orders", 50)).await;
        let took = started.elapsed();
        // The connection was given up, so this one has to dial, which nobody answers either.
        let outcome = publish_one(&publisher, message("orders", "x")).await;
        proxy.set(Mode::Pass).await;
        // What a slow machine has not sent within the limit is another error.
        for outcome in &outcomes {
            outcome_is(outcome, ErrorKind::Timeout, Verdict::Unknown)?;
        }
        assert!(took >= limit, "{took:?}");
        assert_error(&outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
        publish_eventually(&publisher, &message("orders", "after")).await;
        if took < limit * 2 { Ok(()) } else { Err(format!("the call took {took:?}")) }
    })
    .await;
}

fn outcome_is(outcome: &Outcome, kind: ErrorKind, verdict: Verdict) -> Result<(), String> {
    let error = outcome.as_ref().expect_err("the message must fail");
    assert_eq!(error.scope(), Scope::Endpoint, "{}", error.report());
    if (error.kind(), error.verdict()) == (kind, verdict) { Ok(()) } else { Err(error.report()) }
}

/// More than the buffers on the way can take: the rest waits in us.
#[tokio::test]
async fn when_nobody_reads_what_was_not_begun_is_known_not_to_have_been_sent() {
    let Some((vhost, proxy, _)) = through_proxy().await else { return };
    with_growing_limit(async |limit| {
        let publisher = builder(&vhost.uri_through(&proxy)).confirm_timeout(limit).build().unwrap();
        publish_eventually(&publisher, &message("orders", "before")).await;
        vhost.purge_queue("orders").await;

        proxy.set(Mode::Blackhole).await;
        let batch: Vec<Message> = (0..60).map(|_| message("orders", vec![0; 1 << 20])).collect();
        let outcomes = publisher.publish(&batch).await;
        proxy.set(Mode::Pass).await;
        let unknown =
            outcomes.iter().take_while(|outcome| outcome.as_ref().unwrap_err().verdict() == Verdict::Unknown);
        let unknown = unknown.count();
        assert!(unknown < 60, "more than the buffers can take was begun");
        for outcome in &outcomes[unknown..] {
            assert_error(outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
        }
        publish_eventually(&publisher, &message("orders", "after")).await;
        let arrived = ids(&vhost, "orders").await;
        for (index, message) in batch.iter().enumerate() {
            assert!(
                index < unknown || !arrived.contains(&message.id().to_string()),
                "message {index} arrived"
            );
        }
        if unknown > 0 { Ok(()) } else { Err("no message was begun".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_sends_nothing_afterwards_and_leaves_no_trace() {
    let Some((vhost, proxy, builder)) = through_proxy().await else { return };
    let publisher = builder.build().unwrap();
    publish_one(&publisher, message("orders", "before")).await.unwrap();
    vhost.purge_queue("orders").await;

    // Stopped while it writes. The buffers on the way take a part of it, and the rest must never follow.
    proxy.set(Mode::Blackhole).await;
    let large = [message("orders", vec![0; 16 << 20])];
    let answer = dropped_after(&publisher, &large, Duration::from_millis(500)).await;
    assert!(answer.is_none(), "16 MiB must not fit into the buffers");
    proxy.set(Mode::Pass).await;
    let after = message("orders", "after");
    publish_one(&publisher, after.clone()).await.unwrap();
    assert_eq!(ids(&vhost, "orders").await, [after.id().to_string()]);

    // Stopped while it waits for confirms: the answers come later, and must be nobody else's.
    for _ in 0..5 {
        proxy.set(Mode::Delay(Duration::from_millis(50))).await;
        dropped_after(&publisher, &messages("nowhere", 100), Duration::from_millis(30)).await;
        proxy.set(Mode::Pass).await;
        all_confirmed(&publisher.publish(&messages("orders", 100)).await);
    }
}

/// Gives the answers only if they came within the time.
async fn dropped_after(
    publisher: &AmqpPublisher,
    batch: &[Message],
    after: Duration,
) -> Option<Vec<Outcome>> {
    tokio::time::timeout(after, publisher.publish(batch)).await.ok()
}
