//! The consumer's half: which messages it has seen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{MessageId, Result};
use outbox_sql::inbox::check_consumer;
use outbox_sql::text::micros;
use sqlx::{AssertSqlSafe, Executor, MySql, MySqlPool, SqlSafeStr as _, SqlStr};

use crate::config::{Config, Names};
use crate::error::map_error;
use crate::migrate::{lock, run};

/// `ER_DUP_ENTRY`
const DUPLICATE: u16 = 1062;

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
/// use outbox_mysql::{Config, Inbox, sqlx};
///
/// # async fn example(pool: sqlx::MySqlPool, id: MessageId) -> anyhow::Result<()> {
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
    ddl: Arc<str>,
    accept: SqlStr,
    purge: SqlStr,
}

impl Inbox {
    /// An inbox in the database that the settings name, in a table called `…_inbox` behind their prefix.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name cannot be.
    pub fn new(config: Config) -> Result<Self> {
        let names = Names::new(&config)?;
        let inbox = &names.inbox;
        Ok(Self {
            ddl: format!(
                "CREATE TABLE IF NOT EXISTS {inbox} (
    `consumer` VARBINARY(255) NOT NULL,
    `message_id` BINARY(16) NOT NULL,
    `accepted_at` DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (`consumer`, `message_id`),
    KEY `age` (`accepted_at`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
            )
            .into(),
            accept: text(format!("INSERT INTO {inbox} (`consumer`, `message_id`) VALUES (?, ?)")),
            purge: text(format!(
                "DELETE FROM {inbox} WHERE `accepted_at` <= UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND
ORDER BY `accepted_at` LIMIT ?"
            )),
            names: Arc::new(names),
        })
    }

    /// The statement that [`migrate`](Self::migrate) runs, for people who manage their tables with another tool. It
    /// can be run again.
    pub fn ddl(&self) -> String {
        format!("{};\n", self.ddl)
    }

    /// Makes the table, unless it is there. Any number of processes may call this at once.
    ///
    /// # Errors
    /// What the database says, such as [`ErrorKind::Permission`](outbox_core::ErrorKind::Permission).
    ///
    /// # Cancel safety
    /// A dropped call has made the table or not.
    pub async fn migrate(&self, pool: &MySqlPool) -> Result<()> {
        // As in `Outbox::migrate`.
        let mut connection = pool.acquire().await.map_err(map_error)?.detach();
        lock(&mut connection, &self.names.migrate_lock).await?;
        let made = run(&mut connection, &self.ddl).await;
        let _ = sqlx::Connection::close(connection).await;
        made
    }

    /// Whether the message is new to the consumer, and takes note of it. To be called in the transaction in which the
    /// consumer does its work; if that is rolled back, the message is new again.
    ///
    /// While another transaction has accepted the same message and is open, this waits for it, as long as
    /// `innodb_lock_wait_timeout`. `consumer` is any name of 1 to 255 bytes that tells this consumer from others on the
    /// same inbox.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if the consumer's name cannot be.
    /// [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) after a deadlock, or if the wait was too long: roll
    /// back and begin anew. What else the database says.
    ///
    /// # Cancel safety
    /// After a dropped call the entry may be there or not. Roll the transaction back.
    pub async fn accept<'e, E>(&self, executor: E, consumer: &str, id: MessageId) -> Result<bool>
    where
        E: Executor<'e, Database = MySql>,
    {
        check_consumer(consumer)?;
        let accepted = sqlx::query(self.accept.clone())
            .bind(consumer.as_bytes())
            .bind(id.as_uuid())
            .execute(executor)
            .await;
        match accepted {
            Ok(_) => Ok(true),
            // Only the statement is undone, not the transaction.
            Err(sqlx::Error::Database(error)) if is_duplicate(&*error) => Ok(false),
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
    pub async fn purge(&self, pool: &MySqlPool, older_than: Duration, limit: usize) -> Result<u64> {
        let purged = sqlx::query(self.purge.clone())
            .bind(micros(older_than))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .execute(pool)
            .await
            .map_err(map_error)?;
        Ok(purged.rows_affected())
    }
}

fn is_duplicate(error: &dyn sqlx::error::DatabaseError) -> bool {
    error
        .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
        .is_some_and(|error| error.number() == DUPLICATE)
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("table", &self.names.inbox).finish()
    }
}

/// Safe, because the only variable parts are quoted identifiers.
fn text(sql: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(sql)).into_sql_str()
}
