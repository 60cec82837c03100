//! The ledger's database in a file. It is never killed, because it has no process.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use integration_tests::Proxy;
use outbox_core::{Message, Result, Store};
use outbox_sqlite::sqlx::{self, Row, Sqlite, SqlitePool, Transaction};
use outbox_sqlite::{Config, Durability, OpenOptions, Outbox, map_error};
use tempfile::TempDir;

use super::{Books, Page};

const FILE: &str = "ledger.db";

/// A run on SQLite.
#[derive(Debug)]
pub struct OnSqlite {
    folder: TempDir,
    pool: SqlitePool,
    outbox: Outbox,
}

impl OnSqlite {
    /// Creates a file in a new folder.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // No test cuts the power.
        let options = OpenOptions::new(folder.path().join(FILE)).durability(Durability::Normal);
        let pool = options.open().await.unwrap();
        let outbox = Outbox::new(Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        sqlx::query("CREATE TABLE ledger (key INTEGER, number INTEGER, PRIMARY KEY (key, number))")
            .execute(&pool)
            .await
            .unwrap();
        Self { folder, pool, outbox }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }
}

#[async_trait]
impl Books for OnSqlite {
    fn url(&self) -> String {
        format!("sqlite:{}", self.file().display())
    }

    fn url_through(&self, _: &Proxy) -> String {
        self.url()
    }

    fn address(&self) -> Option<SocketAddr> {
        None
    }

    async fn migrate(&self) -> Result<()> {
        self.outbox.migrate(&self.pool).await
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.outbox.store(self.pool.clone()))
    }

    async fn begin(&self) -> Result<Box<dyn Page>> {
        let transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(map_error)?;
        Ok(Box::new(SqlitePage { transaction, outbox: self.outbox.clone() }))
    }

    async fn answers(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.pool).await.is_ok()
    }

    async fn committed(&self) -> HashSet<(i64, i64)> {
        let rows = sqlx::query("SELECT key, number FROM ledger").fetch_all(&self.pool).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn kill(&self) {}

    async fn restart(&self) {}

    async fn stop(&self) {}

    async fn cont(&self) {}
}

struct SqlitePage {
    transaction: Transaction<'static, Sqlite>,
    outbox: Outbox,
}

#[async_trait]
impl Page for SqlitePage {
    async fn write(&mut self, numbers: &[(i64, i64)], messages: &[Message]) -> Result<()> {
        for (key, number) in numbers {
            sqlx::query("INSERT INTO ledger (key, number) VALUES (?, ?)")
                .bind(key)
                .bind(number)
                .execute(&mut *self.transaction)
                .await
                .map_err(map_error)?;
        }
        self.outbox.enqueue_batch(&mut *self.transaction, messages).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.transaction.commit().await.map_err(map_error)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.transaction.rollback().await.map_err(map_error)
    }
}
