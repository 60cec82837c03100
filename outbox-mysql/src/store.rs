//! The store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    Count, DeadLetters, Inspection, Membership, Partition, Reader, RelayId, Result, Settle, Stats, Store,
};
use outbox_sql::text::micros;
use sqlx::MySqlPool;
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::connections::Connections;
use crate::error::map_error;
use crate::migrate::read_meta;
use crate::outbox::Shared;
use crate::reader::MySqlReader;
use crate::row::Columns;
use crate::sql::SCHEMA_VERSION;

/// An outbox in MySQL or MariaDB, as a relay sees it. Cheap to clone.
///
/// At its first use it checks that the tables are of the version it knows, and every call fails with
/// [`ErrorKind::Schema`](outbox_core::ErrorKind::Schema) until they are.
#[derive(Clone)]
pub struct MySqlStore {
    pool: MySqlPool,
    shared: Arc<Shared>,
    inner: Arc<OnceCell<Inner>>,
}

/// What every call needs, once the version is known to be right.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connections: Connections,
    pub(crate) partitions: usize,
}

impl MySqlStore {
    /// The store over the tables that the settings name; the same as [`Outbox::store`](crate::Outbox::store), for a
    /// process that only relays.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name or the number of partitions cannot be.
    pub fn new(pool: MySqlPool, config: Config) -> Result<Self> {
        Ok(Self::over(pool, Arc::new(Shared::new(config)?)))
    }

    pub(crate) fn over(pool: MySqlPool, shared: Arc<Shared>) -> Self {
        Self { pool, shared, inner: Arc::default() }
    }

    pub(crate) async fn checked(&self) -> Result<&Inner> {
        let open = async || {
            let connections = Connections::beside(&self.pool);
            let mut session = connections.lend().await?;
            let meta = read_meta(&mut session, &self.shared).await?;
            session.give_back();
            meta.check_version(SCHEMA_VERSION.into(), &self.shared.names.meta)?;
            let partitions = usize::try_from(meta.partitions).unwrap_or(1);
            Ok(Inner { shared: self.shared.clone(), connections, partitions })
        };
        self.inner.get_or_try_init(open).await
    }
}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStore").field("table", &self.shared.names.message).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MySqlStore {
    fn name(&self) -> &'static str {
        "mysql"
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
        Box::new(MySqlReader::new(self.clone()))
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        self.write(relay, batch, keep_delivered).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let inner = self.checked().await?;
        let mut session = inner.connections.lend().await?;
        let purged = sqlx::query(inner.shared.statements.purge.clone())
            .bind(micros(older_than))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .execute(&mut *session)
            .await
            .map_err(map_error)?;
        session.give_back();
        Ok(purged.rows_affected())
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        self.release_stuck(relay, partitions, limit).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        let inner = self.checked().await?;
        let count = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let query = sqlx::query(inner.shared.statements.stats.clone()).bind(count).bind(count);
        let row = inner.connections.row(query).await?;
        let row = Columns(&row);
        let counted = |column| -> Result<Count> {
            Ok(Count::limited(u64::try_from(row.required(column)?).unwrap_or(0), limit))
        };
        let lag = row.timestamp(2)?.zip(row.timestamp(3)?).map(|(now, oldest)| now.since(oldest));
        Ok(Stats { backlog: counted(0)?, dead_letters: counted(1)?, lag })
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        Some(self)
    }
}
