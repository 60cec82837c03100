//! Takes orders and enqueues their events in the same transactions, with diesel-async.

#![allow(clippy::print_stderr)]

use anyhow::{Context, Result};
use outbox::diesel::diesel::result::Error as DieselError;
use outbox::diesel::diesel::sql_query;
use outbox::diesel::diesel::sql_types::BigInt;
use outbox::diesel::diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use outbox::diesel::{Config, Outbox, TransactionError};
use outbox::{Message, OutboxMessage};
use serde::Serialize;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "order.placed", key = "order")]
struct OrderPlaced {
    cents: i64,
    order: OrderId,
}

#[derive(Clone, Copy, Serialize)]
struct OrderId(i64);

impl std::fmt::Display for OrderId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "order-{}", self.0)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let mut connection = AsyncPgConnection::establish(&url).await?;
    // `outbox migrate` has made the outbox's tables.
    let outbox = Outbox::new(Config::new())?;

    sql_query("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, cents bigint NOT NULL)")
        .execute(&mut connection)
        .await?;

    take_order(&mut connection, &outbox, OrderId(17), 4999).await?;
    if let Err(error) = take_order(&mut connection, &outbox, OrderId(18), -1).await {
        eprintln!("order 18 is rolled back, and its event with it: {error}");
    }
    Ok(())
}

async fn take_order(
    connection: &mut AsyncPgConnection,
    outbox: &Outbox,
    order: OrderId,
    cents: i64,
) -> Result<(), TransactionError> {
    connection
        .transaction::<(), TransactionError, _>(async |connection| {
            sql_query("INSERT INTO orders (id, cents) VALUES ($1, $2)")
                .bind::<BigInt, _>(order.0)
                .bind::<BigInt, _>(cents)
                .execute(connection)
                .await?;
            let event: Message = OrderPlaced { cents, order }.to_message()?;
            outbox.enqueue_async(connection, &event).await?;
            // An error rolls everything back.
            if cents < 0 { Err(DieselError::RollbackTransaction.into()) } else { Ok(()) }
        })
        .await
}
