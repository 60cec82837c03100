//! The store.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use outbox_core::{
    Count, DeadLetters, Inspection, Membership, Partition, Reader, RelayId, Result, Settle, Stats, Store,
    Wakeups,
};
use outbox_sql::postgres::ddl::SCHEMA_VERSION;
use outbox_sql::postgres::{Config, Names};
use outbox_sql::schema::Meta;
use outbox_sql::text::micros;
use sqlx::PgPool;
use tokio::sync::OnceCell;

use crate::encoding::Encoding;
use crate::error::map_error;
use crate::group::FarOff;
use crate::migrate::read_meta;
use crate::outbox::Shared;
use crate::reader::PostgresReader;
use crate::repair::Round;
use crate::row::Columns;
use crate::sessions::{Lent, Sessions};
use crate::sql::Statements;
use crate::wakeups::Listener;

/// How many rows of each partition are looked at for the oldest one that is not scheduled for later.
const LAG_DEPTH: i64 = 1000;

/// How long settling avoids to wait for locks after it has met one.
const LOCKED_FOR: Duration = Duration::from_secs(10);

/// An outbox in PostgreSQL, as a relay sees it. Cheap to clone.
///
/// At its first use it checks that the tables are of the version it knows, and every call fails with
/// [`ErrorKind::Schema`](outbox_core::ErrorKind::Schema) until they are.
#[derive(Clone)]
pub struct PostgresStore {
    pool: PgPool,
    sessions: Sessions,
    shared: Arc<Shared>,
    meta: Arc<OnceCell<(Meta, Encoding)>>,
    /// When a settle call last met a row that another session had locked.
    locked_rows: Arc<Mutex<Option<Instant>>>,
    round: Arc<Round>,
    far_off: Arc<FarOff>,
}

impl PostgresStore {
    /// The store over the tables that the settings name; the same as [`Outbox::store`](crate::Outbox::store), for a
    /// process that only relays.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name or the number of partitions cannot be.
    pub fn new(pool: PgPool, config: Config) -> Result<Self> {
        Ok(Self::over(pool, Arc::new(Shared::new(config)?)))
    }

    pub(crate) fn over(pool: PgPool, shared: Arc<Shared>) -> Self {
        Self {
            sessions: Sessions::beside(pool.clone()),
            pool,
            shared,
            meta: Arc::default(),
            locked_rows: Arc::default(),
            round: Arc::default(),
            far_off: Arc::default(),
        }
    }

    /// A session for one call of a relay.
    pub(crate) async fn lend(&self) -> Result<Lent> {
        self.sessions.lend().await
    }

    /// A session for a heartbeat.
    pub(crate) async fn lend_reserved(&self) -> Result<Lent> {
        self.sessions.lend_reserved().await
    }

    /// Whether nobody gives our sessions to others between two statements. Known after [`checked`](Self::checked), which needs one.
    pub(crate) fn has_sessions_of_its_own(&self) -> bool {
        self.sessions.are_ours()
    }

    pub(crate) async fn meta(&self) -> Result<Meta> {
        self.tables().await.map(|(meta, _)| meta)
    }

    /// Which characters the database can store.
    pub(crate) async fn encoding(&self) -> Result<Encoding> {
        self.tables().await.map(|(_, encoding)| encoding)
    }

    async fn tables(&self) -> Result<(Meta, Encoding)> {
        let read = async || {
            let mut lent = self.lend().await?;
            let meta = async {
                let mut connection = lent.bounded().await?;
                let meta = read_meta(&mut connection, &self.shared).await?;
                connection.finish().await?;
                Ok(meta)
            };
            let meta = meta.await;
            let (meta, encoding) = lent.end(meta).await?;
            meta.check_version(SCHEMA_VERSION.into(), &self.shared.names.meta)?;
            Ok((meta, encoding))
        };
        self.meta.get_or_try_init(read).await.copied()
    }

    /// What every call needs, once the version is known to be right.
    pub(crate) async fn checked(&self) -> Result<(&PgPool, &Names, &Statements)> {
        self.meta().await?;
        Ok((&self.pool, &self.shared.names, &self.shared.statements))
    }

    /// Relays whose time ends too far in the future.
    pub(crate) fn far_off(&self) -> &FarOff {
        &self.far_off
    }

    /// How far repairing has come.
    pub(crate) fn round(&self) -> &Round {
        &self.round
    }

    /// Whether rows have lately been locked by other sessions, so that a call had better not wait for them.
    pub(crate) fn rows_are_locked(&self) -> bool {
        self.locked_rows().is_some_and(|last| last.elapsed() < LOCKED_FOR)
    }

    pub(crate) fn note_locked_rows(&self) {
        *self.locked_rows() = Some(Instant::now());
    }

    pub(crate) fn forget_locked_rows(&self) {
        *self.locked_rows() = None;
    }

    fn locked_rows(&self) -> MutexGuard<'_, Option<Instant>> {
        self.locked_rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statements, once the version is known to be right.
    pub(crate) async fn sql(&self) -> Result<&Statements> {
        self.checked().await.map(|(_, _, sql)| sql)
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("table", &self.shared.names.message).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        self.beat(relay, ttl).await
    }

    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        self.release_leases(relay, partitions).await
    }

    async fn leave(&self, relay: RelayId) -> Result<()> {
        self.leave_group(relay).await
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(PostgresReader::new(self.clone()))
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        self.write(relay, batch, keep_delivered).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let sql = self.sql().await?;
        let mut lent = self.lend().await?;
        let purged = async {
            let mut connection = lent.bounded().await?;
            let purged = sqlx::query(sql.purge.clone())
                .bind(micros(older_than))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(false)
                .execute(&mut *connection)
                .await
                .map_err(map_error)?;
            connection.finish().await?;
            Ok(purged.rows_affected())
        };
        let purged = purged.await;
        lent.end(purged).await
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        self.release_stuck(relay, partitions, limit).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        let meta = self.meta().await?;
        let count = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let mut lent = self.lend().await?;
        let row = async {
            let mut tx = lent.begin_unplanned().await?;
            let row = sqlx::query(self.shared.statements.stats.clone())
                .bind(count)
                .bind(LAG_DEPTH)
                .bind(meta.partitions)
                .fetch_one(&mut *tx)
                .await
                .map_err(map_error)?;
            tx.commit().await.map_err(map_error)?;
            Ok(row)
        };
        let row = row.await;
        let row = lent.end(row).await?;
        let row = Columns(&row);
        let counted = |column| -> Result<Count> {
            let number = row.bigint(column)?.and_then(|number| u64::try_from(number).ok());
            Ok(Count::limited(number.unwrap_or(0), limit))
        };
        let lag = row.timestamp(2)?.zip(row.timestamp(3)?).map(|(now, oldest)| now.since(oldest));
        Ok(Stats { backlog: counted(0)?, dead_letters: counted(1)?, lag })
    }

    /// None through a pooler that gives sessions away: a session that has listened once would hand our notifications to
    /// whoever has it next, and the application's driver may take them for an answer to its statement, and fail.
    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        let (pool, names, _) = self.checked().await?;
        if !self.has_sessions_of_its_own() || !names.wakeups {
            return Ok(None);
        }
        Ok(Some(Box::new(Listener::connect(pool, &names.channel).await?)))
    }

    /// Without wake-ups no commit is to notify, so the database is not told.
    async fn set_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        if !self.shared.names.wakeups {
            return Ok(());
        }
        self.write_idle(relay, idle).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        Some(self)
    }
}
