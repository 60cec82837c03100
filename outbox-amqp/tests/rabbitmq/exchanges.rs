//! Exchanges that messages ask for.

use outbox_amqp::AmqpOptions;
use outbox_core::{ErrorKind, Message, Publisher, Scope, Verdict};

use integration_tests::rabbitmq::Vhost;
use integration_tests::{RabbitMq, Server};

use crate::support::{
    all_confirmed, assert_error, builder, message, message_with, messages, publish_one, publisher, vhost,
};

/// The broker's description of an exchange.
async fn describe(vhost: &Vhost, exchange: &str) -> serde_json::Value {
    let rabbitmq = RabbitMq::shared().await.unwrap();
    let answer =
        rabbitmq.management("GET", &format!("/api/exchanges/{}/{exchange}", vhost.name()), None).await;
    serde_json::from_str(&answer).unwrap()
}

async fn delete(vhost: &Vhost, exchange: &str) {
    let channel = vhost.channel().await;
    channel.exchange_delete(exchange.into(), Default::default()).await.unwrap();
}

#[tokio::test]
async fn a_missing_exchange_fails_its_own_messages_only() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = publisher(&vhost);
    let lost = || message_with("x", &AmqpOptions::new().exchange("missing"));

    for _ in 0..3 {
        let batch = [message("orders", "a"), lost(), message("orders", "b"), lost()];
        let outcomes = publisher.publish(&batch).await;
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
        for outcome in [&outcomes[1], &outcomes[3]] {
            let error = assert_error(outcome, ErrorKind::NotFound, Verdict::Retry, Scope::Message);
            assert!(error.report().contains("missing"), "{}", error.report());
        }
    }

    let channel = vhost.channel().await;
    let durable = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
    let fanout = lapin::ExchangeKind::Fanout;
    channel.exchange_declare("missing".into(), fanout, durable, Default::default()).await.unwrap();
    vhost.bind_queue("orders", "missing", "").await;
    all_confirmed(&publisher.publish(&[lost(), message("orders", "c")]).await);
}

#[tokio::test]
async fn options_declare_the_exchange_as_they_say() {
    let Some(vhost) = vhost().await else { return };
    let publisher = publisher(&vhost);
    let plain = AmqpOptions::new().exchange("plain").exchange_type("topic");
    let odd = AmqpOptions::new()
        .exchange("odd")
        .exchange_type("fanout")
        .exchange_durable(false)
        .exchange_auto_delete(true)
        .exchange_internal(false)
        .exchange_no_wait(true)
        .routing_key("k");
    let outcomes = publisher
        .publish(&[message_with("t", &plain), message_with("t", &odd), message_with("t", &odd)])
        .await;
    for outcome in &outcomes {
        // Nothing is bound yet.
        assert_error(outcome, ErrorKind::Unroutable, Verdict::Retry, Scope::Message);
    }
    for (name, kind, durable, auto_delete) in
        [("plain", "topic", true, false), ("odd", "fanout", false, true)]
    {
        let exchange = describe(&vhost, name).await;
        assert_eq!(exchange["type"], kind);
        assert_eq!(exchange["durable"], durable);
        assert_eq!(exchange["auto_delete"], auto_delete);
        assert_eq!(exchange["internal"], false);
    }

    vhost.declare_queue("orders").await;
    vhost.bind_queue("orders", "plain", "#").await;
    all_confirmed(&publisher.publish(&[message_with("t", &plain)]).await);
}

#[tokio::test]
async fn a_conflicting_declaration_fails_its_own_messages_only() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = publisher(&vhost);
    let conflict = |no_wait| {
        let options =
            AmqpOptions::new().exchange("amq.topic").exchange_type("fanout").exchange_no_wait(no_wait);
        message_with("t", &options)
    };
    let own = |kind: &str| message_with("t", &AmqpOptions::new().exchange("own").exchange_type(kind));
    publish_one(&publisher, own("topic")).await.unwrap_err();

    for _ in 0..2 {
        let batch =
            [conflict(false), message("orders", "a"), conflict(true), own("direct"), message("orders", "b")];
        let outcomes = publisher.publish(&batch).await;
        assert!(outcomes[1].is_ok() && outcomes[4].is_ok(), "{outcomes:?}");
        for index in [0, 2, 3] {
            let error = assert_error(&outcomes[index], ErrorKind::Rejected, Verdict::Retry, Scope::Message);
            assert!(error.report().contains("inequivalent arg 'type'"), "{}", error.report());
        }
    }
}

/// RabbitMQ 3 closes the whole connection over such a type, RabbitMQ 4 the channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_type_of_exchange_does_not_end_the_connection() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = publisher(&vhost);
    let bad = || message_with("t", &AmqpOptions::new().exchange("e").exchange_type("x-no-such-type"));

    let others = async {
        for _ in 0..10 {
            all_confirmed(&publisher.publish(&messages("orders", 100)).await);
        }
    };
    let bad_ones = async {
        for _ in 0..3 {
            let outcomes = publisher.publish(&[message("orders", "a"), bad(), message("orders", "b")]).await;
            assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
            let error = assert_error(&outcomes[1], ErrorKind::Malformed, Verdict::Permanent, Scope::Message);
            assert!(error.report().contains("x-no-such-type"), "{}", error.report());
        }
    };
    tokio::join!(others, bad_ones);
}

#[tokio::test]
async fn an_exchange_that_was_deleted_is_declared_again_by_the_next_message() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = publisher(&vhost);
    let declared = || message_with("t", &AmqpOptions::new().exchange("e").exchange_type("fanout"));
    publish_one(&publisher, declared()).await.unwrap_err();
    vhost.bind_queue("orders", "e", "").await;
    publish_one(&publisher, declared()).await.unwrap();

    delete(&vhost, "e").await;
    // It is declared once per connection, not per message. So this one finds out, and the next one declares it.
    let outcome = publish_one(&publisher, declared()).await;
    assert_error(&outcome, ErrorKind::NotFound, Verdict::Retry, Scope::Message);
    let outcome = publish_one(&publisher, declared()).await;
    assert_error(&outcome, ErrorKind::Unroutable, Verdict::Retry, Scope::Message);
    assert_eq!(describe(&vhost, "e").await["type"], "fanout");
}

#[tokio::test]
async fn an_exchange_deleted_in_between_fails_its_own_messages_only() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = publisher(&vhost);
    let doomed = || message_with("t", &AmqpOptions::new().exchange("doomed"));
    let channel = vhost.channel().await;
    let declared = channel.exchange_declare(
        "doomed".into(),
        lapin::ExchangeKind::Fanout,
        Default::default(),
        Default::default(),
    );
    declared.await.unwrap();
    vhost.bind_queue("orders", "doomed", "").await;
    publish_one(&publisher, doomed()).await.unwrap();
    delete(&vhost, "doomed").await;
    vhost.purge_queue("orders").await;

    let batch: Vec<Message> =
        (0..200).map(|n| if n == 50 || n == 150 { doomed() } else { message("orders", "x") }).collect();
    let outcomes = publisher.publish(&batch).await;
    for (index, outcome) in outcomes.iter().enumerate() {
        if index == 50 || index == 150 {
            assert_error(outcome, ErrorKind::NotFound, Verdict::Retry, Scope::Message);
        } else {
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }
    let depth = vhost.queue_depth("orders").await;
    assert!((198..=396).contains(&depth), "{depth} messages of 198");
}

/// A channel number that the broker has closed once is dead in the client library for the rest of the connection.
#[tokio::test]
async fn closed_channels_do_not_use_up_the_connection() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = builder(&format!("{}?channel_max=16", vhost.uri())).build().unwrap();
    for round in 0..50 {
        let lost = message_with("x", &AmqpOptions::new().exchange("missing"));
        let outcomes = publisher.publish(&[lost, message("orders", "a")]).await;
        assert_error(&outcomes[0], ErrorKind::NotFound, Verdict::Retry, Scope::Message);
        assert!(outcomes[1].is_ok(), "round {round}: {:?}", outcomes[1]);
    }
}
