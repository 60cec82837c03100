//! What arrives at a consumer.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use outbox_amqp::{AmqpOptions, Route};
use outbox_core::{ErrorKind, Message, Options, Publisher, Scope, Verdict};

use crate::support::{SOON, all_confirmed, assert_error, builder, message, publish_one, publisher, vhost};

#[tokio::test]
async fn every_property_reaches_the_consumer() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let options = AmqpOptions::new()
        .priority(7)
        .expiration(Duration::from_secs(3_600))
        .correlation_id("correlation")
        .reply_to("answers")
        .message_type("order.placed")
        .app_id("shop")
        .content_encoding("identity")
        .timestamp(1_700_000_000);
    let message = Message::bytes("orders", "{}")
        .content_type("application/json")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("ünïcödé", "прувит 🦀")
        .header("empty", "")
        .options(&options)
        .build()
        .unwrap();
    publish_one(&publisher(&vhost), message.clone()).await.unwrap();

    let delivery = vhost.consume("orders", 1, SOON).await.remove(0);
    assert_eq!(delivery.data, b"{}");
    let properties = &delivery.properties;
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.priority(), Some(7));
    assert_eq!(*properties.timestamp(), Some(1_700_000_000));
    for (field, expected) in [
        (properties.message_id(), message.id().to_string().as_str()),
        (properties.content_type(), "application/json"),
        (properties.content_encoding(), "identity"),
        (properties.expiration(), "3600000"),
        (properties.correlation_id(), "correlation"),
        (properties.reply_to(), "answers"),
        (properties.kind(), "order.placed"),
        (properties.app_id(), "shop"),
    ] {
        assert_eq!(field.as_ref().map(|text| text.as_str()), Some(expected));
    }
    let headers: BTreeMap<String, String> = properties
        .headers()
        .iter()
        .flatten()
        .map(|(name, value)| match value {
            AMQPValue::LongString(text) => (name.to_string(), text.to_string()),
            other => panic!("a header that is no text: {other:?}"),
        })
        .collect();
    assert_eq!(&headers, message.headers());
}

#[tokio::test]
async fn payloads_of_any_kind_and_size_arrive() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let payloads: [Vec<u8>; 5] = [
        Vec::new(),
        (0..=255).collect(),
        "日本語 🦀".as_bytes().to_vec(),
        // Of several frames, and of exactly one.
        fastrand::Rng::with_seed(1).u8(..).to_ne_bytes().repeat(5 << 20),
        vec![7; 131_072 - 8],
    ];
    let batch: Vec<Message> = payloads.iter().map(|payload| message("orders", payload.clone())).collect();
    all_confirmed(&publisher(&vhost).publish(&batch).await);
    for (payload, delivery) in payloads.iter().zip(vhost.consume("orders", 5, SOON).await) {
        assert!(*payload == delivery.data, "{} bytes became {}", payload.len(), delivery.data.len());
    }
}

#[tokio::test]
async fn priorities_and_expirations_take_effect() {
    let Some(vhost) = vhost().await else { return };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), AMQPValue::LongInt(10));
    vhost.declare_queue_with("urgent", arguments).await;
    vhost.declare_queue("fleeting").await;
    let publisher = publisher(&vhost);

    let with = |topic: &str, payload: &'static str, options: AmqpOptions| {
        Message::bytes(topic, payload).options(&options).build().unwrap()
    };
    let batch = [
        with("urgent", "later", AmqpOptions::new().priority(1)),
        with("urgent", "first", AmqpOptions::new().priority(9)),
        with("fleeting", "gone", AmqpOptions::new().expiration(Duration::ZERO)),
    ];
    all_confirmed(&publisher.publish(&batch).await);
    let order: Vec<Vec<u8>> =
        vhost.consume("urgent", 2, SOON).await.into_iter().map(|delivery| delivery.data).collect();
    assert_eq!(order, [b"first", b"later"]);
    let vhost = &vhost;
    integration_tests::eventually("the message to expire", SOON, || async move {
        (vhost.queue_depth("fleeting").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_sent_fails_for_good_and_alone() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("orders").await;
    let publisher = builder(vhost.uri()).max_message_bytes(1_000).build().unwrap();

    let json = serde_json::json!({ "amqp": { "prioritty": 3 } });
    let serde_json::Value::Object(unknown) = json else { unreachable!() };
    let bad = [
        (message("orders", vec![0; 1_001]), ErrorKind::TooLarge),
        (message(&"x".repeat(256), "x"), ErrorKind::Malformed),
        (
            Message::bytes("orders", "x").raw_options(Options::from_json(unknown)).build().unwrap(),
            ErrorKind::Malformed,
        ),
        // Fits into no frame; sent nevertheless, it would end the connection.
        (
            Message::bytes("orders", "x").header("long", "v".repeat(131_072)).build().unwrap(),
            ErrorKind::TooLarge,
        ),
    ];
    let mut batch = vec![message("orders", "good")];
    for (message_, _) in &bad {
        batch.push(message_.clone());
        batch.push(message("orders", vec![1; 1_000]));
    }
    let outcomes = publisher.publish(&batch).await;
    for (index, outcome) in outcomes.iter().enumerate() {
        if index % 2 == 0 {
            assert!(outcome.is_ok(), "{outcome:?}");
        } else {
            assert_error(outcome, bad[index / 2].1, Verdict::Permanent, Scope::Message);
        }
    }
    // The largest header that still fits.
    let base = Message::bytes("orders", "x").header("long", "v".repeat(131_072 - 22 - 38 - 4 - 10));
    publish_one(&publisher, base.build().unwrap()).await.unwrap();
}

#[tokio::test]
async fn routing_follows_options_then_table_then_rule() {
    let Some(vhost) = vhost().await else { return };
    for queue in ["by-options", "by-table", "by-rule"] {
        vhost.declare_queue(queue).await;
    }
    vhost.bind_queue("by-table", "amq.direct", "table-key").await;
    let publisher = builder(vhost.uri())
        .route("special", Route::new("amq.direct", "table-key"))
        .route_with(|message| Route::new("", format!("by-{}", message.key().unwrap_or("nobody"))))
        .build()
        .unwrap();
    let batch = [
        message("special", "1"),
        Message::bytes("any", "2").key("rule").build().unwrap(),
        Message::bytes("special", "3")
            .options(&AmqpOptions::new().exchange("").routing_key("by-options"))
            .build()
            .unwrap(),
    ];
    all_confirmed(&publisher.publish(&batch).await);
    for (queue, payload) in [("by-table", "1"), ("by-rule", "2"), ("by-options", "3")] {
        assert_eq!(vhost.consume(queue, 1, SOON).await[0].data, payload.as_bytes());
    }
}
