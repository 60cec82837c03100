//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::sync::Arc;

use async_trait::async_trait;
use integration_tests::{Server, SqlServer};
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::{Message, MessageId, Position, Result, Store};
use outbox_mssql::{Config, Connection, Outbox, map_error};

use super::{Scene, pool};

pub(crate) struct Harness;

impl Harness {
    /// `None` where there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn new() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(SqlServer::shared()).map(|_| Self)
    }
}

#[async_trait]
impl StoreHarness for Harness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        // Names that only work if they are quoted everywhere.
        let config = Config::new().schema("Some-schema").prefix("out-box");
        let scene = Scene::with(config).await;
        Ok(Box::new(Fixture { scene: scene.expect("the server that was there a moment ago") }))
    }

    /// The server cannot tell a relay that something was committed.
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
        Ok(Arc::new(self.scene.outbox.store(pool(&self.scene.database, 5))))
    }

    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>> {
        let client = self.scene.begin().await;
        Ok(Box::new(Enqueueing { outbox: self.scene.outbox.clone(), client }))
    }

    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>> {
        let table = self.message_table();
        let mut written = Vec::new();
        for (number, (values, mentions, topic)) in [
            ("N'', N'{}', N'{}'", "topic", ""),
            ("N't', N'{\"a\": 1}', N'{}'", "headers", "t"),
            ("N't', N'[1]', N'{}'", "headers", "t"),
            ("N't', N'null', N'{}'", "headers", "t"),
            ("N't', N'no JSON', N'{}'", "headers", "t"),
            ("N't', N'{\"\": \"x\"}', N'{}'", "headers", "t"),
            ("N't', N'{}', N'[]'", "options", "t"),
            ("N't', N'{}', N'\"x\"'", "options", "t"),
        ]
        .into_iter()
        .enumerate()
        {
            // Their keys differ, or one would wait for another when both have died.
            let (id, key) = (MessageId::new(), format!("key {number}"));
            self.scene
                .run(&format!(
                    "INSERT INTO {table} (message_id, [key], payload, topic, headers, options)
                     VALUES ('{id}', N'{key}', 0x00, {values})"
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
        let text = |text: &str| format!("N'{}'", text.replace('\'', "''"));
        let payload: String = message.payload().iter().map(|byte| format!("{byte:02X}")).collect();
        let insert = format!(
            "SET IDENTITY_INSERT {table} ON;
             INSERT INTO {table} (position, message_id, topic, [key], payload) VALUES ({position}, '{id}', {topic}, {key}, 0x{payload});
             SET IDENTITY_INSERT {table} OFF;",
            id = message.id(),
            topic = text(message.topic()),
            key = message.key().map_or("NULL".to_owned(), text),
        );
        self.scene.run(&format!("DELETE FROM {table} WHERE position = {position}")).await;
        self.scene.run(&insert).await;
        Ok(())
    }

    async fn break_connections(&self) -> Result<bool> {
        let sessions = self
            .scene
            .rows(
                "SELECT CONVERT(int, session_id) FROM sys.dm_exec_sessions
                 WHERE session_id <> @@SPID AND database_id = DB_ID() AND is_user_process = 1",
            )
            .await;
        for row in sessions {
            let session: i32 = row.get(0).unwrap();
            // It may have ended by itself.
            let mut client = self.scene.pool.get().await?;
            let _ = client.simple_query(format!("KILL {session}")).await.map(drop);
        }
        Ok(true)
    }
}

struct Enqueueing {
    outbox: Outbox,
    client: Connection,
}

#[async_trait]
impl EnqueueTransaction for Enqueueing {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        // Both ways of enqueueing take part in every case.
        if let [message] = messages {
            self.outbox.enqueue(&mut self.client, message).await
        } else {
            self.outbox.enqueue_batch(&mut self.client, messages).await
        }
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.client.commit_transaction().await.map_err(map_error)
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        self.client.rollback_transaction().await.map_err(map_error)
    }
}
