//! Every promise about inboxes, on SQLite.

#![allow(clippy::unwrap_used, reason = "tests assert by panicking, in their helpers too")]

mod common;

use std::time::Duration;

use async_trait::async_trait;
use common::Database;
use outbox_conformance::{InboxFixture, InboxHarness, InboxTransaction};
use outbox_core::{MessageId, Result};
use outbox_sqlite::{Config, Inbox, map_error};
use sqlx::{Sqlite, Transaction};

struct Harness;

#[async_trait]
impl InboxHarness for Harness {
    async fn create(&self) -> Result<Box<dyn InboxFixture>> {
        let fixture = Fixture { database: Database::new().await, inbox: Inbox::new(Config::new())? };
        fixture.inbox.migrate(&fixture.database.pool).await?;
        Ok(Box::new(fixture))
    }

    fn not_applicable(&self) -> &[&str] {
        &["accepting::who_comes_second_waits_for_the_first"]
    }
}

struct Fixture {
    database: Database,
    inbox: Inbox,
}

#[async_trait]
impl InboxFixture for Fixture {
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>> {
        let transaction = self.database.pool.begin_with("BEGIN IMMEDIATE").await.map_err(map_error)?;
        Ok(Box::new(Consuming { inbox: self.inbox.clone(), transaction }))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.inbox.purge(&self.database.pool, older_than, limit).await
    }

    fn concurrent_writers(&self) -> bool {
        false
    }
}

struct Consuming {
    inbox: Inbox,
    transaction: Transaction<'static, Sqlite>,
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

outbox_conformance::inbox_tests!(Harness);

#[test]
fn the_printed_statements_are_these() {
    insta::assert_snapshot!(Inbox::new(Config::new()).unwrap().ddl());
}

#[tokio::test]
async fn a_table_that_is_there_is_left_alone() {
    let database = Database::new().await;
    let inbox = Inbox::new(Config::new()).unwrap();
    inbox.migrate(&database.pool).await.unwrap();
    let id = MessageId::new();
    assert!(inbox.accept(&database.pool, "billing", id).await.unwrap());
    inbox.migrate(&database.pool).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(inbox.ddl())).execute(&database.pool).await.unwrap();
    assert!(!inbox.accept(&database.pool, "billing", id).await.unwrap());
}
