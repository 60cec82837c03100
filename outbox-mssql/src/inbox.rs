//! The consumer's half: which messages it has seen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite};
use outbox_core::{MessageId, Result};
use outbox_sql::inbox::check_consumer;
use tiberius::error::Error;
use tiberius::{Client, ToSql};

use crate::call::{again, begin, commit, execute, query};
use crate::config::{Config, Names};
use crate::error::map_error;
use crate::group::span;
use crate::migrate::batch;
use crate::pool::Pool;
use crate::row::Columns;
use crate::sql::InboxStatements;
use crate::store::number;

/// A duplicate key, of an index or of a constraint.
const DUPLICATE: [u32; 2] = [2601, 2627];

/// Tells new messages from repeats, within the consumer's own transaction.
///
/// Delivery is at least once, so that a consumer sees some messages again. If it asks the inbox in the transaction in
/// which it does its work, the work of each message is done once: either both the work and the entry are committed, or
/// none of them.
///
/// It is in the consumer's database, which need not be the one of the outbox. It holds no connection and is cheap to
/// clone.
///
/// ```no_run
/// use outbox_core::MessageId;
/// use outbox_mssql::{Config, Inbox, Pool};
///
/// # async fn example(pool: Pool, id: MessageId) -> anyhow::Result<()> {
/// let inbox = Inbox::new(Config::new())?;
/// let mut client = pool.get().await?;
/// client.begin_transaction().await?;
/// if inbox.accept(&mut client, "billing", id).await? {
///     client.execute("INSERT INTO invoice (order_id) VALUES (@P1)", &[&17]).await?;
/// }
/// client.commit_transaction().await?;
/// // Now the broker may be told that the message is done.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Inbox {
    names: Arc<Names>,
    statements: Arc<InboxStatements>,
}

impl Inbox {
    /// An inbox in the schema that the settings name, in a table called `…_inbox` behind their prefix.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name cannot be.
    pub fn new(config: Config) -> Result<Self> {
        let names = Names::new(&config)?;
        let statements = Arc::new(InboxStatements::new(&names));
        Ok(Self { names: Arc::new(names), statements })
    }

    /// The statements that [`migrate`](Self::migrate) runs, for people who manage their tables with another tool. They
    /// are one batch, and can be run again.
    pub fn ddl(&self) -> String {
        self.statements.ddl.clone()
    }

    /// Makes the table, unless it is there. Any number of processes may call this at once.
    ///
    /// # Errors
    /// What the database says, such as [`ErrorKind::Permission`](outbox_core::ErrorKind::Permission).
    ///
    /// # Cancel safety
    /// A dropped call has made all or nothing.
    pub async fn migrate(&self, pool: &Pool) -> Result<()> {
        again(|| async move {
            let mut tx = begin(pool).await?;
            execute(&mut tx, &self.statements.lock, &[&self.names.migrate_lock]).await?;
            batch(&mut tx, &self.statements.ddl).await?;
            commit(tx).await
        })
        .await
    }

    /// Whether the message is new to the consumer, and takes note of it. To be called in the transaction in which the
    /// consumer does its work; if that is rolled back, the message is new again.
    ///
    /// While another transaction has accepted the same message and is open, this waits for it. Whoever comes second
    /// gets `false`, and may go on in its transaction. `consumer` is any name of 1 to 255 bytes that tells this
    /// consumer from others on the same inbox.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if the consumer's name cannot be.
    /// [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) after a deadlock, or if the wait was too long: begin
    /// anew. What else the database says.
    ///
    /// # Cancel safety
    /// After a dropped call the entry may be there or not. Throw the client away; tiberius' calls are not cancel-safe.
    pub async fn accept<S>(&self, client: &mut Client<S>, consumer: &str, id: MessageId) -> Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        check_consumer(consumer)?;
        let statement = self.statements.accept.as_str();
        match client.execute(statement, &[&consumer, id.as_uuid()]).await {
            Ok(accepted) => Ok(accepted.total() == 1),
            // The index is made to ignore duplicates, which not every server knows that speaks T-SQL. The statement has
            // done nothing then, and unless the session has XACT_ABORT ON, the transaction goes on.
            Err(Error::Server(error)) if DUPLICATE.contains(&error.code()) => Ok(false),
            Err(error) => Err(map_error(error)),
        }
    }

    /// Deletes at most `limit` entries that are older than `older_than`, by the database's clock, and says how many:
    /// call it again while it is `limit`. A message whose entry was deleted is new again, so keep entries for longer
    /// than the broker may take to deliver a message once more.
    ///
    /// # Errors
    /// What the database says.
    ///
    /// # Cancel safety
    /// A dropped call has deleted all of its entries or none.
    pub async fn purge(&self, pool: &Pool, older_than: Duration, limit: usize) -> Result<u64> {
        let (seconds, micros) = span(older_than);
        again(|| async move {
            let mut client = pool.call().await?;
            let parameters: [&dyn ToSql; 3] = [&seconds, &micros, &number(limit)];
            let rows = query(&mut client, &self.statements.purge, &parameters).await?.rows();
            client.give_back();
            Ok(rows.first().map_or(Ok(0), |row| Columns(row).count(0))? as u64)
        })
        .await
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("table", &self.names.inbox).finish()
    }
}
