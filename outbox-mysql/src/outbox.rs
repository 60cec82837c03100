//! Enqueueing.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime};
use outbox_core::{Error, Message, Result, Timestamp, TraceContext};
use outbox_sql::trace::traced;
use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{Executor, MySql, MySqlConnection, MySqlPool};

use crate::config::{Config, Names};
use crate::error::map_error;
use crate::sql::Statements;
use crate::store::MySqlStore;

/// How many messages go into one `INSERT`: far below the 65 535 parameters that a statement may have.
const MOST_ROWS: usize = 1000;
/// How many bytes of payload, one message aside. The server's limit for a statement, `max_allowed_packet`, is 16 MiB
/// by default on MariaDB and 64 MiB on MySQL.
const MOST_BYTES: usize = 4 << 20;
/// 9999-12-31 00:00:00. What is scheduled for later never comes, and nobody waits for it.
const LATEST: i64 = 253_402_214_400_000_000;

/// An outbox in a MySQL or MariaDB database: what a service enqueues with.
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
    /// What the database says. [`ErrorKind::TooLarge`](outbox_core::ErrorKind::TooLarge) if the message is larger than
    /// the server's `max_allowed_packet`. After a deadlock
    /// ([`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict)) the server has rolled the whole transaction back.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have inserted the message. Roll the transaction back.
    pub async fn enqueue<'e, E>(&self, executor: E, message: &Message) -> Result<()>
    where
        E: Executor<'e, Database = MySql>,
    {
        let message = traced(message, self.trace.as_ref());
        let insert = sqlx::query(self.shared.statements.insert.clone());
        bind(insert, &message)?.execute(executor).await.map_err(map_error)?;
        Ok(())
    }

    /// Enqueues several messages, in as few statements as they fit into. Their positions have the order of the slice.
    /// An empty slice does nothing.
    ///
    /// It takes a connection, as it may run several statements: `&mut *tx` as in [`enqueue`](Self::enqueue), or a
    /// connection in no transaction, where an error may leave the first of the messages behind.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue). Roll the transaction back then.
    ///
    /// # Cancel safety
    /// A dropped call may have inserted some of the messages. Roll the transaction back.
    pub async fn enqueue_batch(&self, connection: &mut MySqlConnection, messages: &[Message]) -> Result<()> {
        let messages: Vec<Cow<'_, Message>> =
            messages.iter().map(|message| traced(message, self.trace.as_ref())).collect();
        for chunk in chunks(&messages) {
            let mut insert = sqlx::query(self.shared.statements.insert_batch(chunk.len()));
            for message in chunk {
                insert = bind(insert, message)?;
            }
            insert.execute(&mut *connection).await.map_err(map_error)?;
        }
        Ok(())
    }

    /// The statement that [`enqueue`](Self::enqueue) runs, for other drivers and languages. Its parameters are, in
    /// this order: message id (16 bytes), topic, key (or `NULL`), payload (bytes), content type (or `NULL`), headers
    /// (a JSON object of texts), options (a JSON object), and the earliest time of delivery (a `DATETIME` in UTC, or
    /// `NULL` for at once).
    pub fn insert_sql(&self) -> &str {
        self.shared.statements.insert.as_str()
    }

    /// The statements that [`migrate`](Self::migrate) runs on a database without an outbox, for people who manage
    /// their tables with another tool.
    pub fn ddl(&self) -> String {
        let statements = &self.shared.statements;
        let all = statements.ddl.iter().chain(&statements.finish_ddl);
        all.map(|statement| format!("{statement};\n")).collect()
    }

    /// The store over the same tables, for a relay and for looking after dead letters.
    ///
    /// It uses up to six connections of its own, made with the pool's options: their isolation levels have to be what
    /// they are. Of the pool itself it takes nothing.
    pub fn store(&self, pool: MySqlPool) -> MySqlStore {
        MySqlStore::over(pool, self.shared.clone())
    }
}

/// As many messages at a time as go into one statement.
fn chunks<'a>(messages: &'a [Cow<'a, Message>]) -> impl Iterator<Item = &'a [Cow<'a, Message>]> {
    let mut left = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fit = left.iter().take(MOST_ROWS).take_while(|message| {
            bytes = bytes.saturating_add(message.size());
            bytes <= MOST_BYTES
        });
        let count = fit.count().max(1).min(left.len());
        let (chunk, rest) = left.split_at(count);
        left = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn bind<'q>(
    query: Query<'q, MySql, MySqlArguments>,
    message: &'q Message,
) -> Result<Query<'q, MySql, MySqlArguments>> {
    Ok(query
        .bind(message.id().as_uuid())
        .bind(message.topic())
        .bind(message.key())
        .bind(&message.payload()[..])
        .bind(message.content_type())
        .bind(Json(message.headers()))
        .bind(Json(message.options()))
        .bind(message.deliver_at().map(datetime).transpose()?))
}

/// A time as the column takes it. Before 1970 is at once, after the year 9999 is never.
fn datetime(time: Timestamp) -> Result<NaiveDateTime> {
    let micros = time.as_micros().clamp(0, LATEST);
    let time = DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc());
    time.ok_or_else(|| Error::malformed("the time of delivery is none that the database knows"))
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

    fn of_size(bytes: usize) -> Cow<'static, Message> {
        Cow::Owned(Message::bytes("t", vec![0; bytes]).build().unwrap())
    }

    #[test]
    fn a_batch_is_cut_where_a_statement_would_grow_too_large() {
        let lengths = |messages: &[Cow<'_, Message>]| chunks(messages).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&vec![of_size(1); 2500]), [1000, 1000, 500]);
        assert_eq!(
            lengths(&[of_size(1), of_size(MOST_BYTES), of_size(2 * MOST_BYTES), of_size(1)]),
            [1, 1, 1, 1]
        );
    }

    #[test]
    fn times_are_cut_to_what_the_column_takes() {
        assert_eq!(datetime(Timestamp::from_micros(-5)).unwrap().to_string(), "1970-01-01 00:00:00");
        assert_eq!(datetime(Timestamp::from_micros(i64::MAX)).unwrap().to_string(), "9999-12-31 00:00:00");
        assert_eq!(
            datetime(Timestamp::from_micros(1_500_000)).unwrap().to_string(),
            "1970-01-01 00:00:01.500"
        );
    }
}
