//! Enqueueing, in the caller's transaction.

use std::fmt::Debug;
use std::sync::Arc;

use outbox_core::{Error, Message, Result, TraceContext};
use outbox_sql::trace::traced;
use serde::Serialize;
use serde_json::json;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use sqlx::{Connection, Executor};

use crate::config::Config;
use crate::error::store_error;
use crate::schema::{self, NEVER};
use crate::sql::Sql;
use crate::store::SqliteStore;
use crate::transaction::{BEGIN_IMMEDIATE, usable_connection};
use crate::wake::Bell;

/// An outbox in an SQLite database: writes messages in your transactions.
///
/// Cheap to clone. All clones, and the [stores](Self::store) made from them, share their wake-ups.
#[derive(Clone)]
pub struct Outbox {
    config: Arc<Config>,
    sql: Arc<Sql>,
    ddl: Arc<str>,
    bell: Bell,
    trace: Option<Arc<dyn TraceContext>>,
}

impl Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Outbox {
    /// An outbox with these settings. Does not touch any database.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a setting is out of its range.
    pub fn new(config: Config) -> Result<Self> {
        config.validate()?;
        let sql = Arc::new(Sql::new(&config));
        let ddl = schema::ddl(&config).into();
        Ok(Self { config: Arc::new(config), sql, ddl, bell: Bell::new(), trace: None })
    }

    /// Adds the active trace to every message that carries none. Default: no trace is added.
    #[must_use]
    pub fn with_trace_context(mut self, trace: Arc<dyn TraceContext>) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes the tables, unless they are there. Any number of processes may call this at once.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`](outbox_core::ErrorKind::Schema) if the tables were made by a newer version of this
    /// library, [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if they have another number of partitions.
    ///
    /// # Cancel safety
    /// Safe: it is one transaction.
    pub async fn migrate(&self, pool: &SqlitePool) -> Result<()> {
        schema::migrate(pool, &self.config).await
    }

    /// The statements of [`migrate`](Self::migrate) as text, for a migration tool of your own. They can be run
    /// again. Run them in one transaction.
    pub fn ddl(&self) -> String {
        self.ddl.to_string()
    }

    /// The statement of [`enqueue`](Self::enqueue), for other drivers. Its parameters, in order: `message_id` (a
    /// UUID as text), `topic`, `key` (or NULL), `payload` (a blob), `content_type` (or NULL), `headers` (a JSON
    /// object of strings, as text), `options` (a JSON object, as text), `available_at` (microseconds since 1970
    /// in UTC, or NULL for at once).
    pub fn insert_sql(&self) -> &str {
        self.sql.enqueue.text()
    }

    /// Writes a message. In a transaction (`&mut *transaction`) it exists if and only if that commits; with a
    /// pool or a connection in no transaction it exists when this returns.
    ///
    /// Also pokes the relays of this process. Inside a transaction that is too early, so they notice the commit
    /// a little later by themselves; see [`wake`](Self::wake).
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) if another writer kept the database locked for
    /// too long, [`ErrorKind::TooLarge`](outbox_core::ErrorKind::TooLarge) beyond SQLite's limit of a row.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have written the message. Inside a transaction, roll back then.
    pub async fn enqueue<'e, E>(&self, executor: E, message: &Message) -> Result<()>
    where
        E: Executor<'e, Database = Sqlite>,
    {
        let parts = self.parts(message)?;
        sqlx::query(self.sql.enqueue.sql())
            .bind(parts.id)
            .bind(message.topic().to_owned())
            .bind(message.key().map(str::to_owned))
            .bind(message.payload().to_vec())
            .bind(message.content_type().map(str::to_owned))
            .bind(parts.headers)
            .bind(parts.options)
            .bind(parts.available_at)
            .execute(executor)
            .await
            .map_err(|error| store_error("enqueueing a message", error).with("topic", message.topic()))?;
        self.bell.ring();
        Ok(())
    }

    /// Writes messages, in this order, with one statement: all of them or, after an error, none.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); together they must stay below SQLite's limit of 1 000 000 000 bytes.
    ///
    /// # Cancel safety
    /// As [`enqueue`](Self::enqueue): a dropped call has written all or none.
    pub async fn enqueue_batch<'e, E>(&self, executor: E, messages: &[Message]) -> Result<()>
    where
        E: Executor<'e, Database = Sqlite>,
    {
        if messages.is_empty() {
            return Ok(());
        }
        let mut payloads = Vec::with_capacity(messages.iter().map(|message| message.payload().len()).sum());
        let mut rows = Vec::with_capacity(messages.len());
        for message in messages {
            let parts = self.parts(message)?;
            let payload = message.payload();
            rows.push(json!([
                parts.id,
                message.topic(),
                message.key(),
                message.content_type(),
                parts.headers,
                parts.options,
                parts.available_at,
                // SQL counts from one.
                payloads.len() + 1,
                payload.len(),
            ]));
            payloads.extend_from_slice(payload);
        }
        sqlx::query(self.sql.enqueue_batch.sql())
            .bind(json_text(&rows)?)
            .bind(payloads)
            .execute(executor)
            .await
            .map_err(|error| store_error("enqueueing messages", error).with("messages", messages.len()))?;
        self.bell.ring();
        Ok(())
    }

    /// Opens a transaction, runs `work` in it, and commits; then pokes the relays of this process. If `work`
    /// fails, panics, or is cancelled, the transaction is rolled back.
    ///
    /// The transaction takes the write lock at once (`BEGIN IMMEDIATE`), waiting for other writers as long as the
    /// busy timeout. So it cannot fail half-way because somebody else has written; and `work` should be short,
    /// for all writers of the file wait for it.
    ///
    /// ```no_run
    /// # async fn example(outbox: &outbox_sqlite::Outbox, pool: &sqlx::SqlitePool) -> outbox_core::Result<()> {
    /// use outbox_core::Message;
    ///
    /// outbox
    ///     .transaction(pool, async |connection| {
    ///         sqlx::query("UPDATE orders SET state = 'paid' WHERE id = 17")
    ///             .execute(&mut *connection)
    ///             .await
    ///             .map_err(outbox_sqlite::map_error)?;
    ///         let paid = Message::json("order.paid", &17)?.key("order-17").build()?;
    ///         outbox.enqueue(connection, &paid).await
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Whatever `work` returns, or the error of beginning or committing.
    ///
    /// # Cancel safety
    /// Dropping the future rolls back, unless the commit was already under way: then it may have taken effect.
    pub async fn transaction<T, E, W>(&self, pool: &SqlitePool, work: W) -> Result<T, E>
    where
        W: AsyncFnOnce(&mut SqliteConnection) -> Result<T, E>,
        E: From<Error>,
    {
        let mut connection = usable_connection(pool).await?;
        let mut transaction = connection
            .begin_with(BEGIN_IMMEDIATE)
            .await
            .map_err(|error| store_error("beginning a transaction", error))?;
        match work(&mut transaction).await {
            Ok(value) => {
                transaction.commit().await.map_err(|error| store_error("committing a transaction", error))?;
                self.bell.ring();
                Ok(value)
            }
            Err(error) => {
                // Awaited, so that the write lock is free when the caller sees the error. If this fails, SQLite
                // has rolled back by itself, and whoever gets the connection next finds out.
                if let Err(error) = transaction.rollback().await {
                    tracing::debug!(%error, "a failed transaction was rolled back by SQLite itself");
                }
                Err(error)
            }
        }
    }

    /// Pokes the relays of this process that use a [store](Self::store) of this outbox: something was committed.
    ///
    /// Never needed, for they also notice commits by themselves (within [`Config::wakeup_interval`]); it spares
    /// that wait after a transaction of your own.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// The store for relays, woken by this outbox.
    pub fn store(&self, pool: SqlitePool) -> SqliteStore {
        SqliteStore::from_outbox(pool, self.clone())
    }

    pub(crate) fn sql(&self) -> &Sql {
        &self.sql
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    fn parts(&self, message: &Message) -> Result<Parts> {
        let message = traced(message, self.trace.as_ref());
        Ok(Parts {
            id: message.id().as_uuid().hyphenated().to_string(),
            headers: json_text(message.headers())?,
            options: json_text(message.options())?,
            // The end of time is what marks a held row.
            available_at: message.deliver_at().map(|time| time.as_micros().min(NEVER - 1)),
        })
    }
}

/// What of a message has to be turned into something before it can be bound.
struct Parts {
    id: String,
    headers: String,
    options: String,
    available_at: Option<i64>,
}

fn json_text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|source| Error::malformed("a value cannot be written as JSON").with_source(source))
}
