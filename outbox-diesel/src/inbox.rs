//! The consumer's half.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::Connection;
use diesel::pg::Pg;
use diesel::query_dsl::methods::ExecuteDsl;
use outbox_core::{MessageId, Result};
use outbox_sql::inbox::check_consumer;
use outbox_sql::postgres::{Config, InboxStatements, Names};
use outbox_sql::text::micros;

use crate::error::map_error;
use crate::statements;

/// Tells new messages from repeats, in the transaction of a consumer.
///
/// Delivery is at least once, so a consumer receives some messages again. If it calls [`accept`](Self::accept) in the
/// transaction in which it does its work, the work for each message is done once: both the work and the entry are committed, or
/// neither of them.
///
/// The inbox is in the consumer's database, which need not be the database of the outbox. An `Inbox` holds no connection and is
/// cheap to clone.
///
/// ```no_run
/// use outbox_core::MessageId;
/// use outbox_diesel::diesel::{Connection, RunQueryDsl, pg::Pg, sql_query};
/// use outbox_diesel::{Config, Inbox, TransactionError};
///
/// # fn example(
/// #     connection: &mut impl Connection<Backend = Pg>,
/// #     id: MessageId,
/// # ) -> Result<(), TransactionError> {
/// let inbox = Inbox::new(Config::new())?;
/// connection.transaction::<_, TransactionError, _>(|connection| {
///     if inbox.accept(connection, "billing", id)? {
///         sql_query("INSERT INTO invoice (order_id) VALUES (17)").execute(connection)?;
///     }
///     Ok(())
/// })?;
/// // Now acknowledge the message to the broker.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Inbox {
    shared: Arc<Shared>,
}

struct Shared {
    table: String,
    statements: InboxStatements,
}

impl Inbox {
    /// Makes an inbox in the schema that the settings name, with the table `<prefix>_inbox`. Does not touch the database.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a table name is invalid.
    pub fn new(config: Config) -> Result<Self> {
        let names = Names::new(&config)?;
        let statements = InboxStatements::new(&names);
        Ok(Self { shared: Arc::new(Shared { table: names.inbox, statements }) })
    }

    /// Returns the statements that make the table, for a migration or for `batch_execute`. They can be run again.
    pub fn ddl(&self) -> &str {
        &self.shared.statements.ddl
    }

    /// Records the message for the consumer and returns true, or returns false if it is recorded already.
    ///
    /// Call it in the transaction in which the consumer does its work. If that is rolled back, the message is new again. While
    /// another open transaction has accepted the same message, this waits for the end of that transaction.
    ///
    /// `consumer` names this consumer among others with the same inbox: 1 to 255 bytes, without a NUL character or a space at
    /// the end.
    ///
    /// # Errors
    /// - [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if the consumer's name is invalid.
    /// - [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) at the isolation levels REPEATABLE READ and SERIALIZABLE, if
    ///   another transaction has accepted the message since this one began. Begin a new transaction.
    /// - Other kinds for other errors of the server.
    pub fn accept<C>(&self, connection: &mut C, consumer: &str, id: MessageId) -> Result<bool>
    where
        C: Connection<Backend = Pg>,
    {
        check_consumer(consumer)?;
        let statement = statements::accept(&self.shared.statements.accept, consumer, id);
        let inserted = ExecuteDsl::execute(statement, connection).map_err(map_error)?;
        Ok(inserted == 1)
    }

    /// Deletes up to `limit` entries that are older than `older_than` by the database's clock, and returns their number. Call it
    /// again while it returns `limit`.
    ///
    /// A message whose entry was deleted is new again. Keep entries for longer than the broker may take to deliver a message
    /// again.
    ///
    /// # Errors
    /// As the server reports them.
    pub fn purge<C>(&self, connection: &mut C, older_than: Duration, limit: usize) -> Result<u64>
    where
        C: Connection<Backend = Pg>,
    {
        let statement = self.purge_statement(older_than, limit);
        let purged = ExecuteDsl::execute(statement, connection).map_err(map_error)?;
        Ok(count(purged))
    }

    /// Records the message like [`accept`](Self::accept), on a connection of diesel-async.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    ///
    /// # Cancel safety
    /// A dropped call may have recorded the message. Roll the transaction back.
    #[cfg(feature = "async")]
    pub async fn accept_async<C>(&self, connection: &mut C, consumer: &str, id: MessageId) -> Result<bool>
    where
        C: diesel_async::AsyncConnection<Backend = Pg>,
    {
        check_consumer(consumer)?;
        let statement = statements::accept(&self.shared.statements.accept, consumer, id);
        let inserted =
            diesel_async::methods::ExecuteDsl::execute(statement, connection).await.map_err(map_error)?;
        Ok(inserted == 1)
    }

    /// Deletes old entries like [`purge`](Self::purge), on a connection of diesel-async.
    ///
    /// # Errors
    /// As the server reports them.
    ///
    /// # Cancel safety
    /// A dropped call has deleted all of its entries or none.
    #[cfg(feature = "async")]
    pub async fn purge_async<C>(&self, connection: &mut C, older_than: Duration, limit: usize) -> Result<u64>
    where
        C: diesel_async::AsyncConnection<Backend = Pg>,
    {
        let statement = self.purge_statement(older_than, limit);
        let purged =
            diesel_async::methods::ExecuteDsl::execute(statement, connection).await.map_err(map_error)?;
        Ok(count(purged))
    }

    fn purge_statement(
        &self,
        older_than: Duration,
        limit: usize,
    ) -> impl diesel::query_builder::QueryFragment<Pg> + diesel::query_builder::QueryId + Send + use<> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        statements::purge(&self.shared.statements.purge, micros(older_than), limit)
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("table", &self.shared.table).finish()
    }
}
