//! PostgreSQL, in a separate server.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use integration_tests::{Environment, Postgres, Proxy, Server, postgres};
use outbox_core::{Message, Result, Store};
use sqlx::{PgPool, Row, Transaction};

use super::{Books, Page};

/// A run on PostgreSQL.
#[derive(Debug)]
pub struct OnPostgres {
    server: Postgres,
    database: postgres::Database,
    pool: PgPool,
    outbox: outbox_postgres::Outbox,
}

impl OnPostgres {
    /// Starts a server. Returns `None` if there is no such server; the harness has reported it.
    ///
    /// # Panics
    /// If the tables cannot be created.
    pub async fn start() -> Option<Self> {
        Self::start_in(Environment::of_process()).await
    }

    /// Like [`start`](Self::start), with variables chosen by the caller.
    ///
    /// # Panics
    /// Like [`start`](Self::start).
    pub async fn start_in(environment: Environment) -> Option<Self> {
        let server = Postgres::start_in(environment).await?;
        let database = server.database().await;
        let pool = database.pool(40).await;
        let outbox = outbox_postgres::Outbox::new(outbox_postgres::Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        sqlx::query("CREATE TABLE ledger (key bigint, number bigint, PRIMARY KEY (key, number))")
            .execute(&pool)
            .await
            .unwrap();
        Some(Self { server, database, pool, outbox })
    }

    /// The server.
    pub fn server(&self) -> &Postgres {
        &self.server
    }
}

#[async_trait]
impl Books for OnPostgres {
    fn url(&self) -> String {
        self.database.url().to_owned()
    }

    fn url_through(&self, proxy: &Proxy) -> String {
        self.database.url_through(proxy)
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(self.server.address())
    }

    async fn migrate(&self) -> Result<()> {
        self.outbox.migrate(&self.pool).await
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.outbox.store(self.pool.clone()))
    }

    async fn begin(&self) -> Result<Box<dyn Page>> {
        let transaction = self.pool.begin().await.map_err(outbox_postgres::map_error)?;
        Ok(Box::new(PostgresPage { transaction, outbox: self.outbox.clone() }))
    }

    async fn answers(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.pool).await.is_ok()
    }

    async fn committed(&self) -> HashSet<(i64, i64)> {
        let rows = sqlx::query("SELECT key, number FROM ledger").fetch_all(&self.pool).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn kill(&self) {
        self.server.kill().await;
    }

    async fn restart(&self) {
        self.server.restart().await;
    }

    async fn stop(&self) {
        self.server.stop().await;
    }

    async fn cont(&self) {
        self.server.cont().await;
    }
}

struct PostgresPage {
    transaction: Transaction<'static, sqlx::Postgres>,
    outbox: outbox_postgres::Outbox,
}

#[async_trait]
impl Page for PostgresPage {
    async fn write(&mut self, numbers: &[(i64, i64)], messages: &[Message]) -> Result<()> {
        let (keys, numbers): (Vec<i64>, Vec<i64>) = numbers.iter().copied().unzip();
        sqlx::query("INSERT INTO ledger (key, number) SELECT * FROM unnest($1::bigint[], $2::bigint[])")
            .bind(keys)
            .bind(numbers)
            .execute(&mut *self.transaction)
            .await
            .map_err(outbox_postgres::map_error)?;
        self.outbox.enqueue_batch(&mut *self.transaction, messages).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.transaction.commit().await.map_err(outbox_postgres::map_error)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.transaction.rollback().await.map_err(outbox_postgres::map_error)
    }
}
