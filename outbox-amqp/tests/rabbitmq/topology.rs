//! What is declared when a connection is made.

use outbox_amqp::{AmqpOptions, Binding, Exchange, Queue, Route};
use outbox_core::{ErrorKind, Publisher, Scope, Verdict};

use integration_tests::{RabbitMq, Server};

use crate::support::{SOON, all_confirmed, assert_error, builder, message, message_with, publish_one, vhost};

#[tokio::test]
async fn exchanges_queues_and_bindings_are_there_before_the_first_message() {
    let Some(vhost) = vhost().await else { return };
    let declared = || {
        builder(vhost.uri())
            .exchange("events")
            .declare_exchange(Exchange::new("events", "topic").argument("alternate-exchange", "unheard"))
            .declare_exchange(Exchange::new("unheard", "fanout").internal(true))
            .declare_exchange(Exchange::new("fleeting", "direct").durable(false).auto_delete(true))
            .declare_queue(Queue::quorum("orders"))
            .declare_queue(
                Queue::classic("limited").argument("x-max-length", 10).argument("x-overflow", "drop-head"),
            )
            .declare_queue(Queue::classic("single").durable(false).argument("x-single-active-consumer", true))
            .bind_queue(Binding::new("events", "orders", "order.*"))
            .bind_queue(Binding::new("unheard", "limited", ""))
            .bind_queue(Binding::new("amq.headers", "single", "").argument("x-match", "all").argument("n", 1))
            .build()
            .unwrap()
    };
    let publisher = declared();
    all_confirmed(&publisher.publish(&[message("order.placed", "1"), message("invoice.sent", "2")]).await);
    assert_eq!(vhost.consume("orders", 1, SOON).await[0].data, b"1");
    // The alternate exchange took what no binding wanted, so it counts as routed.
    assert_eq!(vhost.consume("limited", 1, SOON).await[0].data, b"2");

    let rabbitmq = RabbitMq::shared().await.unwrap();
    let path = format!("/api/queues/{}/orders", vhost.name());
    let queue: serde_json::Value =
        serde_json::from_str(&rabbitmq.management("GET", &path, None).await).unwrap();
    assert_eq!((&queue["type"], &queue["durable"]), (&"quorum".into(), &true.into()), "{queue}");

    // A second publisher, and a second connection of the first, find everything as they want it.
    publisher.close().await;
    all_confirmed(&publisher.publish(&[message("order.placed", "3")]).await);
    declared().connect().await.unwrap();
}

#[tokio::test]
async fn what_the_settings_lead_to_is_looked_for_before_there_is_a_message() {
    let Some(vhost) = vhost().await else { return };
    let rabbitmq = RabbitMq::shared().await.unwrap();
    vhost.declare_queue("orders").await;
    let routed = |uri: &str, exchange: &str, key: &str| {
        builder(uri).route("order.placed", Route::new(exchange, key)).build().unwrap()
    };
    builder(vhost.uri()).build().unwrap().check().await.unwrap();
    routed(vhost.uri(), "", "orders").check().await.unwrap();
    routed(vhost.uri(), "amq.topic", "x").check().await.unwrap();
    assert_eq!(vhost.queue_depth("orders").await, 0, "nothing is sent");
    for (publisher, named) in [
        (routed(vhost.uri(), "nowhere", "x"), "exchange: nowhere"),
        (routed(vhost.uri(), "", "no-queue"), "queue: no-queue"),
        (builder(vhost.uri()).exchange("nowhere").build().unwrap(), "exchange: nowhere"),
    ] {
        let error = publisher.check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
        assert!(error.report().contains(named), "{named} is not in {}", error.report());
        // The connection lives on, and so do others' calls on it.
        all_confirmed(&publisher.publish(&[message_to("", "orders")]).await);
    }

    // A user who may publish to one exchange only.
    let user = vhost.name();
    rabbitmq
        .management("PUT", &format!("/api/users/{user}"), Some(r#"{"password":"s3cret","tags":""}"#))
        .await;
    let rights = r#"{"configure":"^$","write":"^(amq\\.topic|amq\\.default)$","read":"^$"}"#;
    rabbitmq.management("PUT", &format!("/api/permissions/{user}/{user}"), Some(rights)).await;
    let uri = format!("amqp://{user}:s3cret@{}/{user}", rabbitmq.address());
    routed(&uri, "amq.topic", "x").check().await.unwrap();
    let error = routed(&uri, "amq.direct", "x").check().await.unwrap_err();
    rabbitmq.management("DELETE", &format!("/api/users/{user}"), None).await;
    assert_eq!(error.kind(), ErrorKind::Permission, "{}", error.report());
    assert!(error.report().contains("exchange: amq.direct"), "{}", error.report());
}

/// A message that its own options route.
fn message_to(exchange: &str, routing_key: &str) -> outbox_core::Message {
    message_with("t", &AmqpOptions::new().exchange(exchange).routing_key(routing_key))
}

#[tokio::test]
async fn a_conflict_is_told_clearly_and_blames_no_message() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = builder(vhost.uri()).declare_queue(Queue::quorum("orders")).build().unwrap();
    let outcome = publish_one(&publisher, message("orders", "1")).await;
    let error = assert_error(&outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
    let report = error.report();
    for part in ["topology", "queue: orders", "inequivalent arg"] {
        assert!(report.contains(part), "{report}");
    }
    assert_eq!(publisher.connect().await.unwrap_err().kind(), ErrorKind::Unavailable);
}
