//! The warehouse: a consumer that handles every message once, although it may be delivered more often.
//!
//! Duplicates are rare, and cannot be ruled out: a relay that dies after the broker's confirm and before it has
//! recorded it publishes the message again, and so does RabbitMQ after a consumer that dies before its
//! acknowledgement. They all have the same message id. So the warehouse writes down the id of each message in the
//! same transaction as the work; a message whose id is there already has been done.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use outbox::MessageId;
use outbox::amqp::lapin::message::Delivery;
use outbox::amqp::lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
};
use outbox::amqp::lapin::types::FieldTable;
use outbox::amqp::lapin::{self, Connection, ConnectionProperties, Consumer};
use outbox::postgres::sqlx::{self, PgPool, PgTransaction};
use tokio_util::sync::CancellationToken;

use crate::QUEUE;
use crate::shop::{OrderPaid, OrderPlaced, PAID, PLACED};

/// `processed_message` grows for ever. Rows older than any duplicate could be, a week say, may be deleted.
const TABLES: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(7041776);
    CREATE TABLE IF NOT EXISTS processed_message (
        message_id uuid PRIMARY KEY,
        processed_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS warehouse_order (
        order_id bigint PRIMARY KEY,
        product text NOT NULL,
        quantity integer NOT NULL,
        shipped_at timestamptz
    );
    COMMIT;
";
/// How many deliveries RabbitMQ sends ahead of the acknowledgements.
const PREFETCH: u16 = 50;
/// Before the next try, after the broker or the database has failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long RabbitMQ may take for an answer. By itself the client library waits for ever, if the connection ends while it is
/// being asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a run has done.
#[derive(Default)]
pub(crate) struct Tally {
    /// Orders shipped.
    pub(crate) orders: u64,
    /// Deliveries of messages that had been processed before.
    pub(crate) duplicates: u64,
    /// Deliveries that could not be understood.
    pub(crate) refused: u64,
}

/// The part that ships orders.
pub(crate) struct Warehouse {
    pool: PgPool,
    broker: String,
}

/// What became of a delivery.
enum Handled {
    Noted,
    Shipped { order: i64 },
    Duplicate,
}

/// Why a delivery was not handled.
enum Problem {
    /// Nobody will ever understand it.
    Delivery(anyhow::Error),
    /// The database failed; it will do later.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Warehouse {
    /// Makes its tables, if they are not there.
    pub(crate) async fn open(pool: PgPool, broker: String) -> anyhow::Result<Self> {
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        Ok(Self { pool, broker })
    }

    /// Consumes until it is told to stop. If the broker or the database fails, it begins again after a pause: what it
    /// had not acknowledged by then, RabbitMQ delivers once more.
    pub(crate) async fn run(&self, stop: &CancellationToken) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        while !stop.is_cancelled() {
            if let Err(error) = self.consume(stop, &mut tally).await {
                eprintln!("warehouse: {error:#}; next try in {PAUSE:?}");
                let _ = tokio::time::timeout(PAUSE, stop.cancelled()).await;
            }
        }
        Ok(tally)
    }

    async fn consume(&self, stop: &CancellationToken, tally: &mut Tally) -> anyhow::Result<()> {
        let (connection, mut deliveries) = tokio::select! {
            subscribed = in_time("subscribing", self.subscribe()) => subscribed?,
            () = stop.cancelled() => return Ok(()),
        };
        loop {
            // Stopping waits for the delivery at work; those behind it go back to the queue.
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                delivery = deliveries.next() => delivery.context("RabbitMQ has ended the consumer")??,
            };
            match self.handle(&delivery).await {
                Ok(handled) => {
                    tally.count(&handled, &delivery);
                    // Only now that it is committed. If this gets lost, a duplicate comes, and is dropped.
                    in_time("acknowledging", delivery.ack(BasicAckOptions::default())).await?;
                }
                Err(Problem::Delivery(error)) => {
                    eprintln!("warehouse: refuses a delivery: {error:#}");
                    tally.refused += 1;
                    // Not back into this queue, where it would come round for ever, but to the queue for such cases.
                    in_time("refusing", delivery.reject(BasicRejectOptions { requeue: false })).await?;
                }
                Err(Problem::Database(error)) => {
                    // Closing the connection gives everything unacknowledged back to the queue.
                    let _ = in_time("closing", connection.close(200, "the database failed".into())).await;
                    return Err(error).context("cannot handle a delivery");
                }
            }
        }
        in_time("closing", connection.close(200, "stopped".into())).await
    }

    /// A connection, and what comes out of the queue by it.
    async fn subscribe(&self) -> lapin::Result<(Connection, Consumer)> {
        let properties = ConnectionProperties::default().with_connection_name("orders: warehouse".into());
        let connection = Connection::connect(&self.broker, properties).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let deliveries =
            channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await?;
        Ok((connection, deliveries))
    }

    /// Does what a message says, and remembers its id, in one transaction.
    async fn handle(&self, delivery: &Delivery) -> Result<Handled, Problem> {
        let id = message_id(delivery).map_err(Problem::Delivery)?;
        let mut transaction = self.pool.begin().await?;
        let new =
            sqlx::query("INSERT INTO processed_message (message_id) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(id.as_uuid())
                .execute(&mut *transaction)
                .await?;
        if new.rows_affected() == 0 {
            return Ok(Handled::Duplicate);
        }
        let handled = match delivery.routing_key.as_str() {
            PLACED => note(&mut transaction, read(&delivery.data)?).await?,
            PAID => ship(&mut transaction, read(&delivery.data)?).await?,
            other => return Err(Problem::Delivery(anyhow::anyhow!("what is {other:?}?"))),
        };
        transaction.commit().await?;
        Ok(handled)
    }
}

/// Waits for RabbitMQ, but not for ever.
async fn in_time<T>(doing: &str, answer: impl Future<Output = lapin::Result<T>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer
        .with_context(|| format!("{doing}: no answer from RabbitMQ within {PATIENCE:?}"))?
        .with_context(|| doing.to_owned())
}

impl Tally {
    fn count(&mut self, handled: &Handled, delivery: &Delivery) {
        match handled {
            Handled::Noted => {}
            Handled::Shipped { order } => {
                println!("warehouse: order {order} is shipped");
                self.orders += 1;
            }
            Handled::Duplicate => {
                println!("warehouse: drops a duplicate of {}", delivery.routing_key);
                self.duplicates += 1;
            }
        }
    }
}

/// The id that the message got when it was enqueued, the same in every copy.
fn message_id(delivery: &Delivery) -> anyhow::Result<MessageId> {
    let id = delivery.properties.message_id().as_ref().context("it has no message id")?;
    Ok(id.as_str().parse()?)
}

fn read<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(payload)
        .map_err(|error| Problem::Delivery(anyhow::Error::new(error).context("its payload makes no sense")))
}

async fn note(transaction: &mut PgTransaction<'_>, placed: OrderPlaced) -> Result<Handled, Problem> {
    sqlx::query("INSERT INTO warehouse_order (order_id, product, quantity) VALUES ($1, $2, $3)")
        .bind(placed.order)
        .bind(placed.product)
        .bind(placed.quantity)
        .execute(&mut **transaction)
        .await?;
    Ok(Handled::Noted)
}

/// Relies on the order of a key, and on being the queue's only active consumer: an order is placed before it is paid.
async fn ship(transaction: &mut PgTransaction<'_>, paid: OrderPaid) -> Result<Handled, Problem> {
    let shipped = sqlx::query(
        "UPDATE warehouse_order SET shipped_at = now() WHERE order_id = $1 AND shipped_at IS NULL",
    )
    .bind(paid.order)
    .execute(&mut **transaction)
    .await?;
    let known = || -> anyhow::Result<()> {
        ensure!(shipped.rows_affected() == 1, "order {} was never placed, or is paid twice", paid.order);
        Ok(())
    };
    known().map_err(Problem::Delivery)?;
    Ok(Handled::Shipped { order: paid.order })
}
