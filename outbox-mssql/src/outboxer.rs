//! Moving what is left in the table of *outboxer*, a library for Go, into the outbox.

use outbox_core::{Message, Result};
use outbox_sql::outboxer::{Event, table_parts};
use tiberius::Row;

use crate::call::{begin, commit, query};
use crate::config::quote;
use crate::outbox::Outbox;
use crate::pool::Pool;
use crate::row::Columns;
use crate::store::number;

impl Outbox {
    /// Moves up to `limit` events that outboxer (the library for Go) has not dispatched from its table into the outbox,
    /// the oldest first, and says how many: call it until that is zero. `message` makes a message of each event;
    /// `Event::amqp` and its like do what outboxer's own event streams did.
    ///
    /// The events are deleted there in the transaction in which the messages are enqueued here, so that each is in
    /// exactly one of the two whatever happens. Services may go on writing to outboxer's table meanwhile. But stop
    /// outboxer's dispatcher first: it sends what it has read even if it was moved since.
    ///
    /// `table` is the table's name, usually `event_store`, behind its schema and a dot if that is not the one of the
    /// login.
    ///
    /// ```no_run
    /// # use outbox_mssql::{Config, Outbox, Pool};
    /// # async fn example(pool: Pool) -> Result<(), outbox_core::Error> {
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
    pub async fn import_outboxer<F>(&self, pool: &Pool, table: &str, limit: usize, message: F) -> Result<u64>
    where
        F: Fn(&Event) -> Result<Message>,
    {
        let parts = table_parts(table)?;
        let parts = parts.into_iter().map(|part| quote("table", part)).collect::<Result<Vec<_>>>()?;
        let table = parts.join(".");
        let mut tx = begin(pool).await?;
        let take = format!(
            "DELETE e OUTPUT deleted.id, deleted.payload, deleted.options, deleted.headers
FROM (SELECT TOP (@P1) o.id FROM {table} AS o WHERE o.dispatched = 0 ORDER BY o.id) AS s
INNER JOIN {table} AS e ON e.id = s.id"
        );
        let rows = query(&mut tx, &take, &[&number(limit)]).await?.rows();
        let mut events = rows.iter().map(read).collect::<Result<Vec<Event>>>()?;
        events.sort_unstable_by_key(|event| event.id);
        let messages = events.iter().map(message).collect::<Result<Vec<_>>>()?;
        self.enqueue_batch(&mut tx, &messages).await?;
        commit(tx).await?;
        Ok(messages.len() as u64)
    }
}

fn read(row: &Row) -> Result<Event> {
    let row = Columns(row);
    let payload = row.bytes(1)?.unwrap_or_default().to_vec();
    let (options, headers) = (row.text(2)?.map(str::as_bytes), row.text(3)?.map(str::as_bytes));
    Event::read(row.required(0)?, payload, options, headers)
}
