//! Settling: what is in the tables afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::{Fetched, Settle, Settlement, Store};

use support::{LIMIT, Scene, all_delivered, message, topics};

fn settle(row: &Fetched, settlement: Settlement) -> Settle {
    Settle::of(row, settlement)
}

fn retry(error: &str) -> Settlement {
    Settlement::Retry {
        after: Duration::from_secs(24 * 3600),
        attempts: 1,
        error: error.to_owned(),
        block_key: true,
    }
}

#[tokio::test]
async fn only_the_first_held_rows_are_due_at_a_time() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    let messages: Vec<_> = (0..1500).map(|number| message(&format!("{number:04}"), Some("k"))).collect();
    scene.outbox.enqueue_batch(&scene.pool, &messages).await.unwrap();
    let mut rows = Vec::new();
    while rows.len() < 1500 {
        rows.extend(reader.fetch(LIMIT, &[]).await.unwrap().rows);
    }
    let blocker = rows[0].position;
    let batch: Vec<_> = rows
        .iter()
        .map(|row| settle(row, if row.position == blocker { retry("no") } else { Settlement::Held }))
        .collect();
    store.settle(relay, &batch, false).await.unwrap();
    let due = "SELECT count(*) FROM outbox_message WHERE available_at <= now()";
    assert_eq!(scene.value::<i64>(due).await, 0);

    scene.run("UPDATE outbox_message SET available_at = now() WHERE available_at < 'infinity'").await;
    let mut came = Vec::new();
    let mut size = 1;
    while came.len() < 1500 {
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        assert!(batch.rows.iter().all(|row| row.due && !row.blocked));
        // Deliver a few only, as a relay does that has not published the others yet.
        size = (size % 200) + 7;
        let some: Vec<_> = all_delivered(&batch).into_iter().take(size).collect();
        came.extend(topics(&batch).into_iter().take(size));
        store.settle(relay, &some, false).await.unwrap();
        let due: i64 = scene.value(due).await;
        assert!(due <= 256, "{due}");
        assert!(due > 0 || came.len() == 1500);
    }
    let expected: Vec<_> = (0..1500).map(|number| format!("{number:04}")).collect();
    assert_eq!(came, expected);
}

#[tokio::test]
async fn kept_messages_are_whole() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    let columns =
        "message_id, topic, key, payload, content_type, headers::text, options::text, partition, enqueued_at";
    scene
        .run(
            "INSERT INTO outbox_message (topic, key, payload, content_type, headers, options)
             VALUES ('t', 'k', '\\x00ff', 'text/plain', '{\"a\": \"b\"}', '{\"p\": {\"x\": 1}}'), ('u', NULL, '', NULL, '[]', '7')",
        )
        .await;
    scene.run("CREATE TABLE before AS TABLE outbox_message").await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    store.settle(relay, &all_delivered(&batch), true).await.unwrap();
    let differences = format!(
        "SELECT count(*) FROM (SELECT {columns} FROM before EXCEPT SELECT {columns} FROM outbox_delivered) d"
    );
    assert_eq!(scene.value::<i64>(&differences).await, 0);
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_delivered").await, 2);
}

#[tokio::test]
async fn dead_letters_and_redriven_messages_are_whole() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    let columns = "position, message_id, topic, key, payload, content_type, headers::text, options::text, partition, enqueued_at";
    scene
        .run(
            "INSERT INTO outbox_message (topic, key, payload, content_type, headers, options)
             VALUES ('t', 'k', '\\x00ff', 'text/plain', '{\"a\": \"b\"}', '{}'), ('', NULL, '', NULL, '[]', '7');
             CREATE TABLE before AS TABLE outbox_message",
        )
        .await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    let dead = Settlement::Dead { attempts: 7, error: "x".repeat(1 << 20), block_key: true };
    let batch: Vec<_> = batch.rows.iter().map(|row| settle(row, dead.clone())).collect();
    store.settle(relay, &batch, false).await.unwrap();
    let same = async |table: &str| {
        let sql = format!(
            "SELECT count(*) FROM (SELECT {columns} FROM before EXCEPT SELECT {columns} FROM {table}) d"
        );
        assert_eq!(scene.value::<i64>(&sql).await, 0, "{table}");
        assert_eq!(scene.value::<i64>(&format!("SELECT count(*) FROM {table}")).await, 2, "{table}");
    };
    same("outbox_dead_letter").await;
    assert!(scene.value::<i32>("SELECT max(length(last_error)) FROM outbox_dead_letter").await < 10_000);
    assert_eq!(store.dead_letters().unwrap().redrive(&Default::default(), 10).await.unwrap(), 2);
    same("outbox_message").await;
    assert_eq!(scene.value::<i32>("SELECT max(attempts) FROM outbox_message").await, 0);
}

#[tokio::test]
async fn a_copied_dead_letter_does_not_stop_the_relay() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap();
    let dead = |attempts| Settlement::Dead { attempts, error: "no".to_owned(), block_key: false };
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    store.settle(relay, &[settle(&batch.rows[0], dead(1))], false).await.unwrap();
    // Somebody redrives by hand, and forgets to delete.
    scene
        .run(
            "INSERT INTO outbox_message (position, message_id, topic, payload, available_at) OVERRIDING SYSTEM VALUE
             SELECT position, message_id, topic, payload, now() FROM outbox_dead_letter",
        )
        .await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    store.settle(relay, &[settle(&batch.rows[0], dead(2))], false).await.unwrap();
    // The copy is a dead letter of its own.
    let attempts =
        scene.value::<Vec<i32>>("SELECT array_agg(attempts ORDER BY number) FROM outbox_dead_letter").await;
    assert_eq!(attempts, [1, 2]);
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message").await, 0);
}
