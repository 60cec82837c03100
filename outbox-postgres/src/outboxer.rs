//! Moving what is left in the table of *outboxer*, a library for Go, into the outbox.

use outbox_core::{Message, Result};
use outbox_sql::outboxer::{Event, table_parts};
use outbox_sql::postgres::quote;
use sqlx::{AssertSqlSafe, PgPool};

use crate::error::map_error;
use crate::outbox::Outbox;
use crate::transaction::begin;

/// A row of outboxer's table: its number, payload, options and headers.
type Row = (i64, Vec<u8>, Option<String>, Option<String>);

impl Outbox {
    /// Moves up to `limit` events that outboxer (the library for Go) has not dispatched from its table into the outbox,
    /// the oldest first, and says how many: call it until that is zero. `message` makes a message of each event;
    /// `Event::amqp` and its like do what outboxer's own event streams did.
    ///
    /// The events are deleted there in the transaction in which the messages are enqueued here, so that each is in
    /// exactly one of the two whatever happens. Services may go on writing to outboxer's table meanwhile. But stop
    /// outboxer's dispatcher first: it sends what it has read even if it was moved since.
    ///
    /// `table` is the table's name, usually `event_store`, behind its schema and a dot if that is not on the
    /// connection's search path. Both are taken as they are, upper case included.
    ///
    /// ```no_run
    /// # use outbox_postgres::{Config, Outbox};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), outbox_core::Error> {
    /// let outbox = Outbox::new(Config::new())?;
    /// while outbox.import_outboxer(&pool, "event_store", 1000, |event| event.amqp()).await? > 0 {}
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first error of `message`, or what the database says. Nothing of this call is moved then.
    ///
    /// # Cancel safety
    /// A dropped call has moved all or nothing.
    pub async fn import_outboxer<F>(
        &self,
        pool: &PgPool,
        table: &str,
        limit: usize,
        message: F,
    ) -> Result<u64>
    where
        F: Fn(&Event) -> Result<Message>,
    {
        let parts = table_parts(table)?;
        let parts = parts.into_iter().map(|part| quote("table", part)).collect::<Result<Vec<_>>>()?;
        let table = parts.join(".");
        let mut tx = begin(pool).await?;
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT id::bigint, payload, options::text, headers::text FROM {table}
WHERE NOT dispatched ORDER BY id LIMIT $1 FOR UPDATE"
        )))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx)
        .await
        .map_err(map_error)?;
        let mut ids = Vec::with_capacity(rows.len());
        let mut messages = Vec::with_capacity(rows.len());
        for (id, payload, options, headers) in rows {
            let (options, headers) =
                (options.as_ref().map(String::as_bytes), headers.as_ref().map(String::as_bytes));
            let event = Event::read(id, payload, options, headers)?;
            messages.push(message(&event)?);
            ids.push(id);
        }
        self.enqueue_batch(&mut *tx, &messages).await?;
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE id = ANY ($1)")))
            .bind(&ids)
            .execute(&mut *tx)
            .await
            .map_err(map_error)?;
        tx.commit().await.map_err(map_error)?;
        Ok(ids.len() as u64)
    }
}
