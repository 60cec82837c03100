//! Opening a pool with settings that suit an outbox.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};
use tokio::time::Instant;

use crate::error::store_error;

/// What a commit survives. A killed process loses nothing either way; this is about the power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is on the disk before it returns (`synchronous = FULL`). The default.
    #[default]
    Full,
    /// Commits reach the disk when the operating system writes them (`synchronous = NORMAL`). After a power loss
    /// or a crash of the operating system the file is intact, but the last commits may be missing.
    ///
    /// The outbox then weakens its first promise: a message that was published just before the power failed may
    /// belong to a transaction that has vanished, and one that was delivered may be delivered again. In exchange
    /// small transactions are many times faster.
    Normal,
}

/// How to open a database file for an outbox.
///
/// ```no_run
/// # async fn example() -> outbox_core::Result<()> {
/// use outbox_sqlite::OpenOptions;
///
/// let pool = OpenOptions::new("shop.db").open().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    path: PathBuf,
    durability: Durability,
    busy_timeout: Duration,
    max_connections: u32,
}

impl OpenOptions {
    /// Opens this file, and makes it if it is not there.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            durability: Durability::default(),
            busy_timeout: Duration::from_secs(10),
            max_connections: 8,
        }
    }

    /// Sets what a commit survives. Default: [`Durability::Full`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long a write waits for the writers before it, from this process or others. Default: 10 s.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets how many connections the pool opens at most. Default: 8. Only one of them writes at a time.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections;
        self
    }

    /// Opens the pool, and puts the file into WAL mode, where readers and the writer do not wait for each other.
    /// The mode stays with the file.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for settings that cannot work, or a file that is no database or lies where WAL mode
    /// does not work (such as a network share); [`ErrorKind::Unavailable`] if the file cannot be opened.
    ///
    /// # Cancel safety
    /// Safe: nothing is left open.
    pub async fn open(&self) -> Result<SqlitePool> {
        let milliseconds = self.busy_timeout.as_millis();
        if milliseconds == 0 || i32::try_from(milliseconds).is_err() {
            return Err(Error::config("the busy timeout must be from 1 ms to 24 days"));
        }
        if self.max_connections == 0 {
            return Err(Error::config("the pool needs at least one connection"));
        }
        if self.path.to_str().is_none_or(|path| path.is_empty() || path.contains(":memory:")) {
            return Err(Error::config(
                "the outbox needs a file with a UTF-8 path; a database in memory belongs to one connection only",
            )
            .with("path", self.path.display()));
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .busy_timeout(self.busy_timeout)
            .synchronous(match self.durability {
                Durability::Full => SqliteSynchronous::Full,
                Durability::Normal => SqliteSynchronous::Normal,
            });
        let mut first = SqliteConnection::connect_with(&options)
            .await
            .map_err(|error| store_error("opening the database", error).with("path", self.path.display()))?;
        write_ahead(&mut first, self.busy_timeout).await?;
        first.close().await.map_err(|error| store_error("opening the database", error))?;
        SqlitePoolOptions::new()
            .max_connections(self.max_connections)
            .connect_with(options)
            .await
            .map_err(|error| store_error("opening the database", error).with("path", self.path.display()))
    }
}

/// Switches the file to WAL mode if it is not.
///
/// Switching needs the file for itself for a moment, and does not wait for that by the busy timeout. So when
/// several processes open a new file at once, some have to try again.
async fn write_ahead(connection: &mut SqliteConnection, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        if journal_mode(connection).await? == "wal" {
            return Ok(());
        }
        let answer =
            sqlx::query_scalar::<_, String>("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await;
        match answer.map_err(|error| store_error("switching to WAL mode", error)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Error::config(
                    "the database cannot be switched to WAL mode; it needs a local file on a file system with \
                     shared memory",
                )
                .with("journal_mode", mode));
            }
            Err(error) if error.kind() != ErrorKind::Conflict || Instant::now() >= deadline => {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

pub(crate) async fn journal_mode(connection: &mut SqliteConnection) -> Result<String> {
    sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(connection)
        .await
        .map_err(|error| store_error("asking for the journal mode", error))
}
