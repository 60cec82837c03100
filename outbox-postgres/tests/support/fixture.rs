//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::sync::Arc;

use async_trait::async_trait;
use integration_tests::postgres::Database;
use integration_tests::{Postgres, PostgresNext, Server};
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::{Message, MessageId, Position, Result, Store};
use outbox_postgres::{Config, Outbox, map_error};
use sqlx::{AssertSqlSafe, Postgres as Driver, Transaction};

use super::Scene;

/// On the installed PostgreSQL, or on a newer one.
#[derive(Clone, Copy)]
pub(crate) enum Harness {
    Installed,
    Newer,
}

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn if_available(self) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.database()).map(|_| self)
    }

    async fn database(self) -> Option<Database> {
        match self {
            Self::Installed => Some(Postgres::shared().await?.database().await),
            Self::Newer => Some(PostgresNext::shared().await?.database().await),
        }
    }
}

#[async_trait]
impl StoreHarness for Harness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        // Names that only work if they are quoted everywhere.
        let config = Config::new().schema("Some schema").prefix("out-box");
        let database = self.database().await.expect("the server that was there a moment ago");
        let scene = Scene::empty_in(database, config).await;
        scene.outbox.migrate(&scene.pool).await?;
        Ok(Box::new(Fixture { scene }))
    }
}

struct Fixture {
    scene: Scene,
}

impl Fixture {
    fn message_table(&self) -> String {
        self.scene.outbox.config().message_table().unwrap()
    }
}

#[async_trait]
impl StoreFixture for Fixture {
    fn traits(&self) -> StoreTraits {
        StoreTraits::default()
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.scene.outbox.store(self.scene.database.pool(5).await)))
    }

    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>> {
        let transaction = self.scene.pool.begin().await.map_err(map_error)?;
        Ok(Box::new(Enqueueing { outbox: self.scene.outbox.clone(), transaction }))
    }

    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>> {
        let table = self.message_table();
        let mut written = Vec::new();
        for (number, (values, mentions, topic)) in [
            ("'', '{}', '{}'", "topic", ""),
            ("'t', '{\"a\": 1}', '{}'", "headers", "t"),
            ("'t', '[1]', '{}'", "headers", "t"),
            ("'t', 'null', '{}'", "headers", "t"),
            ("'t', '{\"\": \"x\"}', '{}'", "headers", "t"),
            ("'t', '{}', '[]'", "options", "t"),
            ("'t', '{}', '\"x\"'", "options", "t"),
        ]
        .into_iter()
        .enumerate()
        {
            // Their keys differ, or one would wait for another when both have died.
            let (id, key) = (MessageId::new(), format!("key {number}"));
            self.scene
                .run(&format!(
                    "INSERT INTO {table} (message_id, key, payload, topic, headers, options)
                     VALUES ('{id}', '{key}', '\\x00', {values})"
                ))
                .await;
            written.push(MalformedRow::new(mentions).id(id).topic(topic).key(key));
        }
        Ok(written)
    }

    async fn delete_by_hand(&self, id: MessageId) -> Result<()> {
        let message = self.message_table();
        let dead_letter = message.replace("_message", "_dead_letter");
        for table in [message, dead_letter] {
            self.scene.run(&format!("DELETE FROM {table} WHERE message_id = '{id}'")).await;
        }
        Ok(())
    }

    async fn replace(&self, position: Position, message: &Message) -> Result<()> {
        let table = self.message_table();
        self.scene.run(&format!("DELETE FROM {table} WHERE position = {position}")).await;
        let insert = format!(
            "INSERT INTO {table} (position, message_id, topic, key, payload) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5)"
        );
        let insert = sqlx::query(AssertSqlSafe(insert))
            .bind(position.0)
            .bind(message.id().as_uuid())
            .bind(message.topic())
            .bind(message.key())
            .bind(message.payload().as_ref());
        insert.execute(&self.scene.pool).await.map(|_| ()).map_err(map_error)
    }

    async fn break_connections(&self) -> Result<bool> {
        sqlx::query(AssertSqlSafe(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        ))
        .execute(&self.scene.pool)
        .await
        .map_err(map_error)?;
        Ok(true)
    }
}

struct Enqueueing {
    outbox: Outbox,
    transaction: Transaction<'static, Driver>,
}

#[async_trait]
impl EnqueueTransaction for Enqueueing {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        // Both ways of enqueueing take part in every case.
        if let [message] = messages {
            self.outbox.enqueue(&mut *self.transaction, message).await
        } else {
            self.outbox.enqueue_batch(&mut *self.transaction, messages).await
        }
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.transaction.commit().await.map_err(map_error)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.transaction.rollback().await.map_err(map_error)
    }
}
