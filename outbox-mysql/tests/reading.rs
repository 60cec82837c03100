//! What reading rests on, and what the conformance suite does not go into.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::{Message, Reader, Settlement, Store};
use sqlx::Connection as _;
use support::{LIMIT, Product, Scene, all_delivered, message, on_both, topics};

const TABLE: &str = "`outbox_message`";

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

async fn a_dirty_read_shows_rows_of_open_transactions_with_their_writer(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let mut tx = scene.pool.begin().await.unwrap();
    scene.outbox.enqueue(&mut *tx, &message("open", None)).await.unwrap();
    let writer: u64 = sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(&mut *tx).await.unwrap();
    let mut other = scene.pool.acquire().await.unwrap();
    let mut look = async |level: &str| -> Vec<i64> {
        let level = format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(level)).execute(&mut *other).await.unwrap();
        sqlx::query_scalar("SELECT `writer` FROM `outbox_message`").fetch_all(&mut *other).await.unwrap()
    };
    assert_eq!(look("READ UNCOMMITTED").await, [i64::try_from(writer).unwrap()]);
    assert_eq!(look("READ COMMITTED").await, [0; 0]);
    tx.rollback().await.unwrap();
    assert_eq!(look("READ UNCOMMITTED").await, [0; 0]);
    // The connection goes back to the pool as it was.
    look("REPEATABLE READ").await;
}

async fn one_insert_draws_growing_positions_in_the_order_of_its_rows(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let messages: Vec<Message> = (0..2500).map(|number| message(&format!("{number:04}"), None)).collect();
    let mut connection = scene.pool.acquire().await.unwrap();
    scene.outbox.enqueue_batch(&mut connection, &messages).await.unwrap();
    let sorted: Vec<String> = sqlx::query_scalar("SELECT `topic` FROM `outbox_message` ORDER BY `position`")
        .fetch_all(&scene.pool)
        .await
        .unwrap();
    assert!(sorted.is_sorted() && sorted.len() == 2500);
}

async fn a_large_open_transaction_holds_up_nobody_and_comes_whole(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    let mut bulk = scene.pool.begin().await.unwrap();
    let messages: Vec<Message> =
        (0..20_000).map(|number| message("bulk", Some(&format!("{}", number % 50)))).collect();
    scene.outbox.enqueue_batch(&mut bulk, &messages).await.unwrap();
    for number in 0..30 {
        scene.outbox.enqueue(&scene.pool, &message(&format!("small {number}"), Some("small"))).await.unwrap();
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
    bulk.commit().await.unwrap();
    // One that was enqueued after the commit, of a key of the bulk, comes behind it.
    scene.outbox.enqueue(&scene.pool, &message("after", Some("7"))).await.unwrap();
    let found = read_all(&mut *reader).await;
    assert_eq!(found.len(), 20_001);
    let after = found.iter().position(|topic| topic == "after").unwrap();
    assert!(found[after..].iter().all(|topic| topic != "bulk"), "it overtook some of its key");
}

async fn positions_that_were_rolled_back_are_passed_over(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    for number in 0..40 {
        let mut tx = scene.pool.begin().await.unwrap();
        scene.outbox.enqueue(&mut *tx, &message("never", None)).await.unwrap();
        tx.rollback().await.unwrap();
        scene.outbox.enqueue(&scene.pool, &message(&number.to_string(), Some("k"))).await.unwrap();
    }
    let found = read_all(&mut *reader).await;
    assert_eq!(found, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
}

async fn writers_at_every_isolation_level_are_read_alike(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    for level in ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut connection = scene.pool.acquire().await.unwrap();
        let set = format!("SET TRANSACTION ISOLATION LEVEL {level}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut *connection).await.unwrap();
        let mut tx = connection.begin().await.unwrap();
        // Takes its snapshot, and its locks, before others commit.
        sqlx::query("SELECT COUNT(*) FROM `outbox_dead_letter`").execute(&mut *tx).await.unwrap();
        scene.outbox.enqueue(&mut *tx, &message(level, Some("k"))).await.unwrap();
        scene.outbox.enqueue(&scene.pool, &message("beside", Some("other"))).await.unwrap();
        assert_eq!(read_all(&mut *reader).await, ["beside"], "{level}");
        tx.commit().await.unwrap();
        assert_eq!(read_all(&mut *reader).await, [level]);
    }
}

async fn keys_are_told_apart_by_their_bytes(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    let keys = ["k", "K", "k ", "ḱ", "k\u{301}"];
    scene.outbox.enqueue(&scene.pool, &message("first", Some("k"))).await.unwrap();
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    let mut settle = all_delivered(&batch);
    settle[0].settlement = Settlement::Retry {
        after: Duration::from_secs(24 * 3600),
        attempts: 1,
        error: "not now".to_owned(),
        block_key: true,
    };
    store.settle(relay, &settle, false).await.unwrap();
    for key in keys {
        scene.outbox.enqueue(&scene.pool, &message(key, Some(key))).await.unwrap();
    }
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    let blocked: Vec<bool> = batch.rows.iter().map(|row| row.blocked).collect();
    assert_eq!(blocked, [true, false, false, false, false]);
}

async fn a_plain_insert_is_enough(product: Product) {
    let Some(scene) = product.scene().await else { return };
    scene
        .run(&format!(
            "SET time_zone = '+05:00'; INSERT INTO {TABLE} (`topic`, `payload`) VALUES ('plain', 'x')"
        ))
        .await;
    let (_, _, mut reader) = scene.relay().await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&batch), ["plain"]);
    // A time zone would make a difference of hours.
    assert!(batch.rows[0].age < Duration::from_secs(1800), "{:?}", batch.rows[0].age);
}

/// What the server does for a statement: the tables it goes over from their start to their end.
async fn walks(scene: &Scene, sql: &str) -> Vec<String> {
    use sqlx::Row as _;
    let explain = format!("EXPLAIN FORMAT=TRADITIONAL {}", sql.replace("FOR UPDATE", ""));
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&scene.pool).await.unwrap();
    rows.iter()
        .filter_map(|row| {
            let text =
                |column| row.try_get_unchecked::<Option<String>, _>(column).unwrap().unwrap_or_default();
            let (table, access, key) = (text("table"), text("type"), text("key"));
            let ours =
                ["m", "b", "r", "a", "d", "outbox_message", "outbox_dead_letter"].contains(&table.as_str());
            let whole = access == "ALL" || access == "index";
            (ours && whole).then(|| format!("{table}: {access} {key}"))
        })
        .collect()
}

async fn no_statement_of_the_relay_walks_over_the_backlog(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let statements = outbox_mysql_statements();
    scene.run("ANALYZE TABLE `outbox_message`, `outbox_dead_letter`").await;
    let messages: Vec<Message> = (0..3000).map(|number| message("m", Some(&number.to_string()))).collect();
    let mut connection = scene.pool.acquire().await.unwrap();
    scene.outbox.enqueue_batch(&mut connection, &messages).await.unwrap();
    // With statistics of the empty tables first, as after a sudden rush.
    for analyzed in [false, true] {
        if analyzed {
            scene.run("ANALYZE TABLE `outbox_message`, `outbox_dead_letter`").await;
        }
        for (name, sql) in &statements {
            let walks = walks(&scene, sql).await;
            assert!(walks.is_empty(), "{name} ({analyzed}): {walks:?}\n{sql}");
        }
    }
}

/// The statements as the snapshots have them, with values.
fn outbox_mysql_statements() -> Vec<(String, String)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sql/snapshots");
    let names = [
        "look",
        "look_back",
        "look_again",
        "read",
        "fetch",
        "witnesses",
        "waiting",
        "due",
        "deliver",
        "lock_rows",
        "blocked",
        "retry",
        "set_due",
        "delete",
        "hold_later",
        "blocking",
        "blocking_dead",
        "anything",
        "delete_dead",
        "lock_dead",
    ];
    let read = |name: &str| {
        let file = folder.join(format!("outbox_mysql__sql__tests__{name}.snap"));
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let sql = text.splitn(3, "---\n").nth(2).unwrap().to_owned();
        let sql = sql.replace("JSON_TABLE(?", "JSON_TABLE('[]'").replace("UNHEX(?)", "UNHEX('00')");
        (name.to_owned(), sql.replace('?', "7"))
    };
    names.into_iter().map(read).collect()
}

on_both!(
    a_dirty_read_shows_rows_of_open_transactions_with_their_writer,
    one_insert_draws_growing_positions_in_the_order_of_its_rows,
    a_large_open_transaction_holds_up_nobody_and_comes_whole,
    positions_that_were_rolled_back_are_passed_over,
    writers_at_every_isolation_level_are_read_alike,
    keys_are_told_apart_by_their_bytes,
    a_plain_insert_is_enough,
    no_statement_of_the_relay_walks_over_the_backlog,
);
