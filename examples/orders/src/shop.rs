//! The shop: it changes its tables and enqueues what it has to tell, in one transaction.

use std::time::Duration;

use outbox::Message;
use outbox::postgres::Outbox;
use outbox::postgres::sqlx::{self, PgPool};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Several copies of the program may start at once, and `IF NOT EXISTS` alone does not keep two from creating the
/// same table: so one goes after the other. The lock's number is arbitrary.
const TABLES: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(7041776);
    CREATE TABLE IF NOT EXISTS shop_order (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        product text NOT NULL,
        quantity integer NOT NULL CHECK (quantity > 0),
        state text NOT NULL DEFAULT 'placed',
        placed_at timestamptz NOT NULL DEFAULT now()
    );
    COMMIT;
";
const PRODUCTS: [&str; 4] = ["teapot", "kettle", "whisk", "spoon"];

/// The topic of an order that was placed. Its payload is an [`OrderPlaced`].
pub(crate) const PLACED: &str = "order.placed";
/// The topic of an order that was paid. Its payload is an [`OrderPaid`].
pub(crate) const PAID: &str = "order.paid";

/// An order was placed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderPlaced {
    pub(crate) order: i64,
    pub(crate) product: String,
    pub(crate) quantity: i32,
}

/// An order was paid.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderPaid {
    pub(crate) order: i64,
}

/// The part that takes orders.
pub(crate) struct Shop {
    pool: PgPool,
    outbox: Outbox,
}

impl Shop {
    /// Makes its tables, if they are not there.
    pub(crate) async fn open(pool: PgPool, outbox: Outbox) -> anyhow::Result<Self> {
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        Ok(Self { pool, outbox })
    }

    /// Takes orders until it is told to stop or has taken `limit`. In the latter case it stays until all of its orders
    /// have been shipped. Says how many it has taken.
    pub(crate) async fn run(
        &self,
        limit: Option<u32>,
        pause: Duration,
        stop: &CancellationToken,
    ) -> anyhow::Result<usize> {
        let mut orders = Vec::new();
        for number in 0..limit.unwrap_or(u32::MAX) {
            if stop.is_cancelled() {
                break;
            }
            let product = PRODUCTS[number as usize % PRODUCTS.len()];
            let order = self.place(product, 1 + i32::try_from(number % 3)?).await?;
            self.pay(order).await?;
            println!("shop: order {order} ({product}) is placed and paid");
            orders.push(order);
            // Stopping cuts short only the pause, never a transaction.
            let _ = tokio::time::timeout(pause, stop.cancelled()).await;
        }
        while !stop.is_cancelled() && self.shipped(&orders).await? < orders.len() {
            let _ = tokio::time::timeout(Duration::from_millis(100), stop.cancelled()).await;
        }
        Ok(orders.len())
    }

    /// The order and the message about it: both or, if anything fails before the commit, neither.
    async fn place(&self, product: &str, quantity: i32) -> anyhow::Result<i64> {
        let mut transaction = self.pool.begin().await?;
        let order: i64 =
            sqlx::query_scalar("INSERT INTO shop_order (product, quantity) VALUES ($1, $2) RETURNING id")
                .bind(product)
                .bind(quantity)
                .fetch_one(&mut *transaction)
                .await?;
        let placed = OrderPlaced { order, product: product.to_owned(), quantity };
        let message = Message::json(PLACED, &placed)?.key(key(order)).build()?;
        self.outbox.enqueue(&mut *transaction, &message).await?;
        transaction.commit().await?;
        Ok(order)
    }

    async fn pay(&self, order: i64) -> anyhow::Result<()> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("UPDATE shop_order SET state = 'paid' WHERE id = $1")
            .bind(order)
            .execute(&mut *transaction)
            .await?;
        let message = Message::json(PAID, &OrderPaid { order })?.key(key(order)).build()?;
        self.outbox.enqueue(&mut *transaction, &message).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// How many of these orders have been shipped. A real shop would hear of it by a message; the shortcut through the
    /// warehouse's table is only for knowing when the program may end, whichever copy of it did the work.
    async fn shipped(&self, orders: &[i64]) -> anyhow::Result<usize> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM warehouse_order WHERE order_id = ANY($1) AND shipped_at IS NOT NULL",
        )
        .bind(orders)
        .fetch_one(&self.pool)
        .await?;
        Ok(usize::try_from(count)?)
    }
}

/// The events of one order are published in the order in which they were enqueued; those of different orders need
/// not wait for each other.
fn key(order: i64) -> String {
    format!("order-{order}")
}

/// How many orders, of this run or another, are paid and not shipped.
pub(crate) async fn waiting(pool: &PgPool) -> anyhow::Result<i64> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM shop_order WHERE state = 'paid' AND NOT EXISTS (
             SELECT FROM warehouse_order WHERE order_id = shop_order.id AND shipped_at IS NOT NULL)",
    )
    .fetch_one(pool)
    .await?;
    Ok(count)
}
