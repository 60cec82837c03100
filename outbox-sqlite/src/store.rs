//! The store: what a relay needs of the database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    Count, DeadLetters, Error, ErrorKind, Inspection, Membership, Partition, Reader, RelayId, Result, Settle,
    Stats, Store, Wakeups,
};
use outbox_sql::text::micros;
use sqlx::Row;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::error::store_error;
use crate::lease;
use crate::open::journal_mode;
use crate::outbox::Outbox;
use crate::reader::SqliteReader;
use crate::row::integer;
use crate::schema::{self, Installed};
use crate::settle;
use crate::sql::Sql;
use crate::transaction::usable_connection;
use crate::wake::SqliteWakeups;

/// The oldest SQLite that knows every function used here (`octet_length`). The bundled one is newer.
const OLDEST: (u32, u32) = (3, 43);

/// The SQLite side of a relay: leases, fetching, settling, and looking after dead letters.
///
/// Cheap to clone. Works on any pool of one database file in WAL mode with a busy timeout; the first call checks
/// both and says what to do about them. Besides the pool's connections, [`wakeups`](Store::wakeups) keeps one open.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    pool: SqlitePool,
    outbox: Outbox,
    installed: Arc<OnceCell<Installed>>,
}

impl SqliteStore {
    /// A store of its own. [`Outbox::store`] makes one that is woken by an outbox you enqueue with.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if a setting is out of its range.
    pub fn new(pool: SqlitePool, config: Config) -> Result<Self> {
        Ok(Outbox::new(config)?.store(pool))
    }

    pub(crate) fn from_outbox(pool: SqlitePool, outbox: Outbox) -> Self {
        Self { pool, outbox, installed: Arc::new(OnceCell::new()) }
    }

    /// The outbox whose messages this store relays.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn sql(&self) -> &Sql {
        self.outbox.sql()
    }

    /// A connection to a database that was checked.
    pub(crate) async fn connection(&self) -> Result<PoolConnection<Sqlite>> {
        Ok(self.installed().await?.0)
    }

    /// The same, with what is known of its tables.
    pub(crate) async fn installed(&self) -> Result<(PoolConnection<Sqlite>, Installed)> {
        let mut connection = usable_connection(&self.pool).await?;
        let installed =
            *self.installed.get_or_try_init(|| check(&mut connection, self.outbox.config())).await?;
        Ok((connection, installed))
    }
}

/// Whether this database can be worked with at all.
async fn check(connection: &mut SqliteConnection, config: &Config) -> Result<Installed> {
    let doing = "checking the database";
    let row = sqlx::query(
        "SELECT sqlite_version(), (SELECT timeout FROM pragma_busy_timeout), (SELECT encoding FROM pragma_encoding)",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| store_error(doing, error))?;
    let text = |index: usize| row.try_get::<String, _>(index).map_err(|error| store_error(doing, error));
    let version = text(0)?;
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
        return Err(
            Error::config("SQLite 3.43 or newer is needed; use the bundled one").with("version", version)
        );
    }
    if integer(&row, 1)? == 0 {
        return Err(Error::config(
            "the pool has no busy timeout, so that every meeting of two writers would fail; set \
             SqliteConnectOptions::busy_timeout, or open the pool with OpenOptions",
        ));
    }
    let encoding = text(2)?;
    if encoding != "UTF-8" {
        return Err(Error::config("the database must be encoded in UTF-8, which is SQLite's default")
            .with("encoding", encoding));
    }
    let mode = journal_mode(connection).await?;
    if mode != "wal" {
        return Err(Error::config(
            "the database is not in WAL mode, so that readers and writers would wait for each other; run PRAGMA \
             journal_mode = WAL on it once, or open the pool with OpenOptions",
        )
        .with("journal_mode", mode));
    }
    schema::require(connection, config).await
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        let (mut connection, installed) = self.installed().await?;
        lease::heartbeat(&mut connection, self.sql(), relay, ttl, installed.partitions).await
    }

    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        lease::release(&mut *self.connection().await?, self.sql(), relay, partitions).await
    }

    async fn leave(&self, relay: RelayId) -> Result<()> {
        lease::leave(&mut *self.connection().await?, self.sql(), relay).await
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(SqliteReader::new(self.clone()))
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        settle::settle(&mut *self.connection().await?, self.sql(), relay, batch, keep_delivered).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let done = sqlx::query(self.sql().purge.sql())
            .bind(micros(older_than))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .execute(&mut *self.connection().await?)
            .await
            .map_err(|error| store_error("purging delivered messages", error))?;
        Ok(done.rows_affected())
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        settle::repair(&mut *self.connection().await?, self.sql(), relay, partitions, limit).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        let row = sqlx::query(self.sql().stats.sql())
            .bind(i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX))
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(|error| store_error("counting messages", error))?;
        let counted = |index: usize| Ok::<_, Error>(u64::try_from(integer(&row, index)?).unwrap_or(0));
        let lag: Option<i64> = row.try_get(2).map_err(|error| store_error("counting messages", error))?;
        Ok(Stats {
            backlog: Count::limited(counted(0)?, limit),
            dead_letters: Count::limited(counted(1)?, limit),
            lag: lag.map(|lag| Duration::from_micros(u64::try_from(lag).unwrap_or(0))),
        })
    }

    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        let interval = self.outbox.config().interval();
        let wakeups = SqliteWakeups::new(self.pool.clone(), self.outbox.bell().clone(), interval).await?;
        Ok(Some(Box::new(wakeups)))
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        Some(self)
    }
}

/// What a call outside the range of the tables means: they hold other partitions than the caller thinks.
pub(crate) fn impossible(what: &'static str, value: i64) -> Error {
    Error::new(ErrorKind::Schema, "the tables hold a number that is impossible there").with(what, value)
}
