//! MariaDB.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use integration_tests::mysql::Database as TestDatabase;
use integration_tests::{Environment, MariaDb, Server};
use outbox_core::{Message, Store};
use outbox_mysql::{Config, Outbox};
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, MySql, MySqlPool, QueryBuilder, Row as _};
use uuid::Uuid;

use super::{Database, Row, Table, Write, Writer};
use crate::load::{Load, TOPIC};

/// The store has its own connections in addition to this pool.
const POOL: u32 = 2;

/// A server of this program, and a database in it.
#[derive(Debug)]
pub struct OnMariaDb {
    pool: MySqlPool,
    outbox: Outbox,
    database: TestDatabase,
    server: MariaDb,
}

impl OnMariaDb {
    /// Starts a server.
    ///
    /// # Errors
    /// If no server can be started.
    pub async fn start(environment: Environment) -> Result<Self> {
        let server = MariaDb::try_start(environment).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        let database = server.database().await;
        let pool = database.pool(80).await;
        let outbox = Outbox::new(Config::new())?;
        outbox.migrate(&pool).await?;
        let own = "id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, message_id BINARY(16) NOT NULL, topic TEXT NOT NULL, \
                   `key` TEXT, payload LONGBLOB NOT NULL, created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)";
        for statement in [
            "CREATE TABLE business (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, body LONGBLOB NOT NULL)"
                .to_owned(),
            format!("CREATE TABLE plain ({own})"),
            format!("CREATE TABLE marked ({own}, published_at DATETIME(6), KEY (published_at, id))"),
            format!(
                "CREATE TABLE claimed ({own}, claimed_until DATETIME(6), attempts INT NOT NULL DEFAULT 0)"
            ),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&pool).await?;
        }
        Ok(Self { pool, outbox, database, server })
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

    /// A statement with this number of placeholders for positions.
    async fn change(&self, before: &str, positions: &[i64]) -> Result<()> {
        let mut query = QueryBuilder::<MySql>::new(before);
        let mut list = query.separated(", ");
        for position in positions {
            list.push_bind(position);
        }
        query.push(")");
        query.build().execute(&self.pool).await?;
        Ok(())
    }
}

fn row(row: &MySqlRow) -> Result<Row> {
    let message = Message::bytes(row.try_get::<String, _>(2)?, row.try_get::<Vec<u8>, _>(4)?)
        .id(row.try_get::<Uuid, _>(1)?);
    let message = match row.try_get::<Option<String>, _>(3)? {
        Some(key) => message.key(key),
        None => message,
    };
    Ok((row.try_get(0)?, message.build()?))
}

const COLUMNS: &str = "id, message_id, topic, `key`, payload";

#[async_trait]
impl Writer for OnMariaDb {
    async fn commit(&self, writes: &[Write<'_>]) -> Result<Instant> {
        let mut transaction = self.pool.begin().await?;
        for write in writes {
            match write {
                Write::Business(body) => {
                    sqlx::query("INSERT INTO business (body) VALUES (?)")
                        .bind(*body)
                        .execute(&mut *transaction)
                        .await?;
                }
                Write::Bare(messages) => {
                    let mut query =
                        QueryBuilder::<MySql>::new("INSERT INTO plain (message_id, topic, `key`, payload) ");
                    query.push_values(*messages, |mut row, message| {
                        row.push_bind(Uuid::from(message.id()))
                            .push_bind(message.topic())
                            .push_bind(message.key())
                            .push_bind(&message.payload()[..]);
                    });
                    query.build().execute(&mut *transaction).await?;
                }
                Write::Enqueue([message]) => self.outbox.enqueue(&mut *transaction, message).await?,
                Write::Enqueue(messages) => self.outbox.enqueue_batch(&mut transaction, messages).await?,
            }
        }
        let committing = Instant::now();
        transaction.commit().await?;
        Ok(committing)
    }
}

#[async_trait]
impl Database for OnMariaDb {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn url(&self) -> String {
        self.database.url().to_owned()
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.outbox.store(self.pool.clone()))
    }

    async fn own_store(&self) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.outbox.store(self.database.pool(POOL).await)))
    }

    fn cpu_time(&self) -> Result<Option<Duration>> {
        self.server.instance().cpu_time().map(Some)
    }

    async fn hold_snapshot(&self) -> Result<Box<dyn Any + Send>> {
        let mut transaction = self.pool.begin_with("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        sqlx::query("SELECT count(*) FROM business").execute(&mut *transaction).await?;
        Ok(Box::new(transaction))
    }

    async fn clear(&self) -> Result<()> {
        for table in ["outbox_message", "plain", "marked", "claimed", "business"] {
            self.run(format!("TRUNCATE {table}")).await?;
        }
        Ok(())
    }

    async fn insert(&self, table: Table, load: &Load, chunk: u64) -> Result<()> {
        let mut first = 0;
        while first < load.messages {
            let last = (first + chunk).min(load.messages) - 1;
            let insert = format!(
                "INSERT INTO {} (message_id, topic, `key`, payload) SELECT UNHEX(MD5(seq)), ?, CONCAT('key-', seq % ?), \
                 CONCAT(LPAD(LOWER(HEX(seq)), 16, '0'), ?) FROM seq_{first}_to_{last}",
                table.name()
            );
            sqlx::query(AssertSqlSafe(insert))
                .persistent(false)
                .bind(TOPIC)
                .bind(load.keys)
                .bind(load.filler())
                .execute(&self.pool)
                .await?;
            first = last + 1;
        }
        Ok(())
    }

    async fn tidy(&self, table: Table) -> Result<()> {
        self.run(format!("ANALYZE TABLE {}", table.name())).await
    }

    async fn waiting(&self, table: Table) -> Result<u64> {
        let condition = if table == Table::Marked { "WHERE published_at IS NULL" } else { "" };
        let count = format!("SELECT count(*) FROM {} {condition}", table.name());
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&self.pool).await?;
        Ok(count.cast_unsigned())
    }

    async fn read_after(&self, position: i64, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM plain WHERE id > ? ORDER BY id LIMIT ?"
        )))
        .bind(position)
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(row).collect()
    }

    async fn delete(&self, table: Table, positions: Vec<i64>) -> Result<()> {
        self.change(&format!("DELETE FROM {} WHERE id IN (", table.name()), &positions).await
    }

    async fn unmarked(&self, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM marked WHERE published_at IS NULL ORDER BY id LIMIT ?"
        )))
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(row).collect()
    }

    async fn mark(&self, position: i64) -> Result<()> {
        sqlx::query("UPDATE marked SET published_at = NOW(6) WHERE id = ?")
            .bind(position)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Row>> {
        // MariaDB cannot return rows from an update, so there are two statements.
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM claimed WHERE claimed_until IS NULL OR claimed_until < NOW(6) ORDER BY id LIMIT ? \
             FOR UPDATE SKIP LOCKED"
        )))
        .bind(i64::try_from(limit)?)
        .fetch_all(&mut *transaction)
        .await?;
        let rows: Vec<Row> = rows.iter().map(row).collect::<Result<_>>()?;
        if !rows.is_empty() {
            let mut query = QueryBuilder::<MySql>::new(
                "UPDATE claimed SET claimed_until = NOW(6) + INTERVAL 30 SECOND, attempts = attempts + 1 WHERE id IN (",
            );
            let mut list = query.separated(", ");
            for (position, _) in &rows {
                list.push_bind(position);
            }
            query.push(")");
            query.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(rows)
    }
}
