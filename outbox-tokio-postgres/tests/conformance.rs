//! The promises about enqueueing, with the store of outbox-postgres as the reader.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use integration_tests::{Postgres, Server};
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::{Error, ErrorKind, Message, MessageId, Position, Result, Store};
use outbox_tokio_postgres::{Config, Outbox, map_error};
use support::Scene;
use tokio_postgres::Client;

struct Harness {
    postgres: &'static Postgres,
    prepared: bool,
}

impl Harness {
    fn new(prepared: bool) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Postgres::shared()).map(|postgres| Self { postgres, prepared })
    }
}

#[async_trait]
impl StoreHarness for Harness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        // Names that only work if they are quoted everywhere.
        let config = Config::new().schema("Some schema").prefix("out-box");
        Ok(Box::new(Fixture { scene: Scene::with(self.postgres, config).await, prepared: self.prepared }))
    }
}

struct Fixture {
    scene: Scene,
    prepared: bool,
}

#[async_trait]
impl StoreFixture for Fixture {
    fn traits(&self) -> StoreTraits {
        StoreTraits::default()
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.scene.store.store(self.scene.database.pool(5).await)))
    }

    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>> {
        let client = self.scene.client().await;
        client.batch_execute("BEGIN").await.map_err(map_error)?;
        let (outbox, prepared) = (self.scene.outbox.clone(), self.prepared);
        Ok(Box::new(Enqueueing { outbox, prepared, client }))
    }

    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>> {
        Ok(Vec::new())
    }

    async fn delete_by_hand(&self, _: MessageId) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no case about enqueueing deletes"))
    }

    async fn replace(&self, _: Position, _: &Message) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "no case about enqueueing replaces a message"))
    }
}

/// Owns its client, which `tokio_postgres::Transaction` borrows. The end of the connection rolls back.
struct Enqueueing {
    outbox: Outbox,
    prepared: bool,
    client: Client,
}

#[async_trait]
impl EnqueueTransaction for Enqueueing {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        let Self { outbox, client, prepared } = self;
        // All ways of enqueueing take part in each case.
        match (messages, *prepared) {
            ([message], false) => outbox.enqueue(client, message).await,
            (_, false) => outbox.enqueue_batch(client, messages).await,
            ([message], true) => {
                let statement = client.prepare(outbox.insert_sql()).await.map_err(map_error)?;
                outbox.enqueue_prepared(client, &statement, message).await
            }
            (_, true) => {
                let statement = client.prepare(outbox.insert_batch_sql()).await.map_err(map_error)?;
                outbox.enqueue_batch_prepared(client, &statement, messages).await
            }
        }
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.client.batch_execute("COMMIT").await.map_err(map_error)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.client.batch_execute("ROLLBACK").await.map_err(map_error)
    }
}

mod typed {
    use super::*;

    outbox_conformance::enqueueing_tests!(match Harness::new(false) {
        Some(harness) => harness,
        None => return,
    });
}

mod prepared {
    use super::*;

    outbox_conformance::enqueueing_tests!(match Harness::new(true) {
        Some(harness) => harness,
        None => return,
    });
}
