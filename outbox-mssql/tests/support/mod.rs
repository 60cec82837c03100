//! A fresh database with an outbox in it.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod fixture;

use std::time::Duration;

use integration_tests::mssql::Database;
use integration_tests::{Server, SqlServer};
use outbox_core::{
    Batch, FetchLimit, Fetched, Message, Partition, Reader, RelayId, Settle, Settlement, Store,
};
use outbox_mssql::tiberius::{FromSqlOwned, Row};
use outbox_mssql::{Client, Config, Connection, MssqlStore, Outbox, Pool};

/// Nothing that is waited for takes as long; only a failing test waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const LIMIT: FetchLimit = FetchLimit { messages: 1000, bytes: 16 << 20 };

pub(crate) struct Scene {
    /// Dropped before the database, which cannot be dropped while somebody is in it.
    pub(crate) pool: Pool,
    pub(crate) database: Database,
    pub(crate) outbox: Outbox,
}

impl Scene {
    /// `None` where there is no server; the harness has said so.
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
        let database = SqlServer::shared().await?.database().await;
        Some(Self { pool: pool(&database, 10), database, outbox: Outbox::new(config).unwrap() })
    }

    /// Whether the server has PostgreSQL's ways instead of those of SQL Server.
    pub(crate) async fn is_babelfish(&self) -> bool {
        self.value::<i32>("SELECT ISNULL(CONVERT(int, SERVERPROPERTY('babelfish')), 0)").await == 1
    }

    pub(crate) fn store(&self) -> MssqlStore {
        self.outbox.store(self.pool.clone())
    }

    /// A relay that owns everything, and a reader of everything.
    pub(crate) async fn relay(&self) -> (MssqlStore, RelayId, Box<dyn Reader>) {
        let (store, relay) = (self.store(), RelayId::new());
        let membership = store.heartbeat(relay, Duration::from_secs(24 * 3600)).await.unwrap();
        let mut reader = store.reader();
        membership.owned.iter().for_each(|partition| reader.assign(*partition));
        (store, relay, reader)
    }

    /// A connection in a transaction.
    pub(crate) async fn begin(&self) -> Connection {
        let mut client = self.pool.get().await.unwrap();
        client.begin_transaction().await.unwrap();
        client
    }

    pub(crate) async fn enqueue(&self, message: &Message) {
        let mut client = self.pool.get().await.unwrap();
        self.outbox.enqueue(&mut client, message).await.unwrap();
    }

    pub(crate) async fn enqueue_all(&self, messages: &[Message]) {
        let mut client = self.pool.get().await.unwrap();
        self.outbox.enqueue_batch(&mut client, messages).await.unwrap();
    }

    pub(crate) async fn run(&self, sql: &str) {
        run(&mut self.pool.get().await.unwrap(), sql).await;
    }

    pub(crate) async fn rows(&self, sql: &str) -> Vec<Row> {
        let mut client = self.pool.get().await.unwrap();
        client.simple_query(sql).await.unwrap().into_first_result().await.unwrap()
    }

    pub(crate) async fn value<T: FromSqlOwned>(&self, sql: &str) -> T {
        let row = self.rows(sql).await.into_iter().next().unwrap();
        T::from_sql_owned(row.into_iter().next().unwrap()).unwrap().unwrap()
    }

    pub(crate) async fn count(&self, table: &str) -> i32 {
        self.value(&format!("SELECT COUNT(*) FROM {table}")).await
    }
}

pub(crate) fn pool(database: &Database, size: usize) -> Pool {
    Pool::new(database.config(), size).unwrap()
}

pub(crate) async fn run(client: &mut Client, sql: &str) {
    client.simple_query(sql).await.unwrap().into_results().await.unwrap();
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

pub(crate) fn settle(row: &Fetched, settlement: Settlement) -> Settle {
    Settle::of(row, settlement)
}

pub(crate) fn all_delivered(batch: &Batch) -> Vec<Settle> {
    batch.rows.iter().map(|row| settle(row, Settlement::Delivered)).collect()
}

pub(crate) fn partitions(count: u16) -> impl Iterator<Item = Partition> {
    (0..count).map(Partition)
}
