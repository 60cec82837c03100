//! Databases for the contenders: the outbox of this project, and the tables of hand-written solutions.

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

/// The tables of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// The outbox.
    Outbox,
    /// A table that contains only messages.
    Plain,
    /// The same with a column that marks a published message.
    Marked,
    /// The same with a column that records until when a worker has claimed a message.
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

/// The rows that a transaction of a service writes.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// One business row.
    Business(&'a [u8]),
    /// A row as large as a message, in [`Table::Plain`], by a bare insert. Several rows go in one statement.
    Bare(&'a [Message]),
    /// Messages in the outbox: one by `enqueue`, several by `enqueue_batch`.
    Enqueue(&'a [Message]),
}

/// A row of a hand-written table.
pub type Row = (i64, Message);

/// Commits the transactions of a service with one driver.
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

    /// The address for a separate process.
    fn url(&self) -> String;

    /// The store of this project.
    fn store(&self) -> Arc<dyn Store>;

    /// The store with its own connections, as in a relay in another process.
    async fn own_store(&self) -> Result<Arc<dyn Store>>;

    /// The processor time of the server so far, or `None` if the database is a part of the program.
    fn cpu_time(&self) -> Result<Option<Duration>>;

    /// Holds a snapshot of the current state of the database in another session, until the value is dropped.
    async fn hold_snapshot(&self) -> Result<Box<dyn Any + Send>>;

    /// Empties all tables, and makes the database clean up.
    async fn clear(&self) -> Result<()>;

    /// Inserts messages into a table, and commits this many at a time.
    async fn insert(&self, table: Table, load: &Load, chunk: u64) -> Result<()>;

    /// Makes the database do its background work on a table now.
    async fn tidy(&self, table: Table) -> Result<()>;

    /// Fills a table, and leaves the database idle.
    async fn fill(&self, table: Table, load: &Load) -> Result<()> {
        self.insert(table, load, 50_000).await?;
        self.tidy(table).await
    }

    /// Returns the number of undelivered messages of a table.
    async fn waiting(&self, table: Table) -> Result<u64>;

    /// Returns messages of [`Table::Plain`] after a position, in order.
    async fn read_after(&self, position: i64, limit: usize) -> Result<Vec<Row>>;

    /// Deletes from [`Table::Plain`] or [`Table::Claimed`].
    async fn delete(&self, table: Table, positions: Vec<i64>) -> Result<()>;

    /// Returns unmarked messages of [`Table::Marked`], in order.
    async fn unmarked(&self, limit: usize) -> Result<Vec<Row>>;

    /// Marks one message of [`Table::Marked`].
    async fn mark(&self, position: i64) -> Result<()>;

    /// Claims messages of [`Table::Claimed`] for half a minute, in order.
    async fn claim(&self, limit: usize) -> Result<Vec<Row>>;
}
