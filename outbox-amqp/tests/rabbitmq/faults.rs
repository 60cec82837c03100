//! The broker itself fails.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{RabbitMq, Server, eventually, with_growing_limit};
use outbox_amqp::Queue;
use outbox_core::{ErrorKind, Message, Publisher, Scope, Verdict};
use tokio::time::Instant;

use crate::support::{
    SOON, all_confirmed, assert_error, builder, message, messages, publish_eventually, publish_one,
};

async fn arrived(vhost: &Vhost) -> Vec<String> {
    let count = usize::try_from(vhost.queue_depth("orders").await).unwrap();
    let deliveries = vhost.consume("orders", count, SOON).await;
    deliveries.iter().map(|delivery| delivery.properties.message_id().as_ref().unwrap().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_in_the_middle_has_what_it_confirmed() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let vhost = rabbitmq.vhost().await;
    let publisher = builder(vhost.uri()).declare_queue(Queue::classic("orders")).build().unwrap();
    publisher.connect().await.unwrap();
    rabbitmq.sync_declarations().await;
    let publisher = Arc::new(publisher);

    // Several calls go on until the broker is gone.
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let publisher = Arc::clone(&publisher);
            tokio::spawn(async move {
                let mut confirmed: Vec<String> = Vec::new();
                loop {
                    let batch = messages("orders", 200);
                    let outcomes = publisher.publish(&batch).await;
                    let failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
                    let mut failed = false;
                    for error in failures {
                        failed = true;
                        assert_eq!(error.scope(), Scope::Endpoint, "{}", error.report());
                        assert_ne!(error.verdict(), Verdict::Permanent, "{}", error.report());
                    }
                    let ok = batch.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
                    confirmed.extend(ok.map(|(message, _)| message.id().to_string()));
                    if failed {
                        return confirmed;
                    }
                }
            })
        })
        .collect();
    let vhost = &vhost;
    eventually(
        "some messages",
        SOON,
        || async move { (vhost.queue_depth("orders").await > 2_000).then_some(()) },
    )
    .await;
    rabbitmq.kill().await;
    let confirmed: Vec<String> =
        join_all(callers).await.into_iter().flat_map(|caller| caller.unwrap()).collect();
    assert!(confirmed.len() > 1_000, "{} confirmed", confirmed.len());

    let outcome = publish_one(&publisher, message("orders", "x")).await;
    assert_error(&outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);

    rabbitmq.restart().await;
    publish_one(&publisher, message("orders", "after")).await.unwrap();
    let arrived: std::collections::HashSet<String> = arrived(vhost).await.into_iter().collect();
    let lost = confirmed.iter().filter(|id| !arrived.contains(*id)).count();
    assert_eq!(lost, 0, "{lost} of {} confirmed messages are gone", confirmed.len());
}

#[tokio::test]
async fn a_broker_that_stops_answering_is_given_up_at_the_deadline() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("orders").await;
    let (rabbitmq, vhost) = (&rabbitmq, &vhost);
    with_growing_limit(async |limit| {
        let publisher = builder(vhost.uri()).confirm_timeout(limit).connect_timeout(limit).build().unwrap();
        publish_eventually(&publisher, &message("orders", "before")).await;

        rabbitmq.stop().await;
        let started = Instant::now();
        let outcomes = publisher.publish(&messages("orders", 20)).await;
        let took = started.elapsed();
        // The system still takes connections for it.
        let outcome = publish_one(&publisher, message("orders", "x")).await;
        rabbitmq.cont().await;
        for outcome in &outcomes {
            let error = outcome.as_ref().expect_err("the message must fail");
            assert_eq!(error.scope(), Scope::Endpoint, "{}", error.report());
            // What a slow machine has not sent within the limit is another error.
            if (error.kind(), error.verdict()) != (ErrorKind::Timeout, Verdict::Unknown) {
                return Err(error.report());
            }
        }
        assert_error(&outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
        publish_eventually(&publisher, &message("orders", "after")).await;
        if took < limit * 2 { Ok(()) } else { Err(format!("the call took {took:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_memory_alarm_calls_fail_at_once_and_work_again_when_it_is_over() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("orders").await;
    let limit = Duration::from_secs(3);
    let publisher = builder(vhost.uri()).confirm_timeout(limit).build().unwrap();
    let dropped = builder(vhost.uri()).build().unwrap();
    publish_eventually(&publisher, &message("orders", "before")).await;
    publish_one(&dropped, message("orders", "before")).await.unwrap();

    rabbitmq.set_memory_alarm(true).await;
    // The first call hits the alarm in the middle: its messages were handed over, or they were not.
    let batch: Vec<Message> = (0..100).map(|_| message("orders", vec![0; 100_000])).collect();
    for outcome in publisher.publish(&batch).await {
        if let Err(error) = &outcome {
            // Unavailable where a slow machine has not sent the message within the limit.
            let kinds = [ErrorKind::Timeout, ErrorKind::Throttled, ErrorKind::Unavailable];
            assert!(kinds.contains(&error.kind()), "{}", error.report());
            assert_eq!(error.scope(), Scope::Endpoint);
        }
    }
    // A call dropped under the alarm. Nothing of it that was not on its way may come through afterwards.
    let late: Vec<Message> = (0..100).map(|_| message("orders", vec![0; 1 << 20])).collect();
    let _ = tokio::time::timeout(Duration::from_secs(1), dropped.publish(&late)).await;

    // A new connection is blocked by its first message, and from then on everybody is told so at once.
    eventually("the broker to block the new connection", SOON, || async {
        let outcome = publish_one(&publisher, message("orders", "x")).await;
        matches!(&outcome, Err(error) if error.kind() == ErrorKind::Throttled).then_some(())
    })
    .await;
    for outcome in publisher.publish(&messages("orders", 100)).await {
        // Not a timeout, so nothing was waited for.
        let error = assert_error(&outcome, ErrorKind::Throttled, Verdict::Retry, Scope::Endpoint);
        assert!(error.to_string().contains("alarm: low on memory"), "{error}");
    }

    rabbitmq.set_memory_alarm(false).await;
    let after = message("orders", "after");
    publish_eventually(&publisher, &after).await;
    publish_eventually(&dropped, &message("orders", "opens a connection")).await;
    all_confirmed(&dropped.publish(&messages("orders", 100)).await);
    publish_eventually(&dropped, &message("orders", "after")).await;
    let arrived = arrived(&vhost).await;
    assert!(arrived.contains(&after.id().to_string()));
    assert!(!arrived.contains(&late[99].id().to_string()), "sent after its call was dropped");
}
