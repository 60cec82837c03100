//! A fresh database with an outbox in it.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod fixture;

use std::time::Duration;

use integration_tests::postgres::Database;
use integration_tests::{Postgres, Server};
use outbox_core::{Batch, FetchLimit, Message, Partition, Reader, RelayId, Settle, Settlement, Store};
use outbox_postgres::{Config, Outbox, PostgresStore};
use sqlx::{AssertSqlSafe, PgPool};

/// Nothing that is waited for takes as long; only a failing test waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const LIMIT: FetchLimit = FetchLimit { messages: 1000, bytes: 16 << 20 };

pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) pool: PgPool,
    pub(crate) outbox: Outbox,
}

impl Scene {
    /// `None` where there is no PostgreSQL; the harness has said so.
    pub(crate) async fn new() -> Option<Self> {
        Self::with(Config::new()).await
    }

    pub(crate) async fn with(config: Config) -> Option<Self> {
        let scene = Self::empty(config).await?;
        scene.outbox.migrate(&scene.pool).await.unwrap();
        Some(scene)
    }

    /// Without tables.
    pub(crate) async fn empty(config: Config) -> Option<Self> {
        Some(Self::empty_in(Postgres::shared().await?.database().await, config).await)
    }

    pub(crate) async fn empty_in(database: Database, config: Config) -> Self {
        let pool = database.pool(10).await;
        Self { database, pool, outbox: Outbox::new(config).unwrap() }
    }

    pub(crate) fn store(&self) -> PostgresStore {
        self.outbox.store(self.pool.clone())
    }

    /// A relay that owns everything, and a reader of everything.
    pub(crate) async fn relay(&self) -> (PostgresStore, RelayId, Box<dyn Reader>) {
        let (store, relay) = (self.store(), RelayId::new());
        let membership = store.heartbeat(relay, Duration::from_secs(24 * 3600)).await.unwrap();
        let mut reader = store.reader();
        membership.owned.iter().for_each(|partition| reader.assign(*partition));
        (store, relay, reader)
    }

    pub(crate) async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    pub(crate) async fn value<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    /// The lines of a plan.
    pub(crate) async fn explain(&self, sql: &str) -> String {
        let lines: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&self.pool).await.unwrap();
        lines.join("\n")
    }
}

pub(crate) fn message(topic: &str, key: Option<&str>) -> Message {
    let builder = Message::bytes(topic, topic.to_owned());
    match key {
        Some(key) => builder.key(key),
        None => builder,
    }
    .build()
    .unwrap()
}

/// The topics of a batch.
pub(crate) fn topics(batch: &Batch) -> Vec<String> {
    batch
        .rows
        .iter()
        .map(|row| match &row.content {
            outbox_core::Content::Message(message) => message.topic().to_owned(),
            outbox_core::Content::Malformed { reason, .. } => reason.clone(),
        })
        .collect()
}

pub(crate) fn all_delivered(batch: &Batch) -> Vec<Settle> {
    let settle = |row: &outbox_core::Fetched| Settle::of(row, Settlement::Delivered);
    batch.rows.iter().map(settle).collect()
}

pub(crate) fn partitions(count: u16) -> impl Iterator<Item = Partition> {
    (0..count).map(Partition)
}
