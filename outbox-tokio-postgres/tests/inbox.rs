//! The promises about inboxes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Manager, Object, Pool};
use integration_tests::postgres::Database;
use integration_tests::{Postgres, Server};
use outbox_conformance::{InboxFixture, InboxHarness, InboxTransaction};
use outbox_core::{Error, ErrorKind, MessageId, Result};
use outbox_tokio_postgres::{Config, Inbox, map_error};
use support::connect;
use tokio_postgres::NoTls;

struct Harness(&'static Postgres);

impl Harness {
    /// Returns `None` if there is no PostgreSQL, which the harness has reported.
    fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Postgres::shared()).map(Self)
    }
}

#[async_trait]
impl InboxHarness for Harness {
    async fn create(&self) -> Result<Box<dyn InboxFixture>> {
        let database = self.0.database().await;
        let config = database.url().parse().map_err(map_error)?;
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(20).build().unwrap();
        let inbox = Inbox::new(Config::new())?;
        client(&pool).await?.batch_execute(inbox.ddl()).await.map_err(map_error)?;
        Ok(Box::new(Fixture { _database: database, pool, inbox }))
    }
}

async fn client(pool: &Pool) -> Result<Object> {
    pool.get()
        .await
        .map_err(|error| Error::new(ErrorKind::Unavailable, "no connection from the pool").with_source(error))
}

struct Fixture {
    _database: Database,
    pool: Pool,
    inbox: Inbox,
}

#[async_trait]
impl InboxFixture for Fixture {
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>> {
        let client = client(&self.pool).await?;
        client.batch_execute("BEGIN").await.map_err(map_error)?;
        Ok(Box::new(Consuming { inbox: self.inbox.clone(), client: Some(client) }))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.inbox.purge(&**client(&self.pool).await?, older_than, limit).await
    }
}

/// Owns its client, which a transaction of the driver borrows.
struct Consuming {
    inbox: Inbox,
    client: Option<Object>,
}

impl Consuming {
    async fn end(mut self: Box<Self>, statement: &str) -> Result<()> {
        let client = self.client.take().unwrap();
        client.batch_execute(statement).await.map_err(map_error)
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        // A dropped transaction ends with its connection.
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

#[async_trait]
impl InboxTransaction for Consuming {
    async fn accept(&mut self, consumer: &str, id: MessageId) -> Result<bool> {
        self.inbox.accept(&***self.client.as_ref().unwrap(), consumer, id).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.end("COMMIT").await
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.end("ROLLBACK").await
    }
}

outbox_conformance::inbox_tests!(match Harness::new() {
    Some(harness) => harness,
    None => return,
});

#[tokio::test]
async fn at_a_stricter_isolation_level_the_loser_is_told_to_begin_anew() {
    let Some(postgres) = Postgres::shared().await else { return };
    let database = postgres.database().await;
    let inbox = Inbox::new(Config::new().schema("consumer")).unwrap();
    let (mut strict, other) = (connect(database.url()).await, connect(database.url()).await);
    other.batch_execute(inbox.ddl()).await.unwrap();
    // The statements can be run again.
    other.batch_execute(inbox.ddl()).await.unwrap();

    let id = MessageId::new();
    let level = tokio_postgres::IsolationLevel::RepeatableRead;
    let strict = strict.build_transaction().isolation_level(level).start().await.unwrap();
    strict.execute("SELECT 1", &[]).await.unwrap();
    assert!(inbox.accept(&other, "billing", id).await.unwrap());
    let error = inbox.accept(&strict, "billing", id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let driver = error.driver_error::<tokio_postgres::Error>().unwrap();
    assert_eq!(driver.code().unwrap().code(), "40001");
}
