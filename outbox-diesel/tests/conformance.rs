//! The promises about enqueueing, with the store of outbox-postgres as the reader.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use diesel::connection::SimpleConnection;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use integration_tests::{Postgres, Server};
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::{Error, ErrorKind, Message, MessageId, Position, Result, Store};
use outbox_diesel::{Config, Outbox, map_error};
use support::{Scene, SyncConnection, blocking};

#[derive(Clone, Copy)]
enum Kind {
    Sync,
    Async,
}

struct Harness {
    postgres: &'static Postgres,
    kind: Kind,
}

impl Harness {
    /// Returns `None` if there is no PostgreSQL, which the harness of servers has reported.
    fn new(kind: Kind) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Postgres::shared()).map(|postgres| Self { postgres, kind })
    }
}

#[async_trait]
impl StoreHarness for Harness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        // Names that only work if they are quoted everywhere.
        let config = Config::new().schema("Some schema").prefix("out-box");
        Ok(Box::new(Fixture { scene: Scene::with(self.postgres, config).await, kind: self.kind }))
    }
}

struct Fixture {
    scene: Scene,
    kind: Kind,
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
        let outbox = self.scene.outbox.clone();
        Ok(match self.kind {
            Kind::Sync => {
                let connection = self.scene.sync_connection().await;
                let (connection, begun) =
                    blocking(connection, |connection| SimpleConnection::batch_execute(connection, "BEGIN"))
                        .await;
                begun.map_err(map_error)?;
                Box::new(Blocking { outbox, connection: Some(connection) })
            }
            Kind::Async => {
                let mut connection = self.scene.connection().await;
                connection.batch_execute("BEGIN").await.map_err(map_error)?;
                Box::new(Waiting { outbox, connection })
            }
        })
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

/// On a synchronous connection. The end of the connection rolls back.
struct Blocking {
    outbox: Outbox,
    connection: Option<SyncConnection>,
}

impl Blocking {
    async fn run<R, F>(&mut self, work: F) -> R
    where
        R: Send + 'static,
        F: FnOnce(&mut SyncConnection) -> R + Send + 'static,
    {
        let (connection, result) = blocking(self.connection.take().unwrap(), work).await;
        self.connection = Some(connection);
        result
    }
}

#[async_trait]
impl EnqueueTransaction for Blocking {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        let (outbox, messages) = (self.outbox.clone(), messages.to_vec());
        // Both ways of enqueueing take part in each case.
        self.run(move |connection| match &messages[..] {
            [message] => outbox.enqueue(connection, message),
            messages => outbox.enqueue_batch(connection, messages),
        })
        .await
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.run(|connection| SimpleConnection::batch_execute(connection, "COMMIT")).await.map_err(map_error)
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        self.run(|connection| SimpleConnection::batch_execute(connection, "ROLLBACK"))
            .await
            .map_err(map_error)
    }
}

/// On a connection of diesel-async. The end of the connection rolls back.
struct Waiting {
    outbox: Outbox,
    connection: AsyncPgConnection,
}

#[async_trait]
impl EnqueueTransaction for Waiting {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        match messages {
            [message] => self.outbox.enqueue_async(&mut self.connection, message).await,
            messages => self.outbox.enqueue_batch_async(&mut self.connection, messages).await,
        }
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.connection.batch_execute("COMMIT").await.map_err(map_error)
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        self.connection.batch_execute("ROLLBACK").await.map_err(map_error)
    }
}

mod sync {
    use super::*;

    outbox_conformance::enqueueing_tests!(match Harness::new(Kind::Sync) {
        Some(harness) => harness,
        None => return,
    });
}

mod asynchronous {
    use super::*;

    outbox_conformance::enqueueing_tests!(match Harness::new(Kind::Async) {
        Some(harness) => harness,
        None => return,
    });
}
