//! Enqueueing.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::io::{AsyncRead, AsyncWrite};
use outbox_core::{Error, Message, Result, Timestamp, TraceContext};
use outbox_sql::trace::traced;
use serde::Serialize;
use tiberius::{Client, ToSql};

use crate::config::{Config, Names};
use crate::error::map_error;
use crate::pool::Pool;
use crate::rows::Rows;
use crate::sql::Statements;
use crate::store::MssqlStore;

/// 9999-12-31 00:00:00. What is scheduled for later never comes, and nobody waits for it.
const LATEST: i64 = 253_402_214_400_000_000;

/// An outbox in a SQL Server database: what a service enqueues with.
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

    /// Enqueues a message within whatever transaction the client is in: it neither begins nor commits. Outside of a
    /// transaction the message is committed at once.
    ///
    /// # Errors
    /// What the database says. Some errors, a deadlock among them
    /// ([`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict)), have ended the whole transaction: what is done on
    /// the client after that is done outside of any. So give up after an error.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have inserted the message. Throw the client away; tiberius' calls are not
    /// cancel-safe.
    pub async fn enqueue<S>(&self, client: &mut Client<S>, message: &Message) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let message = traced(message, self.trace.as_ref());
        let (id, topic, key, payload) =
            (message.id(), message.topic(), message.key(), &message.payload()[..]);
        let (headers, options) = (json(message.headers())?, json(message.options())?);
        let (content_type, deliver_at) =
            (message.content_type(), message.deliver_at().map(datetime).transpose()?);
        let mut parameters: Vec<&dyn ToSql> =
            vec![id.as_uuid(), &topic, or_null(&key), &payload, or_null(&content_type), &headers, &options];
        let Statements { insert, insert_ready, .. } = &self.shared.statements;
        let statement = if let Some(time) = &deliver_at {
            parameters.push(time);
            insert
        } else {
            insert_ready
        };
        client.execute(statement.as_str(), &parameters).await.map_err(map_error)?;
        Ok(())
    }

    /// Enqueues several messages in one round trip. Their positions have the order of the slice. Otherwise like
    /// [`enqueue`](Self::enqueue). An empty slice does nothing.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); none of them is enqueued then.
    ///
    /// # Cancel safety
    /// As [`enqueue`](Self::enqueue), for all of the messages.
    pub async fn enqueue_batch<S>(&self, client: &mut Client<S>, messages: &[Message]) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        if messages.is_empty() {
            return Ok(());
        }
        let mut rows = Rows::default();
        for (number, message) in messages.iter().enumerate() {
            let message: Cow<'_, Message> = traced(message, self.trace.as_ref());
            let time = message.deliver_at().map(datetime).transpose()?;
            rows.row()
                .plain(number)
                .plain(message.id().as_uuid().to_string())
                .plain(time.map(datetime2))
                .text(Some(message.topic()))
                .text(message.key())
                .text(message.content_type())
                .text(Some(&json(message.headers())?))
                .text(Some(&json(message.options())?))
                .bytes(message.payload());
        }
        let parameters = rows.finish();
        client
            .execute(self.shared.statements.insert_batch.as_str(), &parameters.bind())
            .await
            .map_err(map_error)?;
        Ok(())
    }

    /// The statement that [`enqueue`](Self::enqueue) runs, for other drivers and languages. Its parameters `@P1` to
    /// `@P8` are, in this order: message id (`uniqueidentifier`), topic, key (or `NULL`), payload (`varbinary`),
    /// content type (or `NULL`), headers (a JSON object of texts), options (a JSON object), and the earliest time of
    /// delivery (a `datetime2` in UTC, or `NULL` for at once).
    pub fn insert_sql(&self) -> &str {
        &self.shared.statements.insert
    }

    /// The statements that [`migrate`](Self::migrate) runs on a database without an outbox, for people who manage
    /// their tables with another tool. It is one batch: it needs no `GO`, and has none.
    ///
    /// Run it with `QUOTED_IDENTIFIER ON`, which for `sqlcmd` is the option `-I`.
    pub fn ddl(&self) -> String {
        self.shared.statements.ddl.clone()
    }

    /// The store over the same tables, for a relay and for looking after dead letters.
    ///
    /// The pool should have four connections or more: a relay fetches, settles and renews its leases at the same
    /// time.
    pub fn store(&self, pool: Pool) -> MssqlStore {
        MssqlStore::over(pool, self.shared.clone())
    }
}

/// A text or `NULL` as a parameter. The driver would send a text that is `None` without a type, which Babelfish refuses;
/// a number that is `None` is `NULL` in a column of texts as well.
fn or_null<'a>(text: &'a Option<&'a str>) -> &'a dyn ToSql {
    match text {
        Some(text) => text,
        None => &None::<i32>,
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::malformed("headers or options cannot be written as JSON").with_source(error))
}

/// A time as the column takes it. Before 1970 is at once, after the year 9999 is never.
/// A time as a list in a parameter has it.
pub(crate) fn datetime2(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

fn datetime(time: Timestamp) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(time.as_micros().clamp(0, LATEST))
        .ok_or_else(|| Error::malformed("the time of delivery is none that the database knows"))
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("table", &self.shared.names.message)
            .field("traces", &self.trace.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_one_that_the_column_takes() {
        for micros in [i64::MIN, 0, 1_700_000_000_000_000, LATEST, i64::MAX] {
            let time = datetime(Timestamp::from_micros(micros)).unwrap();
            assert!((1970..=9999).contains(&chrono::Datelike::year(&time)), "{time}");
        }
    }
}
