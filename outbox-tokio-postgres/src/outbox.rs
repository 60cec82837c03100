//! Enqueueing.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use outbox_core::{Message, Result, TraceContext};
use outbox_sql::postgres::{Config, Names, ddl, enqueueing};
use outbox_sql::trace::traced;
use tokio_postgres::{GenericClient, Statement};

use crate::error::map_error;
use crate::rows::{Batch, Row};

/// Writes messages to an outbox in a PostgreSQL database, in the transactions of a service.
///
/// **On a `Client` that is in no transaction, each call commits by itself.** Pass the `Transaction` in which the service makes
/// its change: the messages exist if and only if that transaction commits.
///
/// The functions take whatever implements [`GenericClient`]: a [`Client`](tokio_postgres::Client), a
/// [`Transaction`](tokio_postgres::Transaction), or a savepoint of one. Pools wrap these types; pass `&*transaction` where a
/// pool has a transaction type of its own, such as `deadpool_postgres::Transaction`.
///
/// An `Outbox` holds names and statements, and no connection. It is cheap to clone. The tables are made by `outbox migrate`, by
/// `outbox_postgres::Outbox::migrate`, or from [`ddl`](Self::ddl).
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
    trace: Option<Arc<dyn TraceContext>>,
}

struct Shared {
    config: Config,
    table: String,
    insert: String,
    insert_batch: String,
    ddl: String,
}

impl Outbox {
    /// Makes an outbox with the tables that the settings name. Does not touch the database.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a table name or the partition count is invalid.
    pub fn new(config: Config) -> Result<Self> {
        let names = Names::new(&config)?;
        let shared = Shared {
            insert: enqueueing::insert(&names),
            insert_batch: enqueueing::insert_batch(&names),
            ddl: ddl::all(&names),
            table: names.message,
            config,
        };
        Ok(Self { shared: Arc::new(shared), trace: None })
    }

    /// Adds the trace that is active at the time of the call to each message, unless the message has one. Default: no trace is
    /// added.
    #[must_use]
    pub fn with_trace_context(mut self, trace: Arc<dyn TraceContext>) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Returns the settings.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Enqueues a message in the transaction that `client` is in, in one round trip.
    ///
    /// The statement is parsed and planned by the server in each call. [`enqueue_prepared`](Self::enqueue_prepared) saves that.
    ///
    /// # Errors
    /// - [`ErrorKind::TooLarge`](outbox_core::ErrorKind::TooLarge) if the message has 1 GiB or more, before anything is sent, or
    ///   if a header has more than 256 MiB.
    /// - [`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed) if PostgreSQL does not have the time of delivery.
    /// - [`ErrorKind::Interrupted`](outbox_core::ErrorKind::Interrupted) if the connection broke.
    /// - Other kinds for other errors of the server. [`Error::driver_error`](outbox_core::Error::driver_error) returns the
    ///   error of tokio-postgres.
    ///
    /// After an error of the server, PostgreSQL refuses the rest of the transaction, as after each failed statement.
    ///
    /// # Cancel safety
    /// A dropped call may have inserted the message. Roll the transaction back.
    pub async fn enqueue<C: GenericClient>(&self, client: &C, message: &Message) -> Result<()> {
        let message = traced(message, self.trace.as_ref());
        let row = Row::of(&message)?;
        client.execute_typed(&self.shared.insert, &row.typed()).await.map_err(map_error)?;
        Ok(())
    }

    /// Enqueues a message like [`enqueue`](Self::enqueue), by a statement that was prepared from
    /// [`insert_sql`](Self::insert_sql) on the connection of `client`.
    ///
    /// `tokio_postgres::Client::prepare` prepares it. `deadpool_postgres` has `prepare_cached` for it, which does that once for
    /// each connection:
    ///
    /// ```no_run
    /// # async fn example(
    /// #     pool: deadpool_postgres::Pool,
    /// #     outbox: outbox_tokio_postgres::Outbox,
    /// #     message: outbox_core::Message,
    /// # ) -> anyhow::Result<()> {
    /// let mut client = pool.get().await?;
    /// let transaction = client.transaction().await?;
    /// let statement = transaction.prepare_cached(outbox.insert_sql()).await?;
    /// outbox.enqueue_prepared(&*transaction, &statement, &message).await?;
    /// transaction.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue). [`ErrorKind::Unavailable`](outbox_core::ErrorKind::Unavailable) if the connection does not
    /// know the statement, which was prepared on another one.
    ///
    /// # Cancel safety
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_prepared<C: GenericClient>(
        &self,
        client: &C,
        statement: &Statement,
        message: &Message,
    ) -> Result<()> {
        let message = traced(message, self.trace.as_ref());
        let row = Row::of(&message)?;
        client.execute(statement, &row.params()).await.map_err(map_error)?;
        Ok(())
    }

    /// Enqueues several messages in one statement and one round trip. Their positions have the order of the slice. An empty
    /// slice does nothing.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and [`ErrorKind::TooLarge`](outbox_core::ErrorKind::TooLarge) if the messages have 1 GiB
    /// or more together. After an error none of them is enqueued.
    ///
    /// # Cancel safety
    /// A dropped call has inserted all of the messages or none. Roll the transaction back.
    pub async fn enqueue_batch<C: GenericClient>(&self, client: &C, messages: &[Message]) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let messages = self.traced(messages);
        let batch = Batch::of(&messages)?;
        client.execute_typed(&self.shared.insert_batch, &batch.typed()).await.map_err(map_error)?;
        Ok(())
    }

    /// Enqueues several messages like [`enqueue_batch`](Self::enqueue_batch), by a statement that was prepared from
    /// [`insert_batch_sql`](Self::insert_batch_sql) on the connection of `client`.
    ///
    /// # Errors
    /// As [`enqueue_batch`](Self::enqueue_batch) and [`enqueue_prepared`](Self::enqueue_prepared).
    ///
    /// # Cancel safety
    /// As [`enqueue_batch`](Self::enqueue_batch).
    pub async fn enqueue_batch_prepared<C: GenericClient>(
        &self,
        client: &C,
        statement: &Statement,
        messages: &[Message],
    ) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let messages = self.traced(messages);
        let batch = Batch::of(&messages)?;
        client.execute(statement, &batch.params()).await.map_err(map_error)?;
        Ok(())
    }

    /// Returns the statement of [`enqueue_prepared`](Self::enqueue_prepared).
    pub fn insert_sql(&self) -> &str {
        &self.shared.insert
    }

    /// Returns the statement of [`enqueue_batch_prepared`](Self::enqueue_batch_prepared).
    pub fn insert_batch_sql(&self) -> &str {
        &self.shared.insert_batch
    }

    /// Returns the statements that make the tables of a new outbox, for a migration tool. Run them with `batch_execute`.
    ///
    /// Without such a tool, `outbox migrate` makes the tables and brings them up to date.
    pub fn ddl(&self) -> &str {
        &self.shared.ddl
    }

    fn traced<'m>(&self, messages: &'m [Message]) -> Vec<Cow<'m, Message>> {
        messages.iter().map(|message| traced(message, self.trace.as_ref())).collect()
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("table", &self.shared.table)
            .field("traces", &self.trace.is_some())
            .finish()
    }
}
