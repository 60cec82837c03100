//! What reading rests on, and what the conformance suite does not go into.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::{Message, Reader, Store};
use outbox_mssql::Config;
use support::{LIMIT, Scene, all_delivered, message, run, topics};

const TABLE: &str = "dbo.outbox_message";

async fn scene() -> Option<Scene> {
    Scene::with(Config::new()).await
}

async fn read_all(reader: &mut dyn Reader) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        found.extend(topics(&batch));
        if batch.rows.is_empty() && !batch.more {
            return found;
        }
    }
}

#[tokio::test]
async fn a_dirty_read_shows_rows_of_open_transactions_with_their_writer() {
    let Some(scene) = scene().await else { return };
    let mut tx = scene.begin().await;
    scene.outbox.enqueue(&mut tx, &message("open", None)).await.unwrap();
    let spid = tx.simple_query("SELECT CONVERT(int, @@SPID)").await.unwrap().into_row().await.unwrap();
    let spid: i32 = spid.unwrap().get(0).unwrap();
    let look = format!("SELECT writer FROM {TABLE} WITH (READUNCOMMITTED)");
    let seen = scene.rows(&look).await;
    let writers: Vec<i32> = seen.iter().map(|row| row.get(0).unwrap()).collect();
    // Babelfish never shows them; there, the reader takes them for numbers without a row, and is patient.
    let expected = if scene.is_babelfish().await { vec![] } else { vec![spid] };
    assert_eq!(writers, expected);
    tx.rollback_transaction().await.unwrap();
    assert!(scene.rows(&look).await.is_empty());
}

#[tokio::test]
async fn one_insert_draws_growing_positions_in_the_order_of_its_rows() {
    let Some(scene) = scene().await else { return };
    let messages: Vec<Message> = (0..2500).map(|number| message(&format!("{number:04}"), None)).collect();
    scene.enqueue_all(&messages).await;
    let rows = scene.rows(&format!("SELECT topic FROM {TABLE} ORDER BY position")).await;
    let sorted: Vec<String> = rows.iter().map(|row| row.get::<&str, _>(0).unwrap().to_owned()).collect();
    assert!(sorted.is_sorted() && sorted.len() == 2500);
}

#[tokio::test]
async fn a_large_open_transaction_holds_up_nobody_and_comes_whole() {
    let Some(scene) = scene().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    let mut bulk = scene.begin().await;
    let messages: Vec<Message> =
        (0..5_000).map(|number| message("bulk", Some(&format!("{}", number % 50)))).collect();
    scene.outbox.enqueue_batch(&mut bulk, &messages).await.unwrap();
    for number in 0..10 {
        scene.enqueue(&message(&format!("small {number}"), Some("small"))).await;
        // It takes several looks to get past so many rows.
        let batch = loop {
            let batch = reader.fetch(LIMIT, &[]).await.unwrap();
            if !batch.rows.is_empty() || !batch.more {
                break batch;
            }
        };
        assert_eq!(topics(&batch), [format!("small {number}")]);
        store.settle(relay, &all_delivered(&batch), false).await.unwrap();
    }
    bulk.commit_transaction().await.unwrap();
    // One that was enqueued after the commit, of a key of the bulk, comes behind it.
    scene.enqueue(&message("after", Some("7"))).await;
    let found = read_all(&mut *reader).await;
    assert_eq!(found.len(), 5_001);
    let after = found.iter().position(|topic| topic == "after").unwrap();
    assert!(found[after..].iter().all(|topic| topic != "bulk"), "it overtook some of its key");
}

#[tokio::test]
async fn positions_that_were_rolled_back_are_passed_over() {
    let Some(scene) = scene().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    for number in 0..40 {
        let mut tx = scene.begin().await;
        scene.outbox.enqueue(&mut tx, &message("never", None)).await.unwrap();
        tx.rollback_transaction().await.unwrap();
        scene.enqueue(&message(&number.to_string(), Some("k"))).await;
    }
    let found = read_all(&mut *reader).await;
    assert_eq!(found, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn writers_at_every_isolation_level_are_read_alike() {
    let Some(scene) = scene().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    for level in ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut tx = scene.pool.get().await.unwrap();
        run(&mut tx, &format!("SET TRANSACTION ISOLATION LEVEL {level}")).await;
        tx.begin_transaction().await.unwrap();
        // Takes what locks it takes before others commit.
        run(&mut tx, "SELECT COUNT(*) FROM dbo.outbox_dead_letter").await;
        scene.outbox.enqueue(&mut tx, &message(level, Some("k"))).await.unwrap();
        scene.enqueue(&message("beside", Some("other"))).await;
        assert_eq!(read_all(&mut *reader).await, ["beside"], "{level}");
        tx.commit_transaction().await.unwrap();
        assert_eq!(read_all(&mut *reader).await, [level]);
    }
}

#[tokio::test]
async fn a_plain_insert_is_enough() {
    let Some(scene) = scene().await else { return };
    scene.run(&format!("INSERT INTO {TABLE} (topic, payload) VALUES (N'plain', 0x78)")).await;
    let (_, _, mut reader) = scene.relay().await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&batch), ["plain"]);
    // A time zone would make a difference of hours.
    assert!(batch.rows[0].age < Duration::from_secs(1800), "{:?}", batch.rows[0].age);
}
