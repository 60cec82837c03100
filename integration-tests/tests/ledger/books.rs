//! The database of the ledger: what is the same on every one of them.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use integration_tests::{MariaDb, Postgres, Server, mysql, postgres};
use outbox_core::{Message, Result, Store};
use sqlx::{MySqlPool, PgPool, Row, Transaction};

/// The business that writes messages, and numbers of its own beside them.
#[async_trait]
pub(crate) trait Books: Send + Sync {
    /// For relays in other processes.
    fn url(&self) -> &str;

    fn store(&self) -> Arc<dyn Store>;

    async fn begin(&self) -> Result<Box<dyn Page>>;

    /// Whether the database answers.
    async fn answers(&self) -> bool;

    /// What the database says was committed.
    async fn committed(&self) -> HashSet<(i64, i64)>;

    async fn kill(&self);

    async fn restart(&self);
}

/// An open transaction. Dropping it rolls it back.
#[async_trait]
pub(crate) trait Page: Send {
    async fn write(&mut self, numbers: &[(i64, i64)], messages: &[Message]) -> Result<()>;

    async fn commit(self: Box<Self>) -> Result<()>;

    async fn rollback(self: Box<Self>) -> Result<()>;
}

pub(crate) struct OnPostgres {
    server: Postgres,
    database: postgres::Database,
    pool: PgPool,
    outbox: outbox_postgres::Outbox,
}

impl OnPostgres {
    /// `None` where there is no such server; the harness has said so.
    pub(crate) async fn start() -> Option<Self> {
        let server = Postgres::start().await?;
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
}

#[async_trait]
impl Books for OnPostgres {
    fn url(&self) -> &str {
        self.database.url()
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

pub(crate) struct OnMariaDb {
    server: MariaDb,
    database: mysql::Database,
    pool: MySqlPool,
    outbox: outbox_mysql::Outbox,
}

impl OnMariaDb {
    /// `None` where there is no such server; the harness has said so.
    pub(crate) async fn start() -> Option<Self> {
        let server = MariaDb::start().await?;
        let database = server.database().await;
        let pool = database.pool(40).await;
        let outbox = outbox_mysql::Outbox::new(outbox_mysql::Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        sqlx::query("CREATE TABLE ledger (`key` BIGINT, `number` BIGINT, PRIMARY KEY (`key`, `number`))")
            .execute(&pool)
            .await
            .unwrap();
        Some(Self { server, database, pool, outbox })
    }
}

#[async_trait]
impl Books for OnMariaDb {
    fn url(&self) -> &str {
        self.database.url()
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.outbox.store(self.pool.clone()))
    }

    async fn begin(&self) -> Result<Box<dyn Page>> {
        // At the server's default isolation level, REPEATABLE READ.
        let transaction = self.pool.begin().await.map_err(outbox_mysql::map_error)?;
        Ok(Box::new(MySqlPage { transaction, outbox: self.outbox.clone() }))
    }

    async fn answers(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.pool).await.is_ok()
    }

    async fn committed(&self) -> HashSet<(i64, i64)> {
        let rows = sqlx::query("SELECT `key`, `number` FROM ledger").fetch_all(&self.pool).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn kill(&self) {
        self.server.kill().await;
    }

    async fn restart(&self) {
        self.server.restart().await;
    }
}

struct MySqlPage {
    transaction: Transaction<'static, sqlx::MySql>,
    outbox: outbox_mysql::Outbox,
}

#[async_trait]
impl Page for MySqlPage {
    async fn write(&mut self, numbers: &[(i64, i64)], messages: &[Message]) -> Result<()> {
        let numbers: Vec<String> = numbers.iter().map(|(key, number)| format!("[{key},{number}]")).collect();
        sqlx::query(
            "INSERT INTO ledger (`key`, `number`) SELECT s.k, s.n
FROM JSON_TABLE(?, '$[*]' COLUMNS (k BIGINT PATH '$[0]', n BIGINT PATH '$[1]')) AS s",
        )
        .bind(format!("[{}]", numbers.join(",")))
        .execute(&mut *self.transaction)
        .await
        .map_err(outbox_mysql::map_error)?;
        self.outbox.enqueue_batch(&mut self.transaction, messages).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.transaction.commit().await.map_err(outbox_mysql::map_error)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.transaction.rollback().await.map_err(outbox_mysql::map_error)
    }
}
