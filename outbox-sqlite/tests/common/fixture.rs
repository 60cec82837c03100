//! What the conformance suite, and the matrix of every store with every publisher, have to know about this one.

use std::sync::Arc;

use super::{Database, now};
use async_trait::async_trait;
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::{Error, ErrorKind, Message, MessageId, Position, Result, Store};
use outbox_sqlite::Outbox;
use sqlx::{Sqlite, Transaction};

fn broken(error: sqlx::Error) -> Error {
    Error::new(ErrorKind::Internal, "the test's own statement failed").with_source(error)
}

#[derive(Debug)]
pub(crate) struct Harness;

#[async_trait]
impl StoreHarness for Harness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        Ok(Box::new(Fixture { database: Database::new().await }))
    }

    fn not_applicable(&self) -> &[&str] {
        &[
            // SQLite has one writer at a time, so that nothing commits late.
            "blocking::a_late_row_in_front_is_not_blocked",
            "inspecting::open_transactions_are_not_shown",
            "reading::late_commits_are_delivered",
            "reading::late_commits_come_before_later_rows_of_their_key",
            "reading::open_transactions_hold_up_nobody",
            // There is no server that could break a connection.
            "reading::broken_connections_lose_nothing",
        ]
    }
}

struct Fixture {
    database: Database,
}

#[async_trait]
impl StoreFixture for Fixture {
    fn traits(&self) -> StoreTraits {
        StoreTraits::default().concurrent_writers(false)
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        // A pool of its own for each, as another process would have.
        Ok(Arc::new(self.database.outbox.store(self.database.open().await)))
    }

    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>> {
        let transaction = self.database.pool.begin_with("BEGIN IMMEDIATE").await.map_err(broken)?;
        Ok(Box::new(Enqueueing { outbox: self.database.outbox.clone(), transaction }))
    }

    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>> {
        // Their keys differ, or one would wait for another when both have died.
        let id = MessageId::new();
        let rows = [
            ("x'00ff', x'00', NULL, '{}', '{}'", MalformedRow::new("topic").id(id)),
            ("'t', 17, NULL, '{}', '{}'", MalformedRow::new("payload").id(id).topic("t")),
            ("'t', x'00', x'6b', '{}', '{}'", MalformedRow::new("key").id(id).topic("t")),
            ("'t', x'00', 'k1', '{', '{}'", MalformedRow::new("headers").id(id).topic("t").key("k1")),
            ("'t', x'00', 'k2', '{\"a\":1}', '{}'", MalformedRow::new("headers").id(id).topic("t").key("k2")),
            ("'t', x'00', NULL, '{}', '[]'", MalformedRow::new("options").id(id).topic("t")),
            ("'a' || char(0), x'00', NULL, '{}', '{}'", MalformedRow::new("topic").id(id)),
            ("CAST(x'ff' AS TEXT), x'00', NULL, '{}', '{}'", MalformedRow::new("topic").id(id)),
        ];
        let mut written = Vec::new();
        for (values, mut row) in rows {
            // Each with an id of its own.
            let id = MessageId::new();
            row = row.id(id);
            let sql = format!(
                "INSERT INTO outbox_message (message_id, topic, payload, key, headers, options) VALUES ('{id}', {values})"
            );
            self.database.execute(&sql).await;
            written.push(row);
        }
        self.database
            .execute("INSERT INTO outbox_message (message_id, topic, payload) VALUES ('no uuid', 't', x'00')")
            .await;
        written.push(MalformedRow::new("message_id").topic("t"));
        Ok(written)
    }

    async fn delete_by_hand(&self, id: MessageId) -> Result<()> {
        for table in ["message", "dead_letter"] {
            self.database.execute(&format!("DELETE FROM outbox_{table} WHERE message_id = '{id}'")).await;
        }
        Ok(())
    }

    async fn replace(&self, position: Position, message: &Message) -> Result<()> {
        self.database.execute(&format!("DELETE FROM outbox_message WHERE position = {position}")).await;
        let insert =
            "INSERT INTO outbox_message (position, message_id, topic, key, payload) VALUES (?, ?, ?, ?, ?)";
        let insert = sqlx::query(insert)
            .bind(position.0)
            .bind(message.id().to_string())
            .bind(message.topic())
            .bind(message.key())
            .bind(message.payload().as_ref());
        insert.execute(&self.database.pool).await.map(|_| ()).map_err(broken)
    }

    fn now(&self) -> outbox_core::Timestamp {
        now()
    }
}

struct Enqueueing {
    outbox: Outbox,
    transaction: Transaction<'static, Sqlite>,
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
        self.transaction.commit().await.map_err(broken)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.transaction.rollback().await.map_err(broken)
    }
}
