//! Databases in which contenders work: our outbox, and the tables of those who write their own.

mod mariadb;
mod postgres;
mod sqlite;
mod tokio_postgres;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use outbox_core::{Message, Store};

pub use mariadb::OnMariaDb;
pub use postgres::OnPostgres;
pub use sqlite::OnSqlite;
pub use tokio_postgres::TokioPostgres;

use crate::load::Load;

/// Which tables a contender works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Ours.
    Outbox,
    /// A table with no more than messages.
    Plain,
    /// The same with a column that says that a message was published.
    Marked,
    /// The same with a column that says until when somebody has a message.
    Claimed,
}

impl Table {
    /// Its name, which needs no quotes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox_message",
            Self::Plain => "plain",
            Self::Marked => "marked",
            Self::Claimed => "claimed",
        }
    }
}

/// What a transaction of a service writes.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// A row of its own.
    Business(&'a [u8]),
    /// A row as large as a message, in [`Table::Plain`], by a bare insert. Several go in one statement.
    Bare(&'a [Message]),
    /// Messages in our outbox: one by `enqueue`, several by `enqueue_batch`.
    Enqueue(&'a [Message]),
}

/// A row of a hand-written table.
pub type Row = (i64, Message);

/// Commits the transactions of a service by one driver.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Commits a transaction. Returns the time at which the commit was sent.
    async fn commit(&self, writes: &[Write<'_>]) -> Result<Instant>;
}

/// A database of one run, with the driver of its store.
#[async_trait]
pub trait Database: Writer {
    /// As in `--store`.
    fn name(&self) -> &'static str;

    /// Where a process of its own finds it.
    fn url(&self) -> String;

    /// Our store.
    fn store(&self) -> Arc<dyn Store>;

    /// Our store with connections of its own, as a relay in another process has it.
    async fn own_store(&self) -> Result<Arc<dyn Store>>;

    /// The processor time of the server so far, or `None` where the database is a part of the program.
    fn cpu_time(&self) -> Result<Option<Duration>>;

    /// Has another session look at the database as it is now, until the value is dropped.
    async fn hold_snapshot(&self) -> Result<Box<dyn Any + Send>>;

    /// Empties all tables, and has the database tidy up.
    async fn clear(&self) -> Result<()>;

    /// Puts messages into a table, and commits so many at a time.
    async fn insert(&self, table: Table, load: &Load, chunk: u64) -> Result<()>;

    /// Has the database do to a table what it would do in its own time.
    async fn tidy(&self, table: Table) -> Result<()>;

    /// Fills a table, and leaves the database at rest.
    async fn fill(&self, table: Table, load: &Load) -> Result<()> {
        self.insert(table, load, 50_000).await?;
        self.tidy(table).await
    }

    /// How many messages of a table are not delivered.
    async fn waiting(&self, table: Table) -> Result<u64>;

    /// Messages of [`Table::Plain`] behind a position, in order.
    async fn read_after(&self, position: i64, limit: usize) -> Result<Vec<Row>>;

    /// Deletes from [`Table::Plain`] or [`Table::Claimed`].
    async fn delete(&self, table: Table, positions: Vec<i64>) -> Result<()>;

    /// Messages of [`Table::Marked`] that are not marked, in order.
    async fn unmarked(&self, limit: usize) -> Result<Vec<Row>>;

    /// Marks one message of [`Table::Marked`].
    async fn mark(&self, position: i64) -> Result<()>;

    /// Takes messages of [`Table::Claimed`] for half a minute, in order.
    async fn claim(&self, limit: usize) -> Result<Vec<Row>>;
}
