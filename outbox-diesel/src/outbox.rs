//! Enqueueing.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use diesel::connection::Connection;
use diesel::pg::Pg;
use diesel::query_dsl::methods::ExecuteDsl;
use outbox_core::{Message, Result, TraceContext};
use outbox_sql::postgres::{Config, Names, ddl, enqueueing};
use outbox_sql::trace::traced;

use crate::error::map_error;
use crate::statements::{insert, insert_batch};

/// Writes messages to an outbox in a PostgreSQL database, in the transactions of a service.
///
/// **On a connection that is in no transaction, each call commits by itself.** Call the functions in the closure of
/// `connection.transaction`: the messages exist if and only if that transaction commits.
///
/// The functions take any connection of diesel with the backend [`Pg`], pooled ones included. With the feature `async`, those whose
/// names end in `_async` take connections of diesel-async.
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

    /// Enqueues a message in the transaction that the connection is in.
    ///
    /// # Errors
    /// - [`ErrorKind::TooLarge`](outbox_core::ErrorKind::TooLarge) if the message has 1 GiB or more, before anything is sent.
    /// - Other kinds for errors of the server; see [`map_error`]. [`Error::driver_error`](outbox_core::Error::driver_error)
    ///   returns the error of diesel.
    ///
    /// After an error of the server, PostgreSQL refuses the rest of the transaction, as after each failed statement.
    pub fn enqueue<C>(&self, connection: &mut C, message: &Message) -> Result<()>
    where
        C: Connection<Backend = Pg>,
    {
        let message = traced(message, self.trace.as_ref());
        let statement = insert(&self.shared.insert, &message)?;
        ExecuteDsl::execute(statement, connection).map_err(map_error)?;
        Ok(())
    }

    /// Enqueues several messages in one statement. Their positions have the order of the slice. An empty slice does nothing.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and [`ErrorKind::TooLarge`](outbox_core::ErrorKind::TooLarge) if the messages have 1 GiB
    /// or more together. After an error none of them is enqueued.
    pub fn enqueue_batch<C>(&self, connection: &mut C, messages: &[Message]) -> Result<()>
    where
        C: Connection<Backend = Pg>,
    {
        if messages.is_empty() {
            return Ok(());
        }
        let messages = self.traced(messages);
        let statement = insert_batch(&self.shared.insert_batch, &messages)?;
        ExecuteDsl::execute(statement, connection).map_err(map_error)?;
        Ok(())
    }

    /// Enqueues a message like [`enqueue`](Self::enqueue), on a connection of diesel-async.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    /// A dropped call may have inserted the message. Roll the transaction back.
    #[cfg(feature = "async")]
    pub async fn enqueue_async<C>(&self, connection: &mut C, message: &Message) -> Result<()>
    where
        C: diesel_async::AsyncConnection<Backend = Pg>,
    {
        let message = traced(message, self.trace.as_ref());
        let statement = insert(&self.shared.insert, &message)?;
        diesel_async::methods::ExecuteDsl::execute(statement, connection).await.map_err(map_error)?;
        Ok(())
    }

    /// Enqueues several messages like [`enqueue_batch`](Self::enqueue_batch), on a connection of diesel-async.
    ///
    /// # Errors
    /// As [`enqueue_batch`](Self::enqueue_batch).
    ///
    /// # Cancel safety
    /// A dropped call has inserted all of the messages or none. Roll the transaction back.
    #[cfg(feature = "async")]
    pub async fn enqueue_batch_async<C>(&self, connection: &mut C, messages: &[Message]) -> Result<()>
    where
        C: diesel_async::AsyncConnection<Backend = Pg>,
    {
        if messages.is_empty() {
            return Ok(());
        }
        let messages = self.traced(messages);
        let statement = insert_batch(&self.shared.insert_batch, &messages)?;
        diesel_async::methods::ExecuteDsl::execute(statement, connection).await.map_err(map_error)?;
        Ok(())
    }

    /// Returns the statements that make the tables of a new outbox, for a migration of diesel or another tool.
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
