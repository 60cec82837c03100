//! Each program commits an order with its event and rolls another one back with its own. A relay delivers what is committed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use integration_tests::{Postgres, Server, eventually};
use outbox_core::Relay;
use outbox_core::memory::MemoryPublisher;
use outbox_postgres::{Config, Outbox};

/// Longer than any step takes; only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a program and returns what it printed.
async fn run(program: &'static str, url: &str) -> String {
    let url = url.to_owned();
    let run = move || Command::new(program).env("DATABASE_URL", url).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}\n{printed}", output.status);
    printed
}

async fn on_postgres(program: &'static str) {
    let Some(postgres) = Postgres::shared().await else { return };
    let database = postgres.database().await;
    let pool = database.pool(5).await;
    let outbox = Outbox::new(Config::new()).unwrap();
    outbox.migrate(&pool).await.unwrap();

    let printed = run(program, database.url()).await;
    assert!(printed.contains("order 18 is rolled back"), "{printed}");
    let orders: Vec<i64> = sqlx::query_scalar("SELECT id FROM orders").fetch_all(&pool).await.unwrap();
    assert_eq!(orders, [17]);

    let publisher = MemoryPublisher::new();
    let relay = Relay::builder(outbox.store(pool.clone()), publisher.clone()).build().unwrap().spawn();
    let delivered =
        eventually("the event to be delivered", DEADLINE, async || publisher.published().first().cloned())
            .await;
    relay.shutdown().await.unwrap();
    assert_eq!((delivered.message.topic(), delivered.message.key()), ("order.placed", Some("order-17")));
    assert_eq!(&delivered.message.payload()[..], br#"{"cents":4999,"order":17}"#);
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbox_message").fetch_one(&pool).await.unwrap();
    assert_eq!(waiting, 0);
    assert_eq!(publisher.published().len(), 1);
}

#[tokio::test]
async fn the_program_for_tokio_postgres_works() {
    on_postgres(env!("CARGO_BIN_EXE_tokio-postgres")).await;
}

#[tokio::test]
async fn the_program_for_diesel_async_works() {
    on_postgres(env!("CARGO_BIN_EXE_diesel-async")).await;
}
