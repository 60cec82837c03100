//! The store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    Count, DeadLetters, Inspection, Membership, Partition, Reader, RelayId, Result, Settle, Stats, Store,
};
use tiberius::ToSql;
use tokio::sync::OnceCell;

use crate::call::{again, query};
use crate::config::Config;
use crate::group::span;
use crate::migrate::{ServerFacts, read_meta};
use crate::outbox::Shared;
use crate::pool::Pool;
use crate::reader::MssqlReader;
use crate::row::Columns;
use crate::sql::{ReadStatements, Reading, SCHEMA_VERSION, Statements};

/// An outbox in SQL Server, as a relay sees it. Cheap to clone.
///
/// At its first use it checks that the tables are of the version it knows, and every call fails with
/// [`ErrorKind::Schema`](outbox_core::ErrorKind::Schema) until they are.
#[derive(Clone)]
pub struct MssqlStore {
    pool: Pool,
    shared: Arc<Shared>,
    facts: Arc<OnceCell<Facts>>,
}

/// What was found out about the database at the first use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) partitions: usize,
    pub(crate) reading: Reading,
    pub(crate) is_babelfish: bool,
}

/// What every call needs, once the version is known to be right.
pub(crate) struct Checked<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) shared: &'a Shared,
    pub(crate) sql: &'a Statements,
    /// The statements that read what others may be writing.
    pub(crate) reads: &'a ReadStatements,
    pub(crate) facts: Facts,
}

impl MssqlStore {
    /// The store over the tables that the settings name; the same as [`Outbox::store`](crate::Outbox::store), for a
    /// process that only relays.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name or the number of partitions cannot be.
    pub fn new(pool: Pool, config: Config) -> Result<Self> {
        Ok(Self::over(pool, Arc::new(Shared::new(config)?)))
    }

    pub(crate) fn over(pool: Pool, shared: Arc<Shared>) -> Self {
        Self { pool, shared, facts: Arc::default() }
    }

    /// Whether the database keeps versions of rows is found out once. If somebody turns them off later, readers wait for
    /// writers until they begin anew; turned on, they have no effect until then.
    pub(crate) async fn checked(&self) -> Result<Checked<'_>> {
        let read = async || {
            let mut client = self.pool.call().await?;
            let meta = read_meta(&mut client, &self.shared).await?;
            meta.check_version(SCHEMA_VERSION.into(), &self.shared.names.meta)?;
            let server = ServerFacts::read(&mut client, &self.shared).await?;
            client.give_back();
            Ok(Facts {
                partitions: usize::try_from(meta.partitions).unwrap_or(1),
                reading: server.reading(),
                is_babelfish: server.is_babelfish,
            })
        };
        let facts = *self.facts.get_or_try_init(read).await?;
        let sql = &self.shared.statements;
        let reads = match facts.reading {
            Reading::Versions => &sql.versions,
            Reading::Locks => &sql.locks,
        };
        Ok(Checked { pool: &self.pool, shared: &self.shared, sql, reads, facts })
    }
}

impl fmt::Debug for MssqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MssqlStore").field("table", &self.shared.names.message).finish_non_exhaustive()
    }
}

/// A number as a parameter.
pub(crate) fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for MssqlStore {
    fn name(&self) -> &'static str {
        "mssql"
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
        Box::new(MssqlReader::new(self.clone()))
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        self.write(relay, batch, keep_delivered).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let Checked { pool, sql, .. } = self.checked().await?;
        let (seconds, micros) = span(older_than);
        again(|| async move {
            let mut client = pool.call().await?;
            let parameters: [&dyn ToSql; 3] = [&seconds, &micros, &number(limit)];
            let rows = query(&mut client, &sql.purge, &parameters).await?.rows();
            client.give_back();
            Ok(rows.first().map_or(Ok(0), |row| Columns(row).count(0))? as u64)
        })
        .await
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        self.release_stuck(relay, partitions, limit).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        let Checked { pool, reads, .. } = self.checked().await?;
        let count = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        again(|| async move {
            let mut client = pool.call().await?;
            let rows = query(&mut client, &reads.stats, &[&count]).await?.rows();
            client.give_back();
            let Some(row) = rows.first().map(Columns) else { return Ok(Stats::default()) };
            let counted =
                |column| Ok::<_, outbox_core::Error>(Count::limited(row.count(column)? as u64, limit));
            let lag = row.timestamp(2)?.zip(row.timestamp(3)?).map(|(now, oldest)| now.since(oldest));
            Ok(Stats { backlog: counted(0)?, dead_letters: counted(1)?, lag })
        })
        .await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        Some(self)
    }
}
