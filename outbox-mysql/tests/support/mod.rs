//! A fresh database with an outbox in it, on either product.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod fixture;

use std::time::Duration;

use integration_tests::mysql::Database;
use integration_tests::{MariaDb, MySql, Server};
use outbox_core::{Batch, FetchLimit, Message, Partition, Reader, RelayId, Settle, Settlement, Store};
use outbox_mysql::{Config, MySqlStore, Outbox};
use sqlx::{AssertSqlSafe, MySqlPool};

/// Nothing that is waited for takes as long; only a failing test waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const LIMIT: FetchLimit = FetchLimit { messages: 1000, bytes: 16 << 20 };

/// The product a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    MariaDb,
    MySql,
}

impl Product {
    /// A new database. `None` where there is no server; the harness of servers has said so.
    pub(crate) async fn database(self) -> Option<Database> {
        match self {
            Self::MariaDb => Some(MariaDb::shared().await?.database().await),
            Self::MySql => Some(MySql::shared().await?.database().await),
        }
    }

    pub(crate) async fn scene(self) -> Option<Scene> {
        self.scene_with(Config::new()).await
    }

    pub(crate) async fn scene_with(self, config: Config) -> Option<Scene> {
        let scene = self.empty_scene(config).await?;
        scene.outbox.migrate(&scene.pool).await.unwrap();
        Some(scene)
    }

    /// Without tables.
    pub(crate) async fn empty_scene(self, config: Config) -> Option<Scene> {
        let database = self.database().await?;
        let pool = database.pool(20).await;
        Some(Scene { database, pool, outbox: Outbox::new(config).unwrap() })
    }
}

/// Makes each function a test on each product: `on_both!(first, second);`
#[allow(unused_macros, reason = "every test binary uses another part of it")]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::support::Product::MariaDb).await; })*
        }
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::support::Product::MySql).await; })*
        }
    };
}
#[allow(unused_imports, reason = "every test binary uses another part of it")]
pub(crate) use on_both;

pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) pool: MySqlPool,
    pub(crate) outbox: Outbox,
}

impl Scene {
    pub(crate) fn store(&self) -> MySqlStore {
        self.outbox.store(self.pool.clone())
    }

    /// A relay that owns everything, and a reader of everything.
    pub(crate) async fn relay(&self) -> (MySqlStore, RelayId, Box<dyn Reader>) {
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
        T: Send + Unpin + sqlx::Type<sqlx::MySql> + for<'r> sqlx::Decode<'r, sqlx::MySql>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
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
