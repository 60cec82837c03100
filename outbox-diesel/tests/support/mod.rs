//! A fresh database with an outbox in it.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::time::Duration;

use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use integration_tests::postgres::Database;
use integration_tests::{Postgres, Server};
use outbox_core::{Content, FetchLimit, Message, Partition, Store};
use outbox_diesel::{Config, Outbox};
use sqlx::PgPool;

/// Longer than any step takes; only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
const LIMIT: FetchLimit = FetchLimit { messages: 10_000, bytes: 256 << 20 };

pub(crate) struct Scene {
    pub(crate) database: Database,
    /// For the store, which has another driver.
    pub(crate) pool: PgPool,
    pub(crate) store: outbox_postgres::Outbox,
    pub(crate) outbox: Outbox,
}

impl Scene {
    /// Returns `None` if there is no PostgreSQL, which the harness has reported.
    pub(crate) async fn new() -> Option<Self> {
        Some(Self::on(Postgres::shared().await?).await)
    }

    pub(crate) async fn on(server: &Postgres) -> Self {
        Self::with(server, Config::new()).await
    }

    pub(crate) async fn with(server: &Postgres, config: Config) -> Self {
        let database = server.database().await;
        let pool = database.pool(5).await;
        let store = outbox_postgres::Outbox::new(config.clone()).unwrap();
        store.migrate(&pool).await.unwrap();
        Self { database, pool, store, outbox: Outbox::new(config).unwrap() }
    }

    pub(crate) async fn connection(&self) -> AsyncPgConnection {
        connect(self.database.url()).await
    }

    /// A synchronous connection, which needs no client library.
    pub(crate) async fn sync_connection(&self) -> SyncConnection {
        self.connection().await.into()
    }

    pub(crate) async fn count(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM outbox_message").fetch_one(&self.pool).await.unwrap()
    }

    /// Returns all messages in the order of their positions.
    pub(crate) async fn messages(&self) -> Vec<Message> {
        let mut reader = self.store.store(self.pool.clone()).reader();
        (0..16).map(Partition).for_each(|partition| reader.assign(partition));
        let mut rows = reader.fetch(LIMIT, &[]).await.unwrap().rows;
        rows.sort_by_key(|row| row.position);
        rows.into_iter()
            .map(|row| match row.content {
                Content::Message(message) => message,
                Content::Malformed { reason, .. } => panic!("a row cannot be read: {reason}"),
            })
            .collect()
    }

    pub(crate) async fn topics(&self) -> Vec<String> {
        self.messages().await.iter().map(|message| message.topic().to_owned()).collect()
    }
}

/// It blocks, so it must not be used in a task.
pub(crate) type SyncConnection = AsyncConnectionWrapper<AsyncPgConnection>;

pub(crate) async fn connect(url: &str) -> AsyncPgConnection {
    AsyncPgConnection::establish(url).await.unwrap()
}

/// Runs synchronous code as a service would, in a thread that may block, and returns what it was given with the result.
pub(crate) async fn blocking<T, R, F>(mut value: T, work: F) -> (T, R)
where
    T: Send + 'static,
    R: Send + 'static,
    F: FnOnce(&mut T) -> R + Send + 'static,
{
    tokio::task::spawn_blocking(move || {
        let result = work(&mut value);
        (value, result)
    })
    .await
    .unwrap()
}

pub(crate) fn message(topic: &str) -> Message {
    Message::bytes(topic, "payload").build().unwrap()
}
