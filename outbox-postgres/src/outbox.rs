//! Enqueueing.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use outbox_core::{Message, Result, TraceContext};
use outbox_sql::postgres::{Config, Names};
use outbox_sql::trace::traced;
use sqlx::types::Json;
use sqlx::{Executor, PgPool, Postgres};
use uuid::Uuid;

use crate::error::map_error;
use crate::sql::Statements;
use crate::store::PostgresStore;

/// An outbox in a PostgreSQL database: what a service enqueues with.
///
/// It holds no connection, only names and statements, and is cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    pub(crate) shared: Arc<Shared>,
    trace: Option<Arc<dyn TraceContext>>,
}

pub(crate) struct Shared {
    config: Config,
    pub(crate) names: Names,
    pub(crate) statements: Statements,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Result<Self> {
        let names = Names::new(&config)?;
        let statements = Statements::new(&names);
        Ok(Self { config, names, statements })
    }
}

impl Outbox {
    /// An outbox in the tables that the settings name.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name or the number of partitions cannot be.
    pub fn new(config: Config) -> Result<Self> {
        Ok(Self { shared: Arc::new(Shared::new(config)?), trace: None })
    }

    /// Makes each message carry the trace that is active when it is enqueued, unless it carries one already.
    /// Default: messages carry a trace only if they were given one.
    #[must_use]
    pub fn with_trace_context(mut self, trace: Arc<dyn TraceContext>) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Enqueues a message within whatever transaction `executor` is in: it neither begins nor commits. With
    /// `&mut *tx` the message exists if and only if `tx` commits; with a pool it is committed at once.
    ///
    /// # Errors
    /// What the database says. As with every failed statement, PostgreSQL refuses the rest of the transaction then.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have inserted the message. Roll the transaction back.
    pub async fn enqueue<'e, E>(&self, executor: E, message: &Message) -> Result<()>
    where
        E: Executor<'e, Database = Postgres>,
    {
        let message = traced(message, self.trace.as_ref());
        sqlx::query(self.shared.statements.insert.clone())
            .bind(message.id().as_uuid())
            .bind(message.topic())
            .bind(message.key())
            .bind(&message.payload()[..])
            .bind(message.content_type())
            .bind(Json(message.headers()))
            .bind(Json(message.options()))
            .bind(message.deliver_at().map(DateTime::<Utc>::from))
            .execute(executor)
            .await
            .map_err(map_error)?;
        Ok(())
    }

    /// Enqueues several messages in one round trip. Their positions have the order of the slice. Otherwise like
    /// [`enqueue`](Self::enqueue). An empty slice does nothing.
    ///
    /// # Errors
    /// What the database says; none of them is enqueued then.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have inserted all of the messages. Roll the transaction back.
    pub async fn enqueue_batch<'e, E>(&self, executor: E, messages: &[Message]) -> Result<()>
    where
        E: Executor<'e, Database = Postgres>,
    {
        if messages.is_empty() {
            return Ok(());
        }
        let messages: Vec<Cow<'_, Message>> =
            messages.iter().map(|message| traced(message, self.trace.as_ref())).collect();
        let ids: Vec<Uuid> = messages.iter().map(|message| *message.id().as_uuid()).collect();
        let topics: Vec<&str> = messages.iter().map(|message| message.topic()).collect();
        let keys: Vec<Option<&str>> = messages.iter().map(|message| message.key()).collect();
        let payloads: Vec<&[u8]> = messages.iter().map(|message| &message.payload()[..]).collect();
        let content_types: Vec<Option<&str>> =
            messages.iter().map(|message| message.content_type()).collect();
        let headers: Vec<_> = messages.iter().map(|message| Json(message.headers())).collect();
        let options: Vec<_> = messages.iter().map(|message| Json(message.options())).collect();
        let times: Vec<Option<DateTime<Utc>>> =
            messages.iter().map(|message| message.deliver_at().map(DateTime::from)).collect();
        sqlx::query(self.shared.statements.insert_batch.clone())
            .bind(ids)
            .bind(topics)
            .bind(keys)
            .bind(payloads)
            .bind(content_types)
            .bind(headers)
            .bind(options)
            .bind(times)
            .execute(executor)
            .await
            .map_err(map_error)?;
        Ok(())
    }

    /// The statement that [`enqueue`](Self::enqueue) runs, for other drivers and languages. Its parameters are, in
    /// this order: message id (uuid), topic, key (or `NULL`), payload (bytea), content type (or `NULL`), headers
    /// (jsonb, an object of texts), options (jsonb, an object), and the earliest time of delivery (timestamptz, or
    /// `NULL` for at once).
    pub fn insert_sql(&self) -> &str {
        self.shared.statements.insert.as_str()
    }

    /// The statements that [`migrate`](Self::migrate) runs on a database without an outbox, for people who manage
    /// their tables with another tool.
    pub fn ddl(&self) -> String {
        self.shared.statements.ddl.clone()
    }

    /// The store over the same tables, for a relay and for looking after dead letters.
    ///
    /// A relay works on sessions of its own, made with the pool's options: as many as the pool may have, which should be four
    /// or more, since it fetches, settles and renews its leases at the same time, and one for wake-ups. What the pool's
    /// `after_connect` does is not done to them. Dead letters and what is looked at go by the pool.
    pub fn store(&self, pool: PgPool) -> PostgresStore {
        PostgresStore::over(pool, self.shared.clone())
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("table", &self.shared.names.message)
            .field("traces", &self.trace.is_some())
            .finish()
    }
}
