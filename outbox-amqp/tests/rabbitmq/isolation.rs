//! Messages over which the broker closes the channel must not fail others for ever.

use std::collections::HashMap;

use outbox_amqp::AmqpOptions;
use outbox_core::{ErrorKind, Message, Outcome, Publisher, Scope, Verdict};

use integration_tests::rabbitmq::Vhost;
use integration_tests::{RabbitMq, Server};

use crate::support::{
    SOON, all_confirmed, assert_error, builder, message, message_with, messages, publish_one, vhost,
};

/// Publishes the batch in one call. All innocent messages must be confirmed, and none be in the queue more than twice.
/// Gives the outcomes of the guilty ones.
async fn judged(
    vhost: &Vhost,
    publisher: &impl Publisher,
    batch: &[Message],
    guilty: impl Fn(&Message) -> bool,
) -> Vec<Outcome> {
    vhost.purge_queue("orders").await;
    let outcomes = publisher.publish(batch).await;
    let copies = copies(vhost).await;
    let mut convicted = Vec::new();
    for (message, outcome) in batch.iter().zip(outcomes) {
        let copies = copies.get(&message.id().to_string()).copied().unwrap_or_default();
        if guilty(message) {
            assert!(outcome.is_err() && copies == 0, "{copies} copies, {outcome:?}");
            convicted.push(outcome);
        } else {
            assert!(outcome.is_ok(), "{}", outcome.unwrap_err().report());
            assert!((1..=2).contains(&copies), "{copies} copies of a confirmed message");
        }
    }
    convicted
}

/// The messages in the queue, by their ids.
async fn copies(vhost: &Vhost) -> HashMap<String, usize> {
    let count = usize::try_from(vhost.queue_depth("orders").await).unwrap();
    let mut copies = HashMap::new();
    for delivery in vhost.consume("orders", count, SOON).await {
        *copies.entry(delivery.properties.message_id().as_ref().unwrap().to_string()).or_default() += 1;
    }
    copies
}

/// What would close a channel, and is known to.
#[tokio::test]
async fn messages_known_to_close_a_channel_are_refused_before_they_are_sent() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = builder(vhost.uri()).build().unwrap();
    let header = |name: &str| Message::bytes("orders", "x").header(name, "orders").build().unwrap();
    let hostile = [
        header("CC"),
        header("BCC"),
        message_with("orders", &AmqpOptions::new().reply_to("amq.rabbitmq.reply-to")),
        message_with("orders", &AmqpOptions::new().exchange("amq.to\npic")),
        message_with("orders", &AmqpOptions::new().exchange("amq.to\rpic")),
    ];
    let mut batch = messages("orders", 100);
    for (place, message) in (0..).step_by(20).zip(hostile) {
        batch.insert(place, message);
    }
    let outcomes = publisher.publish(&batch).await;
    let (refused, confirmed): (Vec<_>, Vec<_>) =
        batch.iter().zip(&outcomes).partition(|(message, _)| message.payload()[..] == b"x"[..]);
    assert_eq!((refused.len(), confirmed.len()), (5, 100));
    for (message, outcome) in refused {
        let error = assert_error(outcome, ErrorKind::Malformed, Verdict::Permanent, Scope::Message);
        println!("{message:?}: {error}");
    }
    for (_, outcome) in confirmed {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(vhost.queue_depth("orders").await, 100, "messages were sent twice");

    // Names that only look alike.
    let harmless = [
        header("cc"),
        header("Bcc"),
        message_with("orders", &AmqpOptions::new().reply_to("amq.rabbitmq.reply-to.x")),
    ];
    all_confirmed(&publisher.publish(&harmless).await);
}

/// The broker fails over such a routing key, and closes the whole connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_closes_the_connection_is_found_and_the_others_pass() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = builder(vhost.uri()).build().unwrap();
    let broken = || message("amq.rabbitmq.reply-to.g1h2AAAAAAAA.x==", "x");
    let guilty = |message: &Message| message.topic() != "orders";
    let mut batch = messages("orders", 60);
    batch.insert(20, broken());
    let outcomes = judged(&vhost, &publisher, &batch, guilty).await;
    assert_error(&outcomes[0], ErrorKind::Interrupted, Verdict::Unknown, Scope::Message);

    // Known by now, it disturbs others no more.
    let others = async {
        for _ in 0..5 {
            all_confirmed(&publisher.publish(&messages("orders", 50)).await);
        }
    };
    let again = async {
        let outcomes = publisher.publish(&[message("orders", "a"), batch[20].clone()]).await;
        assert!(outcomes[0].is_ok(), "{outcomes:?}");
    };
    again.await;
    others.await;
}

#[tokio::test]
async fn a_message_too_large_for_the_broker_is_found_and_the_others_pass() {
    let Some(rabbitmq) = RabbitMq::start_with("max_message_size = 10000").await else { return };
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("orders").await;
    let publisher = builder(vhost.uri()).build().unwrap();

    let guilty = |message: &Message| message.payload().len() > 10_000;
    let mut batch = messages("orders", 300);
    batch.insert(120, message("orders", vec![0; 20_000]));
    batch.insert(200, message("orders", vec![0; 30_000]));
    let outcomes = judged(&vhost, &publisher, &batch, guilty).await;
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        let error = assert_error(&outcome, ErrorKind::TooLarge, Verdict::Permanent, Scope::Message);
        assert!(error.report().contains("larger than configured max size 10000"), "{}", error.report());
    }
    all_confirmed(&publisher.publish(&messages("orders", 100)).await);
}

#[tokio::test]
async fn an_exchange_without_write_permission_fails_its_own_messages_only() {
    let Some(vhost) = vhost().await else { return };
    let rabbitmq = RabbitMq::shared().await.unwrap();
    vhost.declare_queue("orders").await;
    let user = vhost.name();
    rabbitmq.management("PUT", &format!("/api/users/{user}"), Some(r#"{"password":"p","tags":""}"#)).await;
    // Write access to the default exchange and nothing else: all that publishing needs.
    let rights = r#"{"configure":"","write":"^amq\\.default$","read":""}"#;
    rabbitmq.management("PUT", &format!("/api/permissions/{user}/{user}"), Some(rights)).await;
    let uri = vhost.uri().replace("guest:guest", &format!("{user}:p"));
    let publisher = builder(&uri).build().unwrap();

    let forbidden = || message_with("t", &AmqpOptions::new().exchange("amq.fanout"));
    let guilty = |message: &Message| !message.options().is_empty();
    let mut batch = messages("orders", 100);
    batch.insert(30, forbidden());
    batch.insert(60, forbidden());
    let outcomes = judged(&vhost, &publisher, &batch, guilty).await;
    assert_eq!(outcomes.len(), 2);
    for outcome in &outcomes {
        assert_error(outcome, ErrorKind::Permission, Verdict::Retry, Scope::Message);
    }
    // New messages to the same exchange do not disturb anybody either.
    let mut batch = messages("orders", 100);
    batch.insert(50, forbidden());
    let outcomes = judged(&vhost, &publisher, &batch, guilty).await;
    assert_error(&outcomes[0], ErrorKind::Permission, Verdict::Retry, Scope::Message);

    // Nor does one that wants to declare without the right to.
    let declaring = message_with("t", &AmqpOptions::new().exchange("own").exchange_type("topic"));
    let outcomes = publisher.publish(&[declaring, message("orders", "x")]).await;
    assert_error(&outcomes[0], ErrorKind::Permission, Verdict::Retry, Scope::Message);
    assert!(outcomes[1].is_ok());
    rabbitmq.management("DELETE", &format!("/api/users/{user}"), None).await;
}

#[tokio::test]
async fn alone_a_refused_message_is_known_at_once() {
    let Some(vhost) = vhost().await else { return };
    let channel = vhost.channel().await;
    let internal = lapin::options::ExchangeDeclareOptions { internal: true, ..Default::default() };
    let fanout = lapin::ExchangeKind::Fanout;
    channel.exchange_declare("internal".into(), fanout, internal, Default::default()).await.unwrap();
    let publisher = builder(vhost.uri()).build().unwrap();
    let outcome = publish_one(&publisher, message_with("t", &AmqpOptions::new().exchange("internal"))).await;
    let error = assert_error(&outcome, ErrorKind::Permission, Verdict::Retry, Scope::Message);
    assert!(error.report().contains("internal"), "{}", error.report());
}
