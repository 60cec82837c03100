//! The consumer's half: which messages it has seen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{MessageId, Result};
use outbox_sql::inbox::check_consumer;
use outbox_sql::postgres::{Config, InboxStatements, Names};
use outbox_sql::text::micros;
use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres, SqlSafeStr as _, SqlStr};

use crate::error::map_error;
use crate::transaction::begin;

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
/// use outbox_postgres::{Config, Inbox, sqlx};
///
/// # async fn example(pool: sqlx::PgPool, id: MessageId) -> anyhow::Result<()> {
/// let inbox = Inbox::new(Config::new())?;
/// let mut tx = pool.begin().await?;
/// if inbox.accept(&mut *tx, "billing", id).await? {
///     sqlx::query("INSERT INTO invoice (order_id) VALUES (17)").execute(&mut *tx).await?;
/// }
/// tx.commit().await?;
/// // Now the broker may be told that the message is done.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Inbox {
    names: Arc<Names>,
    statements: Arc<Statements>,
}

struct Statements {
    ddl: String,
    create: SqlStr,
    accept: SqlStr,
    purge: SqlStr,
}

impl Inbox {
    /// An inbox in the schema that the settings name, in a table called `…_inbox` behind their prefix.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name cannot be.
    pub fn new(config: Config) -> Result<Self> {
        let names = Names::new(&config)?;
        let statements = Arc::new(Statements::new(&names));
        Ok(Self { names: Arc::new(names), statements })
    }

    /// The statements that [`migrate`](Self::migrate) runs, for people who manage their tables with another tool.
    /// They can be run again.
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
    pub async fn migrate(&self, pool: &PgPool) -> Result<()> {
        let mut tx = begin(pool).await?;
        // `IF NOT EXISTS` does not keep two sessions from making the same table at the same time.
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(self.names.migrate_lock)
            .execute(&mut *tx)
            .await
            .map_err(map_error)?;
        // Asked first, because PostgreSQL wants the right to create schemas even for IF NOT EXISTS.
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(&self.names.inbox)
            .fetch_one(&mut *tx)
            .await
            .map_err(map_error)?;
        if !there {
            sqlx::raw_sql(self.statements.create.clone()).execute(&mut *tx).await.map_err(map_error)?;
        }
        tx.commit().await.map_err(map_error)
    }

    /// Whether the message is new to the consumer, and takes note of it. To be called in the transaction in which the
    /// consumer does its work; if that is rolled back, the message is new again.
    ///
    /// While another transaction has accepted the same message and is open, this waits for it. `consumer` is any name
    /// of 1 to 255 bytes that tells this consumer from others on the same inbox.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if the consumer's name cannot be. At the isolation levels
    /// REPEATABLE READ and SERIALIZABLE, [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) if another
    /// transaction has accepted the message in the meantime: begin anew. What else the database says.
    ///
    /// # Cancel safety
    /// After a dropped call the entry may be there or not. Roll the transaction back.
    pub async fn accept<'e, E>(&self, executor: E, consumer: &str, id: MessageId) -> Result<bool>
    where
        E: Executor<'e, Database = Postgres>,
    {
        check_consumer(consumer)?;
        let accepted = sqlx::query(self.statements.accept.clone())
            .bind(consumer)
            .bind(id.as_uuid())
            .execute(executor)
            .await
            .map_err(map_error)?;
        Ok(accepted.rows_affected() == 1)
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
    pub async fn purge(&self, pool: &PgPool, older_than: Duration, limit: usize) -> Result<u64> {
        let purged = sqlx::query(self.statements.purge.clone())
            .bind(micros(older_than))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .execute(pool)
            .await
            .map_err(map_error)?;
        Ok(purged.rows_affected())
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("table", &self.names.inbox).finish()
    }
}

impl Statements {
    fn new(names: &Names) -> Self {
        let InboxStatements { ddl, accept, purge } = InboxStatements::new(names);
        Self { create: text(ddl.clone()), ddl, accept: text(accept), purge: text(purge) }
    }
}

/// Safe, because the only variable parts are quoted identifiers.
fn text(sql: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(sql)).into_sql_str()
}
