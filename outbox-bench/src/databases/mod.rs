//! Databases in which contenders work: our outbox, and the tables of those who write their own.

mod postgres;
mod sqlite;

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use outbox_core::{Message, Store};

pub use postgres::OnPostgres;
pub use sqlite::OnSqlite;

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

    /// The hand-written ones.
    pub const BY_HAND: [Self; 3] = [Self::Plain, Self::Marked, Self::Claimed];
}

/// A row of a hand-written table.
pub type Row = (i64, Message);

/// A database of one run.
#[async_trait]
pub trait Database: Send + Sync {
    /// As in `--store`.
    fn name(&self) -> &'static str;

    /// Our store.
    fn store(&self) -> Arc<dyn Store>;

    /// Empties all tables, and has the database tidy up.
    async fn clear(&self) -> Result<()>;

    /// Commits messages into a table, and has the database tidy up after that.
    async fn fill(&self, table: Table, load: &Load) -> Result<()>;

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
