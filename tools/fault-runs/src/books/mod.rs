//! The database of a run: the parts that all databases share.

mod on_mariadb;
mod on_postgres;
mod on_sqlite;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use integration_tests::Proxy;
use outbox_core::{Message, Result, Store};

pub use on_mariadb::OnMariaDb;
pub use on_postgres::OnPostgres;
pub use on_sqlite::OnSqlite;

/// The business that writes messages, and next to them its own numbers.
#[async_trait]
pub trait Books: Send + Sync {
    /// For relays in other processes.
    fn url(&self) -> String;

    /// The same, through a proxy in front of the server.
    fn url_through(&self, proxy: &Proxy) -> String;

    /// The address of the server. `None` for a database in a file, which has no process that can be killed,
    /// and no network.
    fn address(&self) -> Option<SocketAddr>;

    /// A store on the database.
    fn store(&self) -> Arc<dyn Store>;

    /// Creates the tables, which exist already.
    async fn migrate(&self) -> Result<()>;

    /// Begins a transaction.
    async fn begin(&self) -> Result<Box<dyn Page>>;

    /// Returns whether the database answers.
    async fn answers(&self) -> bool;

    /// Returns the messages that the database reports as committed.
    async fn committed(&self) -> HashSet<(i64, i64)>;

    /// Kills the server. Does nothing for a file.
    async fn kill(&self);

    /// Starts it again.
    async fn restart(&self);

    /// Stops it.
    async fn stop(&self);

    /// Continues it.
    async fn cont(&self);
}

/// An open transaction. Dropping it rolls it back.
#[async_trait]
pub trait Page: Send {
    /// Writes the numbers into the business's table, and the messages into the outbox.
    async fn write(&mut self, numbers: &[(i64, i64)], messages: &[Message]) -> Result<()>;

    /// Commits it.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Rolls it back.
    async fn rollback(self: Box<Self>) -> Result<()>;
}
