//! Every promise about inboxes, on SQL Server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use async_trait::async_trait;
use integration_tests::{Server, SqlServer};
use outbox_conformance::{InboxFixture, InboxHarness, InboxTransaction};
use outbox_core::{MessageId, Result};
use outbox_mssql::{Config, Connection, Inbox, Pool, map_error};
use support::{Scene, pool};

struct Harness;

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(SqlServer::shared()).map(|_| Self)
    }
}

#[async_trait]
impl InboxHarness for Harness {
    async fn create(&self) -> Result<Box<dyn InboxFixture>> {
        let scene = Scene::empty(Config::new()).await.expect("the server that was there a moment ago");
        let inbox = Inbox::new(Config::new())?;
        let pool = pool(&scene.database, 20);
        inbox.migrate(&pool).await?;
        Ok(Box::new(Fixture { pool, _scene: scene, inbox }))
    }
}

struct Fixture {
    pool: Pool,
    _scene: Scene,
    inbox: Inbox,
}

#[async_trait]
impl InboxFixture for Fixture {
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>> {
        let mut client = self.pool.get().await?;
        client.begin_transaction().await.map_err(map_error)?;
        Ok(Box::new(Consuming { inbox: self.inbox.clone(), client }))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.inbox.purge(&self.pool, older_than, limit).await
    }
}

struct Consuming {
    inbox: Inbox,
    client: Connection,
}

#[async_trait]
impl InboxTransaction for Consuming {
    async fn accept(&mut self, consumer: &str, id: MessageId) -> Result<bool> {
        self.inbox.accept(&mut self.client, consumer, id).await
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.client.commit_transaction().await.map_err(map_error)
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        self.client.rollback_transaction().await.map_err(map_error)
    }
}

outbox_conformance::inbox_tests!(match Harness::new() {
    Some(harness) => harness,
    None => return,
});

#[tokio::test]
async fn many_processes_may_make_the_table_at_once() {
    let Some(scene) = Scene::empty(Config::new()).await else { return };
    let inbox = Inbox::new(Config::new().schema("Consuming").prefix("consumer")).unwrap();
    let made = (0..8).map(|_| inbox.migrate(&scene.pool));
    futures_util::future::try_join_all(made).await.unwrap();
    scene.run(&inbox.ddl()).await;
    let mut client = scene.pool.get().await.unwrap();
    assert!(inbox.accept(&mut client, "billing", MessageId::new()).await.unwrap());
}
