//! Moving over from outboxer, the library for Go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use outbox_core::{Content, ErrorKind, Message, Store as _};
use outbox_mysql::OutboxerEvent;
use serde_json::json;
use sqlx::types::Json;
use support::{LIMIT, Product, Scene, on_both};

/// The table as outboxer makes it.
const TABLE: &str = "CREATE TABLE event_store (
    id BIGINT AUTO_INCREMENT NOT NULL PRIMARY KEY, dispatched BOOL NOT NULL DEFAULT false, dispatched_at DATETIME,
    payload BLOB NOT NULL, options JSON, headers JSON) ENGINE=InnoDB DEFAULT CHARSET=utf8";

async fn scene(product: Product) -> Option<Scene> {
    let scene = product.scene().await?;
    sqlx::query(TABLE).execute(&scene.pool).await.unwrap();
    Some(scene)
}

async fn add(scene: &Scene, payload: &[u8], dispatched: bool) {
    let options = json!({"exchange.name": "shop", "exchange.type": "direct", "routing_key": "order.placed"});
    sqlx::query("INSERT INTO event_store (payload, options, headers, dispatched) VALUES (?, ?, ?, ?)")
        .bind(payload)
        .bind(Json(options))
        .bind(Json(json!({"tenant": "acme"})))
        .bind(dispatched)
        .execute(&scene.pool)
        .await
        .unwrap();
}

async fn left(scene: &Scene) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM event_store").fetch_one(&scene.pool).await.unwrap()
}

async fn what_outboxer_has_not_dispatched_is_moved_once_and_in_its_order(product: Product) {
    let Some(scene) = scene(product).await else { return };
    add(&scene, b"done", true).await;
    for number in 0..25_u8 {
        add(&scene, &[number], false).await;
    }
    let mut moved = Vec::new();
    loop {
        let count =
            scene.outbox.import_outboxer(&scene.pool, "event_store", 10, OutboxerEvent::amqp).await.unwrap();
        moved.push(count);
        if count == 0 {
            break;
        }
    }
    assert_eq!(moved, [10, 10, 5, 0]);
    assert_eq!(left(&scene).await, 1, "what was dispatched is left alone");

    let (_, _, mut reader) = scene.relay().await;
    let mut rows = reader.fetch(LIMIT, &[]).await.unwrap().rows;
    rows.sort_by_key(|row| row.position);
    let messages: Vec<Message> = rows
        .into_iter()
        .map(|row| match row.content {
            Content::Message(message) => message,
            Content::Malformed { reason, .. } => panic!("{reason}"),
        })
        .collect();
    let payloads: Vec<u8> = messages.iter().map(|message| message.payload()[0]).collect();
    assert_eq!(payloads, (0..25).collect::<Vec<_>>());
    assert_eq!(messages[0].topic(), "order.placed");
    assert_eq!(messages[0].headers()["tenant"], "acme");
    let options = serde_json::to_value(messages[0].options()).unwrap();
    assert_eq!(options["amqp"]["exchange"], "shop");
}

async fn an_event_that_cannot_be_understood_moves_nothing_and_is_named(product: Product) {
    let Some(scene) = scene(product).await else { return };
    add(&scene, b"good", false).await;
    sqlx::query("INSERT INTO event_store (payload) VALUES ('lost')").execute(&scene.pool).await.unwrap();
    let error =
        scene.outbox.import_outboxer(&scene.pool, "event_store", 10, OutboxerEvent::amqp).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.report().contains('2'), "{}", error.report());
    assert_eq!(left(&scene).await, 2);
    assert_eq!(scene.outbox.store(scene.pool.clone()).stats(10).await.unwrap().backlog.value, 0);

    // By hand, then.
    let by_hand = |event: &OutboxerEvent| Message::bytes("elsewhere", event.payload.clone()).build();
    assert_eq!(
        scene
            .outbox
            .import_outboxer(&scene.pool, &format!("{}.event_store", scene.database.name()), 10, by_hand)
            .await
            .unwrap(),
        2
    );
}

async fn a_table_that_is_not_there_is_told(product: Product) {
    let Some(scene) = product.scene().await else { return };
    for (table, kind) in [("event_store", ErrorKind::Schema), ("a.b.c", ErrorKind::Config)] {
        let import = scene.outbox.import_outboxer(&scene.pool, table, 10, OutboxerEvent::amqp);
        assert_eq!(import.await.unwrap_err().kind(), kind, "{table}");
    }
}

on_both!(
    what_outboxer_has_not_dispatched_is_moved_once_and_in_its_order,
    an_event_that_cannot_be_understood_moves_nothing_and_is_named,
    a_table_that_is_not_there_is_told,
);
