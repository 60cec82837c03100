//! Takes orders and enqueues their events in the same transactions, with tokio-postgres and deadpool-postgres.

#![allow(clippy::print_stderr)]

use anyhow::{Context, Result, ensure};
use deadpool_postgres::{Manager, Pool};
use outbox::Message;
use outbox::tokio_postgres::tokio_postgres::NoTls;
use outbox::tokio_postgres::{Config, Outbox};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let pool = Pool::builder(Manager::new(url.parse()?, NoTls)).build()?;
    // `outbox migrate` has made the outbox's tables.
    let outbox = Outbox::new(Config::new())?;

    let client = pool.get().await?;
    client
        .batch_execute("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, cents bigint NOT NULL)")
        .await?;
    drop(client);

    take_order(&pool, &outbox, 17, 4999).await?;
    if let Err(error) = take_order(&pool, &outbox, 18, -1).await {
        eprintln!("order 18 is rolled back, and its event with it: {error}");
    }
    Ok(())
}

async fn take_order(pool: &Pool, outbox: &Outbox, order: i64, cents: i64) -> Result<()> {
    let mut client = pool.get().await?;
    // Dropped without a commit, a transaction is rolled back.
    let transaction = client.transaction().await?;
    transaction.execute("INSERT INTO orders (id, cents) VALUES ($1, $2)", &[&order, &cents]).await?;
    let event = Message::json("order.placed", &json!({ "order": order, "cents": cents }))?
        .key(format!("order-{order}"))
        .build()?;
    let statement = transaction.prepare_cached(outbox.insert_sql()).await?;
    outbox.enqueue_prepared(&*transaction, &statement, &event).await?;
    ensure!(cents > 0, "the amount is not positive");
    transaction.commit().await?;
    Ok(())
}
