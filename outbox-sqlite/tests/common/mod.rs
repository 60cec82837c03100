//! A database file of its own for each test.

// Not every test file uses everything.
#![allow(dead_code)]

pub(crate) mod fixture;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use outbox_core::{
    Batch, Content, FetchLimit, Fetched, Message, Partition, Reader, RelayId, Settle, Settlement, Store,
    Timestamp,
};
use outbox_sqlite::{Config, Durability, OpenOptions, Outbox, SqliteStore};
use sqlx::{AssertSqlSafe, SqlitePool};
use tempfile::TempDir;

/// How long something that happens soon may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) const ALL: FetchLimit = FetchLimit { messages: 10_000, bytes: usize::MAX };

pub(crate) struct Database {
    pub(crate) directory: TempDir,
    pub(crate) pool: SqlitePool,
    pub(crate) outbox: Outbox,
}

impl Database {
    pub(crate) async fn new() -> Self {
        Self::with(Config::new()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = options(directory.path().join("test.db")).open().await.unwrap();
        let outbox = Outbox::new(config).unwrap();
        outbox.migrate(&pool).await.unwrap();
        Self { directory, pool, outbox }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("test.db")
    }

    /// Another pool on the same file.
    pub(crate) async fn open(&self) -> SqlitePool {
        options(self.path()).open().await.unwrap()
    }

    pub(crate) fn store(&self) -> SqliteStore {
        self.outbox.store(self.pool.clone())
    }

    pub(crate) async fn execute(&self, sql: &str) {
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn enqueue(&self, topic: &str, key: Option<&str>) {
        self.outbox.enqueue(&self.pool, &message(topic, key)).await.unwrap();
    }
}

/// Tests do not ask whether the disk is quick.
pub(crate) fn options(path: PathBuf) -> OpenOptions {
    OpenOptions::new(path).durability(Durability::Normal).busy_timeout(DEADLINE)
}

pub(crate) fn message(topic: &str, key: Option<&str>) -> Message {
    let builder = Message::bytes(topic.to_owned(), topic.as_bytes().to_vec());
    match key {
        Some(key) => builder.key(key),
        None => builder,
    }
    .build()
    .unwrap()
}

/// The present with the millisecond precision of SQLite's clock.
pub(crate) fn now() -> Timestamp {
    let micros = Timestamp::now().as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(1000))
}

/// A relay that owns every partition, with a reader that reads them all.
pub(crate) async fn relay(store: &SqliteStore) -> (RelayId, Box<dyn Reader>) {
    let relay = RelayId::new();
    let membership = store.heartbeat(relay, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(membership.owned.len(), membership.partitions);
    (relay, reader_of(store, membership.owned))
}

pub(crate) fn reader_of(
    store: &SqliteStore,
    partitions: impl IntoIterator<Item = Partition>,
) -> Box<dyn Reader> {
    let mut reader = store.reader();
    for partition in partitions {
        reader.assign(partition);
    }
    reader
}

pub(crate) async fn fetch(reader: &mut Box<dyn Reader>) -> Batch {
    reader.fetch(ALL, &[]).await.unwrap()
}

pub(crate) fn topics(rows: &[Fetched]) -> Vec<&str> {
    rows.iter()
        .map(|row| match &row.content {
            Content::Message(message) => message.topic(),
            Content::Malformed { .. } => "malformed",
        })
        .collect()
}

pub(crate) fn settle(row: &Fetched, settlement: Settlement) -> Settle {
    Settle::of(row, settlement)
}

pub(crate) fn retry(after: Duration, attempts: u32) -> Settlement {
    Settlement::Retry { after, attempts, error: "no luck".to_owned(), block_key: true }
}

pub(crate) fn dead(block_key: bool) -> Settlement {
    Settlement::Dead { attempts: 3, error: "gave up".to_owned(), block_key }
}

/// Waits for a condition that becomes true soon.
pub(crate) async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
