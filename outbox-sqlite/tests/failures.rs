//! Errors that a real database gives.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use common::{Database, message};
use outbox_core::{ErrorKind, RelayId, Store};
use outbox_sqlite::{Config, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

#[tokio::test]
async fn a_full_database_is_unavailable_and_spoils_no_connection() {
    let database = Database::new().await;
    let pages = database.number("PRAGMA page_count").await;
    let pool = SqlitePoolOptions::new()
        .max_connections(2)
        .connect_with(
            SqliteConnectOptions::new()
                .filename(database.path())
                .busy_timeout(common::DEADLINE)
                .pragma("max_page_count", (pages + 2).to_string()),
        )
        .await
        .unwrap();
    let big = outbox_core::Message::bytes("t", vec![1; 100_000]).build().unwrap();
    for _ in 0..6 {
        let error = database
            .outbox
            .transaction(&pool, async |connection| database.outbox.enqueue(connection, &big).await)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
        assert!(error.to_string().contains("full"), "{error}");
    }
    database
        .outbox
        .transaction(&pool, async |connection| database.outbox.enqueue(connection, &message("t", None)).await)
        .await
        .unwrap();
    assert_eq!(database.number("SELECT count(*) FROM outbox_message").await, 1);
}

#[tokio::test]
async fn a_database_that_may_only_be_read_is_a_matter_of_rights() {
    let database = Database::new().await;
    let pool = SqlitePoolOptions::new()
        .connect_with(SqliteConnectOptions::new().filename(database.path()).read_only(true))
        .await
        .unwrap();
    let store = SqliteStore::new(pool.clone(), Config::new()).unwrap();
    for error in [
        store.heartbeat(RelayId::new(), common::DEADLINE).await.unwrap_err(),
        database.outbox.enqueue(&pool, &message("t", None)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Permission, "{}", error.report());
    }
    // What only reads goes on.
    assert_eq!(store.stats(1).await.unwrap().backlog.value, 0);
}

#[tokio::test]
async fn tables_dropped_under_a_relay_are_missing_and_come_back() {
    let database = Database::new().await;
    let store = database.store();
    let (relay, mut reader) = common::relay(&store).await;
    database.execute("DROP TABLE outbox_message").await;
    assert_eq!(reader.fetch(common::ALL, &[]).await.unwrap_err().kind(), ErrorKind::Schema);
    for table in ["dead_letter", "delivered", "lease", "relay", "meta"] {
        database.execute(&format!("DROP TABLE outbox_{table}")).await;
    }
    assert_eq!(store.heartbeat(relay, common::DEADLINE).await.unwrap_err().kind(), ErrorKind::Schema);
    database.outbox.migrate(&database.pool).await.unwrap();
    assert_eq!(store.heartbeat(relay, common::DEADLINE).await.unwrap().owned.len(), 16);
    database.enqueue("t", None).await;
    assert_eq!(common::fetch(&mut reader).await.rows.len(), 1);
}

#[tokio::test]
async fn errors_hold_nothing_of_the_message() {
    let database = Database::new().await;
    let secret = outbox_core::Message::bytes("t", "secret payload").key("secret key").build().unwrap();
    database
        .execute("CREATE TRIGGER refuse BEFORE INSERT ON outbox_message BEGIN SELECT raise(FAIL, 'no'); END")
        .await;
    let error = database.outbox.enqueue(&database.pool, &secret).await.unwrap_err();
    assert!(!format!("{error:?} {}", error.report()).contains("secret"), "{error:?}");
}
