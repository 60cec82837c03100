//! The promises about inboxes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::time::Duration;

use async_trait::async_trait;
use diesel::connection::SimpleConnection;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use integration_tests::postgres::Database;
use integration_tests::{Postgres, Server};
use outbox_conformance::{InboxFixture, InboxHarness, InboxTransaction};
use outbox_core::{ErrorKind, MessageId, Result};
use outbox_diesel::{Config, Inbox, map_error};
use support::{blocking, connect};

struct Harness(&'static Postgres);

impl Harness {
    /// Returns `None` if there is no PostgreSQL, which the harness of servers has reported.
    fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Postgres::shared()).map(Self)
    }
}

#[async_trait]
impl InboxHarness for Harness {
    async fn create(&self) -> Result<Box<dyn InboxFixture>> {
        let database = self.0.database().await;
        let inbox = Inbox::new(Config::new())?;
        connect(database.url()).await.batch_execute(inbox.ddl()).await.map_err(map_error)?;
        Ok(Box::new(Fixture { database, inbox, idle: std::sync::Arc::default() }))
    }
}

struct Fixture {
    database: Database,
    inbox: Inbox,
    /// Connections of transactions that have ended.
    idle: std::sync::Arc<std::sync::Mutex<Vec<AsyncPgConnection>>>,
}

impl Fixture {
    async fn connection(&self) -> AsyncPgConnection {
        let idle = self.idle.lock().unwrap().pop();
        match idle {
            Some(connection) => connection,
            None => connect(self.database.url()).await,
        }
    }
}

#[async_trait]
impl InboxFixture for Fixture {
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>> {
        let mut connection = self.connection().await;
        connection.batch_execute("BEGIN").await.map_err(map_error)?;
        Ok(Box::new(Consuming { inbox: self.inbox.clone(), connection, idle: self.idle.clone() }))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.inbox.purge_async(&mut self.connection().await, older_than, limit).await
    }
}

struct Consuming {
    inbox: Inbox,
    connection: AsyncPgConnection,
    idle: std::sync::Arc<std::sync::Mutex<Vec<AsyncPgConnection>>>,
}

impl Consuming {
    async fn end(mut self: Box<Self>, statement: &str) -> Result<()> {
        self.connection.batch_execute(statement).await.map_err(map_error)?;
        self.idle.lock().unwrap().push(self.connection);
        Ok(())
    }
}

#[async_trait]
impl InboxTransaction for Consuming {
    async fn accept(&mut self, consumer: &str, id: MessageId) -> Result<bool> {
        self.inbox.accept_async(&mut self.connection, consumer, id).await
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
async fn a_synchronous_consumer_accepts_and_purges() {
    let Some(postgres) = Postgres::shared().await else { return };
    let database = postgres.database().await;
    let inbox = Inbox::new(Config::new().schema("consumer")).unwrap();
    let connection: support::SyncConnection = connect(database.url()).await.into();
    let id = MessageId::new();
    let (_, results) = blocking(connection, move |connection| {
        // The statements can be run again.
        SimpleConnection::batch_execute(connection, inbox.ddl()).unwrap();
        SimpleConnection::batch_execute(connection, inbox.ddl()).unwrap();
        let accepted = [(); 2].map(|()| inbox.accept(connection, "billing", id).unwrap());
        let error = inbox.accept(connection, "", id).unwrap_err();
        let purged = [(); 2].map(|()| inbox.purge(connection, Duration::ZERO, 10).unwrap());
        (accepted, error.kind(), purged)
    })
    .await;
    assert_eq!(results, ([true, false], ErrorKind::Config, [1, 0]));
}

#[tokio::test]
async fn at_a_stricter_isolation_level_the_loser_is_told_to_begin_anew() {
    let Some(postgres) = Postgres::shared().await else { return };
    let database = postgres.database().await;
    let inbox = Inbox::new(Config::new()).unwrap();
    let (mut strict, mut other) = (connect(database.url()).await, connect(database.url()).await);
    other.batch_execute(inbox.ddl()).await.unwrap();
    let id = MessageId::new();
    strict
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox_inbox")
        .await
        .unwrap();
    assert!(inbox.accept_async(&mut other, "billing", id).await.unwrap());
    let error = inbox.accept_async(&mut strict, "billing", id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
}
