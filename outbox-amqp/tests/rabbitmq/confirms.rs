//! Which message was confirmed, and which was not.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use lapin::types::{AMQPValue, FieldTable};
use outbox_amqp::AmqpOptions;
use outbox_core::{ErrorKind, Message, MessageId, Publisher, Scope, Verdict};

use crate::support::{
    SOON, all_confirmed, assert_error, message, message_with, messages, publish_one, publisher, vhost,
};

#[tokio::test]
async fn confirmed_messages_are_in_the_queue_in_their_order() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = publisher(&vhost);

    all_confirmed(&publisher.publish(&messages("orders", 100)).await);
    let received = vhost.consume("orders", 100, SOON).await;
    for (number, delivery) in received.iter().enumerate() {
        assert_eq!(delivery.data, number.to_string().into_bytes());
    }
    assert!(publisher.publish(&[]).await.is_empty());
}

/// The client library attaches a returned message to whichever confirm comes next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_unroutable_ones_fail_among_thousands() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("there").await;
    let publisher = publisher(&vhost);

    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..5 {
        let batch: Vec<Message> = (0..2_000)
            .map(|number| message(if random.u8(..) < 26 { "nowhere" } else { "there" }, number.to_string()))
            .collect();
        let outcomes = publisher.publish(&batch).await;
        assert_eq!(outcomes.len(), batch.len());
        let mut confirmed = HashSet::new();
        for (message, outcome) in batch.iter().zip(&outcomes) {
            if message.topic() == "there" {
                assert!(outcome.is_ok(), "{:?}", outcome);
                confirmed.insert(message.id().to_string());
            } else {
                let error = assert_error(outcome, ErrorKind::Unroutable, Verdict::Retry, Scope::Message);
                assert!(error.to_string().contains("routing_key: nowhere"), "{error}");
            }
        }
        let arrived: HashSet<String> = vhost
            .consume("there", confirmed.len(), SOON)
            .await
            .iter()
            .map(|delivery| delivery.properties.message_id().as_ref().unwrap().to_string())
            .collect();
        assert_eq!(arrived, confirmed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_the_same_time_do_not_mix_up_their_outcomes() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("there").await;
    let publisher = Arc::new(publisher(&vhost));

    // Twice as many calls as channels.
    let calls = (0..8).map(|call| {
        let publisher = Arc::clone(&publisher);
        async move {
            for _ in 0..3 {
                let batch: Vec<Message> = (0..200)
                    .map(|n| message(if (n + call) % 7 == 0 { "nowhere" } else { "there" }, "x"))
                    .collect();
                for (message, outcome) in batch.iter().zip(publisher.publish(&batch).await) {
                    assert_eq!(outcome.is_ok(), message.topic() == "there");
                }
            }
        }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn messages_with_the_same_id_are_told_apart() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("there").await;
    let publisher = publisher(&vhost);

    let id = MessageId::new();
    let twin = |topic: &str| Message::bytes(topic, "x").id(id).build().unwrap();
    let batch = [twin("there"), twin("nowhere"), message("there", "y"), twin("there"), twin("nowhere")];
    let outcomes = publisher.publish(&batch).await;
    let confirmed: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(confirmed, [true, false, true, true, false]);
    assert_error(&outcomes[1], ErrorKind::Unroutable, Verdict::Retry, Scope::Message);
    assert_eq!(vhost.queue_depth("there").await, 3);
}

#[tokio::test]
async fn a_full_queue_rejects_its_own_messages_only() {
    let Some(vhost) = vhost().await else { return };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    vhost.declare_queue_with("full", arguments).await;
    vhost.declare_queue("free").await;
    let publisher = publisher(&vhost);
    publish_one(&publisher, message("full", "fills it")).await.unwrap();

    let outcomes =
        publisher.publish(&[message("free", "a"), message("full", "b"), message("free", "c")]).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert_error(&outcomes[1], ErrorKind::Rejected, Verdict::Retry, Scope::Message);
}

#[tokio::test]
async fn unroutable_names_the_exchange_and_the_broker_s_reason() {
    let Some(vhost) = vhost().await else { return };
    let publisher = publisher(&vhost);
    let options = AmqpOptions::new().exchange("amq.topic").routing_key("a.b");
    let outcome = publish_one(&publisher, message_with("t", &options)).await;
    let text = assert_error(&outcome, ErrorKind::Unroutable, Verdict::Retry, Scope::Message).to_string();
    for part in ["exchange: amq.topic", "routing_key: a.b", "312 NO_ROUTE", vhost.name()] {
        assert!(text.contains(part), "{text}");
    }
}
