//! Every promise about inboxes, on MariaDB and on MySQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use async_trait::async_trait;
use integration_tests::mysql::Database;
use outbox_conformance::{InboxFixture, InboxHarness, InboxTransaction};
use outbox_core::{MessageId, Result};
use outbox_mysql::{Config, Inbox, map_error};
use sqlx::{MySqlPool, Transaction};
use support::{Product, on_both};

/// On some product, at some isolation level.
struct Harness(Product, &'static str);

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    fn new(product: Product, isolation: &'static str) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(product.database()).map(|_| Self(product, isolation))
    }
}

#[async_trait]
impl InboxHarness for Harness {
    async fn create(&self) -> Result<Box<dyn InboxFixture>> {
        let database = self.0.database().await.expect("the server that was there a moment ago");
        let pool = database.pool(20).await;
        let inbox = Inbox::new(Config::new())?;
        inbox.migrate(&pool).await?;
        Ok(Box::new(Fixture { _database: database, pool, inbox, isolation: self.1 }))
    }
}

struct Fixture {
    _database: Database,
    pool: MySqlPool,
    inbox: Inbox,
    isolation: &'static str,
}

#[async_trait]
impl InboxFixture for Fixture {
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>> {
        let mut connection = self.pool.acquire().await.map_err(map_error)?;
        let level = format!("SET SESSION TRANSACTION ISOLATION LEVEL {}", self.isolation);
        sqlx::raw_sql(sqlx::AssertSqlSafe(level)).execute(&mut *connection).await.map_err(map_error)?;
        let mut transaction = Transaction::begin(connection, None).await.map_err(map_error)?;
        // It sees the database as it is now, at REPEATABLE READ.
        sqlx::query("SELECT COUNT(*) FROM `outbox_inbox`")
            .execute(&mut *transaction)
            .await
            .map_err(map_error)?;
        Ok(Box::new(Consuming { inbox: self.inbox.clone(), transaction }))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.inbox.purge(&self.pool, older_than, limit).await
    }
}

struct Consuming {
    inbox: Inbox,
    transaction: Transaction<'static, sqlx::MySql>,
}

#[async_trait]
impl InboxTransaction for Consuming {
    async fn accept(&mut self, consumer: &str, id: MessageId) -> Result<bool> {
        self.inbox.accept(&mut *self.transaction, consumer, id).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.transaction.commit().await.map_err(map_error)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.transaction.rollback().await.map_err(map_error)
    }
}

macro_rules! inbox_tests {
    ($($name:ident: $product:ident at $isolation:literal;)*) => {$(
        mod $name {
            use super::*;

            outbox_conformance::inbox_tests!(match Harness::new(Product::$product, $isolation) {
                Some(harness) => harness,
                None => return,
            });
        }
    )*};
}

inbox_tests! {
    mariadb_at_repeatable_read: MariaDb at "REPEATABLE READ";
    mariadb_at_read_committed: MariaDb at "READ COMMITTED";
    mysql_at_repeatable_read: MySql at "REPEATABLE READ";
    mysql_at_read_committed: MySql at "READ COMMITTED";
}

mod tables {
    use super::*;

    async fn many_processes_may_make_the_table_at_once(product: Product) {
        let Some(database) = product.database().await else { return };
        let pool = database.pool(8).await;
        let inbox = Inbox::new(Config::new().prefix("consumer")).unwrap();
        let made = (0..8).map(|_| inbox.migrate(&pool));
        futures_util::future::try_join_all(made).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(inbox.ddl())).execute(&pool).await.unwrap();
        assert!(inbox.accept(&pool, "billing", MessageId::new()).await.unwrap());
    }

    on_both!(many_processes_may_make_the_table_at_once);
}
