//! SQLite.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use outbox_core::{Message, MessageId, Store};
use outbox_sqlite::sqlx::sqlite::SqliteRow;
use outbox_sqlite::sqlx::{self, AssertSqlSafe, Row as _, SqlitePool};
use outbox_sqlite::{Config, OpenOptions, Outbox};
use tempfile::TempDir;

use super::{Database, Row, Table, Write, Writer};
use crate::load::{Load, TOPIC};

const FILE: &str = "bench.db";

/// A file in a new folder.
#[derive(Debug)]
pub struct OnSqlite {
    pool: SqlitePool,
    outbox: Outbox,
    folder: TempDir,
}

impl OnSqlite {
    /// Creates the file below this folder, with the settings that the store recommends: every commit is on
    /// the disk.
    ///
    /// # Errors
    /// If it cannot be created.
    pub async fn start(below: &Path) -> Result<Self> {
        fs::create_dir_all(below)?;
        let folder = tempfile::Builder::new().prefix("outbox-bench-").tempdir_in(below)?;
        let pool = OpenOptions::new(folder.path().join(FILE)).open().await?;
        let outbox = Outbox::new(Config::new())?;
        outbox.migrate(&pool).await?;
        let own = "id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))), \
                   topic TEXT NOT NULL, key TEXT, payload BLOB NOT NULL, \
                   created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP";
        for statement in [
            "CREATE TABLE business (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL)".to_owned(),
            format!("CREATE TABLE plain ({own})"),
            format!("CREATE TABLE marked ({own}, published_at TEXT)"),
            "CREATE INDEX marked_waiting ON marked (id) WHERE published_at IS NULL".to_owned(),
            format!(
                "CREATE TABLE claimed ({own}, claimed_until INTEGER, attempts INTEGER NOT NULL DEFAULT 0)"
            ),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&pool).await?;
        }
        Ok(Self { pool, outbox, folder })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    async fn run(&self, statement: impl Into<String>) -> Result<()> {
        let statement = statement.into();
        sqlx::query(AssertSqlSafe(statement.clone()))
            .persistent(false)
            .execute(&self.pool)
            .await
            .with_context(|| statement)?;
        Ok(())
    }
}

fn row(row: &SqliteRow) -> Result<Row> {
    let message = Message::bytes(row.try_get::<String, _>(2)?, row.try_get::<Vec<u8>, _>(4)?)
        .id(row.try_get::<&str, _>(1)?.parse::<MessageId>()?);
    let message = match row.try_get::<Option<String>, _>(3)? {
        Some(key) => message.key(key),
        None => message,
    };
    Ok((row.try_get(0)?, message.build()?))
}

fn list(positions: &[i64]) -> String {
    let numbers: Vec<String> = positions.iter().map(i64::to_string).collect();
    format!("[{}]", numbers.join(","))
}

const COLUMNS: &str = "id, message_id, topic, key, payload";

#[async_trait]
impl Writer for OnSqlite {
    async fn commit(&self, writes: &[Write<'_>]) -> Result<Instant> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for write in writes {
            match write {
                Write::Business(body) => {
                    sqlx::query("INSERT INTO business (body) VALUES (?1)")
                        .bind(*body)
                        .execute(&mut *transaction)
                        .await?;
                }
                // Without a server there is no round trip to save.
                Write::Bare(messages) => {
                    for message in *messages {
                        sqlx::query(
                            "INSERT INTO plain (message_id, topic, key, payload) VALUES (?1, ?2, ?3, ?4)",
                        )
                        .bind(message.id().to_string())
                        .bind(message.topic())
                        .bind(message.key())
                        .bind(&message.payload()[..])
                        .execute(&mut *transaction)
                        .await?;
                    }
                }
                Write::Enqueue([message]) => self.outbox.enqueue(&mut *transaction, message).await?,
                Write::Enqueue(messages) => self.outbox.enqueue_batch(&mut *transaction, messages).await?,
            }
        }
        let committing = Instant::now();
        transaction.commit().await?;
        Ok(committing)
    }
}

#[async_trait]
impl Database for OnSqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.file().display())
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.outbox.store(self.pool.clone()))
    }

    async fn own_store(&self) -> Result<Arc<dyn Store>> {
        // With a separate outbox value too: an enqueue of another process does not wake relays here.
        let pool = OpenOptions::new(self.file()).open().await?;
        Ok(Arc::new(Outbox::new(Config::new())?.store(pool)))
    }

    fn cpu_time(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    async fn hold_snapshot(&self) -> Result<Box<dyn Any + Send>> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT count(*) FROM business").execute(&mut *transaction).await?;
        Ok(Box::new(transaction))
    }

    async fn clear(&self) -> Result<()> {
        for table in ["outbox_message", "plain", "marked", "claimed", "business"] {
            self.run(format!("DELETE FROM {table}")).await?;
        }
        self.run("PRAGMA wal_checkpoint(TRUNCATE)").await
    }

    async fn insert(&self, table: Table, load: &Load, _: u64) -> Result<()> {
        let insert = format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?4)
             INSERT INTO {} (topic, key, payload)
             SELECT ?1, 'key-' || (n % ?2), CAST(printf('%016x', n) || ?3 AS BLOB) FROM numbers WHERE ?4 > 0",
            table.name()
        );
        sqlx::query(AssertSqlSafe(insert))
            .bind(TOPIC)
            .bind(load.keys.cast_signed())
            .bind(load.filler())
            .bind(load.messages.cast_signed())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn tidy(&self, _: Table) -> Result<()> {
        self.run("PRAGMA wal_checkpoint(TRUNCATE)").await
    }

    async fn waiting(&self, table: Table) -> Result<u64> {
        let condition = if table == Table::Marked { "WHERE published_at IS NULL" } else { "" };
        let count = format!("SELECT count(*) FROM {} {condition}", table.name());
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&self.pool).await?;
        Ok(count.cast_unsigned())
    }

    async fn read_after(&self, position: i64, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM plain WHERE id > ?1 ORDER BY id LIMIT ?2"
        )))
        .bind(position)
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(row).collect()
    }

    async fn delete(&self, table: Table, positions: Vec<i64>) -> Result<()> {
        sqlx::query(AssertSqlSafe(format!(
            "DELETE FROM {} WHERE id IN (SELECT value FROM json_each(?1))",
            table.name()
        )))
        .bind(list(&positions))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn unmarked(&self, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM marked WHERE published_at IS NULL ORDER BY id LIMIT ?1"
        )))
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(row).collect()
    }

    async fn mark(&self, position: i64) -> Result<()> {
        sqlx::query("UPDATE marked SET published_at = CURRENT_TIMESTAMP WHERE id = ?1")
            .bind(position)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Row>> {
        // There are no locks to skip, because there is one writer at a time.
        let rows = sqlx::query(AssertSqlSafe(format!(
            "UPDATE claimed SET claimed_until = unixepoch() + 30, attempts = attempts + 1 WHERE id IN \
             (SELECT id FROM claimed WHERE claimed_until IS NULL OR claimed_until < unixepoch() ORDER BY id LIMIT ?1) \
             RETURNING {COLUMNS}"
        )))
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        let mut rows: Vec<Row> = rows.iter().map(row).collect::<Result<_>>()?;
        rows.sort_unstable_by_key(|(position, _)| *position);
        Ok(rows)
    }
}
