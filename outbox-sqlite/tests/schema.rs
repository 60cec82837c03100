//! The tables: their text, making them at the same time, refusing others, and the partition of a row.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::collections::HashMap;

use common::{DEADLINE, Database, options};
use outbox_core::{ErrorKind, Message, Store};
use outbox_sqlite::{Config, OpenOptions, Outbox, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row};

#[test]
fn the_ddl_is_what_it_was() {
    let outbox = Outbox::new(Config::new().partitions(16)).unwrap();
    insta::assert_snapshot!(outbox.ddl(), @r#"
    CREATE TABLE IF NOT EXISTS "outbox_message" (
        "position" INTEGER PRIMARY KEY AUTOINCREMENT CHECK ("position" > 0 OR "available_at" IS NOT NULL),
        "message_id" TEXT NOT NULL DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))),
        "topic" TEXT NOT NULL,
        "key" TEXT,
        "payload" BLOB NOT NULL,
        "content_type" TEXT,
        "headers" TEXT NOT NULL DEFAULT '{}',
        "options" TEXT NOT NULL DEFAULT '{}',
        "partition" INTEGER NOT NULL GENERATED ALWAYS AS (((((coalesce(unicode(substr(coalesce("key", "message_id"), 1, 1)), 0) * 926699317 + coalesce(unicode(substr(coalesce("key", "message_id"), -1, 1)), 0) * 2044470343 + coalesce(unicode(substr(coalesce("key", "message_id"), 2, 1)), 0) * 56766093 + coalesce(unicode(substr(coalesce("key", "message_id"), -2, 1)), 0) * 851408495 + coalesce(unicode(substr(coalesce("key", "message_id"), 3, 1)), 0) * 2084953173 + coalesce(unicode(substr(coalesce("key", "message_id"), -3, 1)), 0) * 1634308977 + coalesce(unicode(substr(coalesce("key", "message_id"), 4, 1)), 0) * 228377781 + coalesce(unicode(substr(coalesce("key", "message_id"), -4, 1)), 0) * 1125175327 + coalesce(unicode(substr(coalesce("key", "message_id"), 5, 1)), 0) * 702926727 + coalesce(unicode(substr(coalesce("key", "message_id"), -5, 1)), 0) * 1192213163 + coalesce(unicode(substr(coalesce("key", "message_id"), 6, 1)), 0) * 373378399 + coalesce(unicode(substr(coalesce("key", "message_id"), -6, 1)), 0) * 1520895883 + coalesce(unicode(substr(coalesce("key", "message_id"), 7, 1)), 0) * 1656883613 + coalesce(unicode(substr(coalesce("key", "message_id"), -7, 1)), 0) * 1113432011 + coalesce(unicode(substr(coalesce("key", "message_id"), 8, 1)), 0) * 527613001 + coalesce(unicode(substr(coalesce("key", "message_id"), -8, 1)), 0) * 1049936175 + length(coalesce("key", "message_id")) * 1896895517) % 2147483647) * 2654435761) >> 16 & 65535) % 16) STORED,
        "attempts" INTEGER NOT NULL DEFAULT 0 CHECK (typeof("attempts") = 'integer' AND "attempts" >= 0),
        "available_at" INTEGER CHECK ("available_at" IS NULL OR typeof("available_at") = 'integer'),
        "blocks_key" INTEGER NOT NULL DEFAULT 0 CHECK ("blocks_key" IN (0, 1)),
        "last_error" TEXT,
        "enqueued_at" INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000) CHECK (typeof("enqueued_at") = 'integer')
    );
    CREATE INDEX IF NOT EXISTS "outbox_message_ready" ON "outbox_message" ("partition", "position") WHERE "available_at" IS NULL;
    CREATE INDEX IF NOT EXISTS "outbox_message_waiting" ON "outbox_message" ("partition", "available_at", "position") WHERE "available_at" IS NOT NULL;
    CREATE INDEX IF NOT EXISTS "outbox_message_blocking" ON "outbox_message" ("partition", "key", "position") WHERE "blocks_key" = 1;
    CREATE INDEX IF NOT EXISTS "outbox_message_troubled" ON "outbox_message" ("position") WHERE "last_error" IS NOT NULL OR "blocks_key" = 1;
    CREATE TABLE IF NOT EXISTS "outbox_dead_letter" (
        "number" INTEGER PRIMARY KEY AUTOINCREMENT,
        "position" INTEGER NOT NULL,
        "message_id" TEXT,
        "topic" TEXT,
        "key" TEXT,
        "payload" BLOB,
        "content_type" TEXT,
        "headers" TEXT,
        "options" TEXT,
        "partition" INTEGER NOT NULL,
        "attempts" INTEGER NOT NULL,
        "blocks_key" INTEGER NOT NULL,
        "last_error" TEXT,
        "enqueued_at" INTEGER NOT NULL,
        "died_at" INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS "outbox_dead_letter_blocking" ON "outbox_dead_letter" ("partition", "key", "position") WHERE "blocks_key" = 1;
    CREATE INDEX IF NOT EXISTS "outbox_dead_letter_position" ON "outbox_dead_letter" ("position");
    CREATE TABLE IF NOT EXISTS "outbox_delivered" (
        "number" INTEGER PRIMARY KEY AUTOINCREMENT,
        "position" INTEGER NOT NULL,
        "message_id" TEXT,
        "topic" TEXT,
        "key" TEXT,
        "payload" BLOB,
        "content_type" TEXT,
        "headers" TEXT,
        "options" TEXT,
        "partition" INTEGER NOT NULL,
        "attempts" INTEGER NOT NULL,
        "enqueued_at" INTEGER NOT NULL,
        "delivered_at" INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS "outbox_delivered_delivered_at" ON "outbox_delivered" ("delivered_at");
    CREATE TABLE IF NOT EXISTS "outbox_lease" (
        "partition" INTEGER PRIMARY KEY,
        "owner" TEXT,
        "expires_at" INTEGER
    );
    CREATE TABLE IF NOT EXISTS "outbox_relay" (
        "relay" TEXT PRIMARY KEY,
        "expires_at" INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS "outbox_meta" (
        "name" TEXT PRIMARY KEY,
        "value" INTEGER NOT NULL
    );
    INSERT OR IGNORE INTO "outbox_lease" ("partition") WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 16 - 1) SELECT i FROM n;
    INSERT OR IGNORE INTO "outbox_meta" ("name", "value") VALUES ('schema_version', 1), ('partitions', 16);
    "#);
}

#[tokio::test]
async fn many_tasks_on_many_pools_may_migrate_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new.db");
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move {
                let pool = options(path).open().await?;
                let outbox = Outbox::new(Config::new())?;
                outbox.migrate(&pool).await?;
                outbox.enqueue(&pool, &Message::bytes("t", "x").build()?).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let pool = options(path).open().await.unwrap();
    let store = SqliteStore::new(pool, Config::new()).unwrap();
    assert_eq!(store.stats(100).await.unwrap().backlog.value, 10);
}

#[tokio::test]
async fn an_unknown_version_is_refused_by_everybody() {
    let database = Database::new().await;
    database.execute("UPDATE outbox_meta SET value = 99 WHERE name = 'schema_version'").await;
    let error = database.outbox.migrate(&database.pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("newer than this library"), "{error}");
    let error = database.store().stats(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("99"), "{error}");
    // A relay that was there before goes on once the tables are back.
    database.execute("UPDATE outbox_meta SET value = 1 WHERE name = 'schema_version'").await;
    database.outbox.migrate(&database.pool).await.unwrap();
}

#[tokio::test]
async fn another_number_of_partitions_is_refused_with_the_remedy() {
    let database = Database::new().await;
    let other = Outbox::new(Config::new().partitions(8)).unwrap();
    let error = other.migrate(&database.pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("tables: 16"), "{error}");
    // A store asks the tables.
    let store = other.store(database.pool.clone());
    let membership = store.heartbeat(outbox_core::RelayId::new(), DEADLINE).await.unwrap();
    assert_eq!(membership.partitions, 16);
}

#[tokio::test]
async fn missing_tables_are_told_apart_from_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let pool = options(directory.path().join("empty.db")).open().await.unwrap();
    let outbox = Outbox::new(Config::new()).unwrap();
    for error in [
        outbox.store(pool.clone()).stats(1).await.unwrap_err(),
        outbox.enqueue(&pool, &Message::bytes("t", "x").build().unwrap()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.to_string().contains("migrate()"), "{error}");
    }
    // The same store works once they are there.
    let store = outbox.store(pool.clone());
    assert!(store.stats(1).await.is_err());
    outbox.migrate(&pool).await.unwrap();
    store.stats(1).await.unwrap();
}

#[tokio::test]
async fn unsuitable_databases_are_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let base = SqliteConnectOptions::new().create_if_missing(true);
    for (name, options, part) in [
        ("delete.db", base.clone(), "journal_mode = WAL"),
        (
            "hasty.db",
            base.clone().journal_mode(SqliteJournalMode::Wal).busy_timeout(std::time::Duration::ZERO),
            "busy_timeout",
        ),
        (
            "utf16.db",
            base.clone().pragma("encoding", "'UTF-16le'").journal_mode(SqliteJournalMode::Wal),
            "UTF-8",
        ),
    ] {
        let pool = SqlitePoolOptions::new()
            .connect_with(options.filename(directory.path().join(name)))
            .await
            .unwrap();
        let outbox = Outbox::new(Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        let error = outbox.store(pool).stats(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn opening_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.db");
    std::fs::write(&text, "this is no database, whatever its name says; it is long enough to be read")
        .unwrap();
    for (options, kind) in [
        (OpenOptions::new(&text), ErrorKind::Config),
        (OpenOptions::new(directory.path().join("no/such/directory/x.db")), ErrorKind::Unavailable),
        (OpenOptions::new(":memory:"), ErrorKind::Config),
        (OpenOptions::new(""), ErrorKind::Config),
        (OpenOptions::new(directory.path().join("x")).max_connections(0), ErrorKind::Config),
        (
            OpenOptions::new(directory.path().join("x")).busy_timeout(std::time::Duration::ZERO),
            ErrorKind::Config,
        ),
    ] {
        let error = options.open().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn the_durability_is_as_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    for (durability, number) in [(outbox_sqlite::Durability::Full, 2), (outbox_sqlite::Durability::Normal, 1)]
    {
        let pool =
            OpenOptions::new(directory.path().join("x.db")).durability(durability).open().await.unwrap();
        let level: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await.unwrap();
        assert_eq!(level, number);
    }
}

#[tokio::test]
async fn typical_keys_spread_evenly() {
    let database = Database::new().await;
    for (name, key) in [
        ("counted", "'order-' || i"),
        ("padded", "printf('order-%08d', i)"),
        ("with a common end", "i || '-customers.eu-west-1'"),
        ("numbers", "CAST(i AS TEXT)"),
        ("uuids", "lower(hex(randomblob(16)))"),
        ("none, so the ids", "NULL"),
        ("mail addresses", "'user' || i || '@example.com'"),
        ("steps of 16", "'k' || (i * 16)"),
        ("steps of 1000", "'k' || (i * 1000)"),
    ] {
        database.execute("DELETE FROM outbox_message").await;
        database
            .execute(&format!(
                "INSERT INTO outbox_message (topic, payload, key) \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
                 SELECT 't', x'', {key} FROM n"
            ))
            .await;
        let counts = sqlx::query("SELECT partition, count(*) FROM outbox_message GROUP BY partition")
            .fetch_all(&database.pool)
            .await
            .unwrap();
        let counts: Vec<i64> = counts.iter().map(|row| row.get(1)).collect();
        // 625 on average; a perfect hash stays within 100 of it nearly always.
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(counts.len() == 16 && *least > 450 && *most < 800, "{name}: {counts:?}");
    }
}

#[tokio::test]
async fn every_row_has_a_partition_and_equal_keys_share_one() {
    let database = Database::with(Config::new().partitions(7)).await;
    let odd = [
        "''",
        "x''",
        "x'ff'",
        "CAST(x'ff' AS TEXT)",
        "CAST(x'c328' AS TEXT)",
        "17",
        "-1.5e300",
        "9e999",
        "char(0)",
        "'a' || char(0) || 'b'",
        "char(1114111)",
        "replace(hex(zeroblob(8)), '0', char(1114111))",
        "'ä€😀'",
        "replace(hex(zeroblob(500000)), '0', 'xy')",
        "zeroblob(1000000)",
        "NULL",
    ];
    for column in ["key", "message_id"] {
        for value in odd {
            if column == "message_id" && value == "NULL" {
                continue;
            }
            for _ in 0..2 {
                let sql = format!(
                    "INSERT INTO outbox_message (topic, payload, {column}) VALUES ('t', x'', {value})"
                );
                sqlx::query(AssertSqlSafe(sql)).execute(&database.pool).await.unwrap();
            }
        }
    }
    let rows = sqlx::query(
        "SELECT partition, CAST(coalesce(key, message_id) AS BLOB), typeof(key) FROM outbox_message",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let mut partitions = HashMap::new();
    for row in rows {
        let partition: i64 = row.get(0);
        assert!((0..7).contains(&partition));
        let seen = partitions.entry((row.get::<Vec<u8>, _>(1), row.get::<String, _>(2))).or_insert(partition);
        assert_eq!(*seen, partition);
    }
}

#[tokio::test]
async fn rows_that_would_break_the_relay_are_refused_at_once() {
    let database = Database::new().await;
    for (columns, values) in [
        ("topic", "NULL"),
        ("payload", "NULL"),
        ("message_id", "NULL"),
        ("headers", "NULL"),
        ("attempts", "-1"),
        ("attempts", "'many'"),
        ("available_at", "'2026-01-01'"),
        ("available_at", "x'00'"),
        ("enqueued_at", "'yesterday'"),
        ("blocks_key", "2"),
        ("position", "0"),
        ("position", "-5"),
    ] {
        let (topic, payload) = (columns == "topic", columns == "payload");
        let sql = match (topic, payload) {
            (true, _) => format!("INSERT INTO outbox_message (topic, payload) VALUES ({values}, x'')"),
            (_, true) => format!("INSERT INTO outbox_message (topic, payload) VALUES ('t', {values})"),
            _ => {
                format!("INSERT INTO outbox_message (topic, payload, {columns}) VALUES ('t', x'', {values})")
            }
        };
        assert!(sqlx::query(AssertSqlSafe(sql.clone())).execute(&database.pool).await.is_err(), "{sql}");
    }
}
