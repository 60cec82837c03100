//! The consumer's half.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{MessageId, Result};
use outbox_sql::inbox::check_consumer;
use outbox_sql::postgres::{Config, InboxStatements, Names};
use outbox_sql::text::micros;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::error::map_error;
use crate::values::Id;

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
/// use outbox_tokio_postgres::{Config, Inbox, tokio_postgres};
///
/// # async fn example(mut client: tokio_postgres::Client, id: MessageId) -> anyhow::Result<()> {
/// let inbox = Inbox::new(Config::new())?;
/// let transaction = client.transaction().await?;
/// if inbox.accept(&transaction, "billing", id).await? {
///     transaction.execute("INSERT INTO invoice (order_id) VALUES (17)", &[]).await?;
/// }
/// transaction.commit().await?;
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

    /// Returns the statements that make the table, for a migration tool or for `batch_execute`. They can be run again.
    pub fn ddl(&self) -> &str {
        &self.shared.statements.ddl
    }

    /// Records the message for the consumer and returns true, or returns false if it is recorded already.
    ///
    /// Pass the transaction in which the consumer does its work. If that is rolled back, the message is new again. While another
    /// open transaction has accepted the same message, this waits for the end of that transaction.
    ///
    /// `consumer` names this consumer among others with the same inbox: 1 to 255 bytes, without a NUL character or a space at
    /// the end.
    ///
    /// # Errors
    /// - [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if the consumer's name is invalid.
    /// - [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) at the isolation levels REPEATABLE READ and SERIALIZABLE, if
    ///   another transaction has accepted the message since this one began. Begin a new transaction.
    /// - Other kinds for other errors of the server.
    ///
    /// # Cancel safety
    /// A dropped call may have recorded the message. Roll the transaction back.
    pub async fn accept<C: GenericClient>(&self, client: &C, consumer: &str, id: MessageId) -> Result<bool> {
        check_consumer(consumer)?;
        let inserted = client
            .execute_typed(&self.shared.statements.accept, &[(&consumer, Type::TEXT), (&Id(id), Type::UUID)])
            .await
            .map_err(map_error)?;
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
    ///
    /// # Cancel safety
    /// A dropped call has deleted all of its entries or none.
    pub async fn purge<C: GenericClient>(
        &self,
        client: &C,
        older_than: Duration,
        limit: usize,
    ) -> Result<u64> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        client
            .execute_typed(
                &self.shared.statements.purge,
                &[(&micros(older_than), Type::INT8), (&limit, Type::INT8)],
            )
            .await
            .map_err(map_error)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("table", &self.shared.table).finish()
    }
}
