//! Moving over from outboxer, the library for Go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use outbox_core::{Content, ErrorKind, Message, Store as _};
use outbox_mssql::{Config, OutboxerEvent};
use support::{LIMIT, Scene};

/// The table as outboxer makes it.
const TABLE: &str = "CREATE TABLE dbo.event_store (
    id int IDENTITY(1, 1) NOT NULL PRIMARY KEY, dispatched bit NOT NULL DEFAULT (0), dispatched_at datetime NULL,
    payload varbinary(max) NULL, options nvarchar(max) NULL, headers nvarchar(max) NULL)";

async fn scene() -> Option<Scene> {
    let scene = Scene::with(Config::new()).await?;
    scene.run(TABLE).await;
    Some(scene)
}

async fn add(scene: &Scene, number: u8, dispatched: bool) {
    let dispatched = u8::from(dispatched);
    scene
        .run(&format!(
            r#"INSERT INTO dbo.event_store (payload, options, headers, dispatched) VALUES (0x{number:02x},
            N'{{"exchange.name": "shop", "exchange.type": "direct", "routing_key": "order.placed"}}',
            N'{{"tenant": "acme"}}', {dispatched})"#
        ))
        .await;
}

#[tokio::test]
async fn what_outboxer_has_not_dispatched_is_moved_once_and_in_its_order() {
    let Some(scene) = scene().await else { return };
    add(&scene, 99, true).await;
    for number in 0..25 {
        add(&scene, number, false).await;
    }
    let mut moved = Vec::new();
    loop {
        let import = scene.outbox.import_outboxer(&scene.pool, "dbo.event_store", 10, OutboxerEvent::amqp);
        moved.push(import.await.unwrap());
        if moved.last() == Some(&0) {
            break;
        }
    }
    assert_eq!(moved, [10, 10, 5, 0]);
    assert_eq!(scene.count("dbo.event_store").await, 1, "what was dispatched is left alone");

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

#[tokio::test]
async fn an_event_that_cannot_be_understood_moves_nothing_and_is_named() {
    let Some(scene) = scene().await else { return };
    add(&scene, 1, false).await;
    scene.run("INSERT INTO dbo.event_store (payload) VALUES (0x02)").await;
    let import = scene.outbox.import_outboxer(&scene.pool, "event_store", 10, OutboxerEvent::amqp);
    let error = import.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.report().contains('2'), "{}", error.report());
    assert_eq!(scene.count("dbo.event_store").await, 2);
    assert_eq!(scene.store().stats(10).await.unwrap().backlog.value, 0);

    // By hand, then.
    let by_hand = |event: &OutboxerEvent| Message::bytes("elsewhere", event.payload.clone()).build();
    let import = scene.outbox.import_outboxer(&scene.pool, "event_store", 10, by_hand);
    assert_eq!(import.await.unwrap(), 2);
}

#[tokio::test]
async fn a_table_that_is_not_there_is_told() {
    let Some(scene) = Scene::with(Config::new()).await else { return };
    for (table, kind) in [("event_store", ErrorKind::Schema), ("a.b.c", ErrorKind::Config)] {
        let import = scene.outbox.import_outboxer(&scene.pool, table, 10, OutboxerEvent::amqp);
        assert_eq!(import.await.unwrap_err().kind(), kind, "{table}");
    }
}
