//! The consumer's half: which messages it has seen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{MessageId, Result};
use outbox_sql::inbox::check_consumer;
use outbox_sql::text::micros;
use sqlx::sqlite::{Sqlite, SqlitePool};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::config::{Config, quoted};
use crate::error::store_error;
use crate::schema::NOW;
use crate::sql::Statement;
use crate::transaction::{BEGIN_IMMEDIATE, usable_connection};

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
/// use outbox_sqlite::{Config, Inbox, sqlx};
///
/// # async fn example(pool: sqlx::SqlitePool, id: MessageId) -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new(Config::new())?;
/// let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
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
    table: Arc<str>,
    create: [Statement; 2],
    accept: Statement,
    purge: Statement,
}

impl Inbox {
    /// An inbox in a table called `…_inbox` behind the settings' prefix.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a setting is out of its range.
    pub fn new(config: Config) -> Result<Self> {
        config.validate()?;
        let table = config.table("inbox");
        let inbox = quoted(&table);
        let age = quoted(&config.table("inbox_age"));
        Ok(Self {
            create: [
                format!(
                    r#"CREATE TABLE IF NOT EXISTS {inbox} (
    "consumer" TEXT NOT NULL,
    "message_id" BLOB NOT NULL,
    "accepted_at" INTEGER NOT NULL DEFAULT {NOW},
    PRIMARY KEY ("consumer", "message_id")
) WITHOUT ROWID"#
                )
                .into(),
                format!(r#"CREATE INDEX IF NOT EXISTS {age} ON {inbox} ("accepted_at")"#).into(),
            ],
            accept: format!(
                r#"INSERT INTO {inbox} ("consumer", "message_id") VALUES (?1, ?2) ON CONFLICT DO NOTHING"#
            )
            .into(),
            purge: format!(
                r#"DELETE FROM {inbox} WHERE ("consumer", "message_id") IN (
    SELECT "consumer", "message_id" FROM {inbox} WHERE "accepted_at" <= {NOW} - ?1 ORDER BY "accepted_at" LIMIT ?2)"#
            )
            .into(),
            table: table.into(),
        })
    }

    /// The statements that [`migrate`](Self::migrate) runs, for people who manage their tables with another tool.
    /// They can be run again.
    pub fn ddl(&self) -> String {
        self.create.iter().map(|statement| format!("{};\n", statement.text())).collect()
    }

    /// Makes the table, unless it is there. Any number of processes may call this at once.
    ///
    /// # Errors
    /// What the database says.
    ///
    /// # Cancel safety
    /// A dropped call has made all or nothing.
    pub async fn migrate(&self, pool: &SqlitePool) -> Result<()> {
        let failed = |error| store_error("making the inbox's table", error);
        let mut connection = usable_connection(pool).await?;
        let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
        for statement in &self.create {
            sqlx::query(AssertSqlSafe(statement.text().to_owned()))
                .persistent(false)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// Whether the message is new to the consumer, and takes note of it. To be called in the transaction in which the
    /// consumer does its work; if that is rolled back, the message is new again.
    ///
    /// `consumer` is any name of 1 to 255 bytes that tells this consumer from others on the same inbox. Begin the
    /// transaction with `BEGIN IMMEDIATE`: SQLite has one writer at a time, and one that has read before it wants to
    /// write cannot wait for another one.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if the consumer's name cannot be,
    /// [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) if another writer kept the database locked for too
    /// long.
    ///
    /// # Cancel safety
    /// After a dropped call the entry may be there or not. Roll the transaction back.
    pub async fn accept<'e, E>(&self, executor: E, consumer: &str, id: MessageId) -> Result<bool>
    where
        E: Executor<'e, Database = Sqlite>,
    {
        check_consumer(consumer)?;
        let accepted = sqlx::query(self.accept.sql())
            .bind(consumer.to_owned())
            .bind(id.as_uuid().as_bytes().to_vec())
            .execute(executor)
            .await
            .map_err(|error| store_error("accepting a message", error))?;
        Ok(accepted.rows_affected() == 1)
    }

    /// Deletes at most `limit` entries that are older than `older_than`, by this machine's clock, and says how many:
    /// call it again while it is `limit`. A message whose entry was deleted is new again, so keep entries for longer
    /// than the broker may take to deliver a message once more.
    ///
    /// # Errors
    /// What the database says.
    ///
    /// # Cancel safety
    /// A dropped call has deleted all of its entries or none.
    pub async fn purge(&self, pool: &SqlitePool, older_than: Duration, limit: usize) -> Result<u64> {
        let mut connection = usable_connection(pool).await?;
        let purged = sqlx::query(self.purge.sql())
            .bind(micros(older_than))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .execute(&mut *connection)
            .await
            .map_err(|error| store_error("purging the inbox", error))?;
        Ok(purged.rows_affected())
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("table", &self.table).finish()
    }
}
