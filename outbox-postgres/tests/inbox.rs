//! Every promise about inboxes, on PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::postgres::Database;
use integration_tests::{Postgres, Server};
use outbox_conformance::{InboxFixture, InboxHarness, InboxTransaction};
use outbox_core::{ErrorKind, MessageId, Result};
use outbox_postgres::{Config, Inbox, map_error};
use sqlx::{PgPool, Transaction};

struct Harness(&'static Postgres);

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Postgres::shared()).map(Self)
    }
}

#[async_trait]
impl InboxHarness for Harness {
    async fn create(&self) -> Result<Box<dyn InboxFixture>> {
        let database = self.0.database().await;
        let pool = database.pool(20).await;
        let inbox = Inbox::new(Config::new())?;
        inbox.migrate(&pool).await?;
        Ok(Box::new(Fixture { _database: database, pool, inbox }))
    }
}

struct Fixture {
    _database: Database,
    pool: PgPool,
    inbox: Inbox,
}

#[async_trait]
impl InboxFixture for Fixture {
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>> {
        let transaction = self.pool.begin().await.map_err(map_error)?;
        Ok(Box::new(Consuming { inbox: self.inbox.clone(), transaction }))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.inbox.purge(&self.pool, older_than, limit).await
    }
}

struct Consuming {
    inbox: Inbox,
    transaction: Transaction<'static, sqlx::Postgres>,
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

outbox_conformance::inbox_tests!(match Harness::new() {
    Some(harness) => harness,
    None => return,
});

#[tokio::test]
async fn many_processes_may_make_the_table_at_once() {
    let Some(postgres) = Postgres::shared().await else { return };
    let database = postgres.database().await;
    let pool = database.pool(8).await;
    let inbox = Inbox::new(Config::new().schema("consumer")).unwrap();
    let made = (0..8).map(|_| inbox.migrate(&pool));
    futures_util::future::try_join_all(made).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(inbox.ddl())).execute(&pool).await.unwrap();
    assert!(inbox.accept(&pool, "billing", MessageId::new()).await.unwrap());
}

#[tokio::test]
async fn at_a_stricter_isolation_level_the_loser_is_told_to_begin_anew() {
    let Some(postgres) = Postgres::shared().await else { return };
    let database = postgres.database().await;
    let pool = database.pool(2).await;
    let inbox = Inbox::new(Config::new()).unwrap();
    inbox.migrate(&pool).await.unwrap();
    let id = MessageId::new();
    let mut strict = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query("SELECT 1").execute(&mut *strict).await.unwrap();
    assert!(inbox.accept(&pool, "billing", id).await.unwrap());
    let error = inbox.accept(&mut *strict, "billing", id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}
