//! One queue is stuck, as a quorum queue without its majority, while the broker is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration_tests::rabbitmq::Vhost;
use integration_tests::{Mode, RabbitMq, Server};
use lapin::{Connection, ConnectionProperties};
use outbox_amqp::{AmqpPublisher, Binding, Exchange, Queue};
use outbox_core::{ErrorKind, Publisher, Scope, Verdict};
use tokio::time::Instant;

use crate::support::{
    SOON, all_confirmed, assert_error, builder, message, messages, publish_eventually, publish_one, vhost,
};

/// Suspends the process that replicates a quorum queue, or lets it go on. Its messages are not confirmed and questions
/// about it not answered, as when its leader has vanished; everything else works.
async fn suspend(rabbitmq: &RabbitMq, vhost: &Vhost, queue: &str, suspended: bool) {
    let action = if suspended { "suspend" } else { "resume" };
    let command = format!("sys:{action}(whereis(list_to_atom(\"{}_{queue}\"))).", vhost.name());
    assert_eq!(rabbitmq.ctl(&["eval", &command]).await.trim(), "ok");
}

/// A message without a confirm says nothing about the others, nor about the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_confirms_nothing_costs_no_connection() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let vhost = rabbitmq.vhost().await;
    let dials = Arc::new(AtomicUsize::new(0));
    let connector = {
        let (uri, dials) = (vhost.uri().to_owned(), Arc::clone(&dials));
        move |properties: ConnectionProperties| {
            dials.fetch_add(1, Ordering::Relaxed);
            let uri = uri.clone();
            async move { Connection::connect(&uri, properties).await }
        }
    };
    let publisher = AmqpPublisher::with_connector(connector)
        .connect_timeout(SOON)
        .confirm_timeout(Duration::from_secs(4))
        .declare_queue(Queue::quorum("stuck"))
        .declare_queue(Queue::classic("free"))
        .build()
        .unwrap();
    all_confirmed(&publisher.publish(&[message("stuck", "before"), message("free", "before")]).await);
    suspend(&rabbitmq, &vhost, "stuck", true).await;

    let stuck = message("stuck", "waits");
    // A returned message sits on whichever confirm comes next, and must be told apart here as well.
    let batch = [message("free", "a"), stuck.clone(), message("nowhere", "b"), message("free", "c")];
    let (slow, quick) = tokio::join!(publisher.publish(&batch), async {
        for _ in 0..10 {
            all_confirmed(&publisher.publish(&messages("free", 20)).await);
        }
    });
    let () = quick;
    assert_error(&slow[1], ErrorKind::Timeout, Verdict::Unknown, Scope::Endpoint);
    assert!(!matches!(&slow[2], Ok(())), "an unroutable message counts as delivered");
    for place in [0, 3] {
        // One of the two confirms may be the one that the returned message came with.
        assert!(slow[place].is_ok() || slow[place].as_ref().unwrap_err().kind() == ErrorKind::Interrupted);
    }
    all_confirmed(&publisher.publish(&messages("free", 20)).await);
    assert_eq!(dials.load(Ordering::Relaxed), 1, "the connection was given up");

    suspend(&rabbitmq, &vhost, "stuck", false).await;
    publish_eventually(&publisher, &stuck).await;
    assert_eq!(dials.load(Ordering::Relaxed), 1, "the connection was given up");
}

/// To declare a queue asks its leader. A publisher that declared again with each connection would get none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_does_not_wait_for_a_queue_that_is_stuck() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let vhost = rabbitmq.vhost().await;
    let proxy = rabbitmq.proxy().await;
    let limit = Duration::from_secs(8);
    let publisher = AmqpPublisher::builder(&vhost.uri_through(&proxy))
        .connect_timeout(limit)
        .confirm_timeout(limit)
        .declare_queue(Queue::quorum("stuck"))
        .declare_queue(Queue::classic("free"))
        .build()
        .unwrap();
    all_confirmed(&publisher.publish(&[message("stuck", "before"), message("free", "before")]).await);
    suspend(&rabbitmq, &vhost, "stuck", true).await;
    proxy.set(Mode::Reset).await;
    publish_one(&publisher, message("free", "ends with the connection")).await.unwrap_err();
    proxy.set(Mode::Pass).await;

    let started = Instant::now();
    publish_eventually(&publisher, &message("free", "after")).await;
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
    suspend(&rabbitmq, &vhost, "stuck", false).await;
}

#[tokio::test]
async fn a_topology_that_a_message_misses_is_declared_again() {
    let Some(vhost) = vhost().await else { return };
    let publisher = builder(vhost.uri())
        .exchange("events")
        .declare_exchange(Exchange::new("events", "topic"))
        .declare_queue(Queue::classic("orders"))
        .declare_queue(Queue::classic("spare"))
        .bind_queue(Binding::new("events", "orders", "order.*"))
        .build()
        .unwrap();
    publish_one(&publisher, message("order.placed", "1")).await.unwrap();

    // Nothing misses this one, so nothing declares it, not even a new connection.
    let channel = vhost.channel().await;
    channel.queue_delete("spare".into(), Default::default()).await.unwrap();
    publisher.close().await;
    publish_one(&publisher, message("order.placed", "2")).await.unwrap();
    let look = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    let spare = channel.queue_declare("spare".into(), look, Default::default()).await;
    assert!(spare.is_err(), "declared again although nothing missed it");

    // A message that nobody takes: its queue is made again, and it is delivered in the same call.
    let channel = vhost.channel().await;
    channel.queue_delete("orders".into(), Default::default()).await.unwrap();
    let batch = [message("order.placed", "3"), message("nowhere", "x"), message("order.paid", "4")];
    let outcomes = publisher.publish(&batch).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_error(&outcomes[1], ErrorKind::Unroutable, Verdict::Retry, Scope::Message);
    let arrived = vhost.consume("orders", 2, SOON).await;
    assert_eq!(arrived.iter().map(|delivery| &delivery.data[..]).collect::<Vec<_>>(), [b"3", b"4"]);
}

#[tokio::test]
async fn a_declared_exchange_that_was_deleted_is_declared_again() {
    let Some(vhost) = vhost().await else { return };
    for reconnect in [false, true] {
        let publisher = builder(vhost.uri())
            .exchange("events")
            .declare_exchange(Exchange::new("events", "fanout"))
            .declare_queue(Queue::classic("orders"))
            .bind_queue(Binding::new("events", "orders", ""))
            .build()
            .unwrap();
        publish_one(&publisher, message("t", "1")).await.unwrap();
        let channel = vhost.channel().await;
        channel.exchange_delete("events".into(), Default::default()).await.unwrap();
        if reconnect {
            publisher.close().await;
        }
        all_confirmed(&publisher.publish(&messages("t", 20)).await);
    }
}
