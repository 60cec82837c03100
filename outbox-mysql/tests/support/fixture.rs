//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::{Message, MessageId, Position, Result, Store};
use outbox_mysql::{Config, Outbox, map_error};
use sqlx::{MySql as Driver, Transaction};
use uuid::Uuid;

use super::{Product, Scene};

pub(crate) struct Harness(pub(crate) Product);

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn new(product: Product) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(product.database()).map(|_| Self(product))
    }
}

#[async_trait]
impl StoreHarness for Harness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        // A name that only works if it is quoted everywhere.
        let scene = self.0.scene_with(Config::new().prefix("out-box")).await;
        Ok(Box::new(Fixture { scene: scene.expect("the server that was there a moment ago") }))
    }

    fn not_applicable(&self) -> &[&str] {
        &[
            "operating::wakeups_follow_commits",
            "operating::wakeups_follow_every_handle",
            "operating::waiting_for_hints_can_be_dropped",
        ]
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
        StoreTraits::default().wakeups(false)
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
            ("'', '{}', '{}'", "topic", Some("")),
            ("'t', '{\"a\": 1}', '{}'", "headers", Some("t")),
            ("'t', '[1]', '{}'", "headers", Some("t")),
            ("'t', 'null', '{}'", "headers", Some("t")),
            ("'t', '{\"\": \"x\"}', '{}'", "headers", Some("t")),
            ("'t', '{}', '[]'", "options", Some("t")),
            ("'t', '{}', '\"x\"'", "options", Some("t")),
            ("'a\\0b', '{}', '{}'", "topic", None),
        ]
        .into_iter()
        .enumerate()
        {
            // Their keys differ, or one would wait for another when both have died.
            let (id, key) = (MessageId::new(), format!("key {number}"));
            self.scene
                .run(&format!(
                    "INSERT INTO {table} (`message_id`, `key`, `payload`, `topic`, `headers`, `options`)
                     VALUES ({}, '{key}', X'00', {values})",
                    literal(id)
                ))
                .await;
            let row = MalformedRow::new(mentions).id(id).key(key);
            written.push(match topic {
                Some(topic) => row.topic(topic),
                None => row,
            });
        }
        Ok(written)
    }

    async fn delete_by_hand(&self, id: MessageId) -> Result<()> {
        let message = self.message_table();
        let dead_letter = message.replace("_message", "_dead_letter");
        for table in [message, dead_letter] {
            self.scene.run(&format!("DELETE FROM {table} WHERE `message_id` = {}", literal(id))).await;
        }
        Ok(())
    }

    async fn replace(&self, position: Position, message: &Message) -> Result<()> {
        let table = self.message_table();
        self.scene.run(&format!("DELETE FROM {table} WHERE `position` = {position}")).await;
        let insert = format!(
            "INSERT INTO {table} (`position`, `message_id`, `topic`, `key`, `payload`) VALUES (?, ?, ?, ?, ?)"
        );
        let insert = sqlx::query(sqlx::AssertSqlSafe(insert))
            .bind(position.0)
            .bind(message.id().as_uuid())
            .bind(message.topic())
            .bind(message.key())
            .bind(message.payload().as_ref());
        insert.execute(&self.scene.pool).await.map(|_| ()).map_err(map_error)
    }

    async fn break_connections(&self) -> Result<bool> {
        self.scene.database.kill_sessions().await;
        Ok(true)
    }
}

fn literal(id: MessageId) -> String {
    format!("X'{}'", Uuid::from(id).simple())
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
            self.outbox.enqueue_batch(&mut self.transaction, messages).await
        }
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.transaction.commit().await.map_err(map_error)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.transaction.rollback().await.map_err(map_error)
    }
}
