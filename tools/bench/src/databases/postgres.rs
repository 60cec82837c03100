//! PostgreSQL.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use integration_tests::postgres::Database as TestDatabase;
use integration_tests::{Environment, Postgres, Server};
use outbox_core::{Message, Store};
use outbox_postgres::{Config, Outbox};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use uuid::Uuid;

use super::{Database, Row, Table, Write, Writer};
use crate::load::{Load, TOPIC};

/// The documented recommendation for a relay's pool, and one more.
const POOL: u32 = 5;

/// A server of this program, and a database in it.
#[derive(Debug)]
pub struct OnPostgres {
    pool: PgPool,
    outbox: Outbox,
    database: TestDatabase,
    server: Postgres,
}

impl OnPostgres {
    /// Starts a server.
    ///
    /// # Errors
    /// If no server can be started.
    pub async fn start(environment: Environment) -> Result<Self> {
        let server = Postgres::try_start(environment).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        let database = server.database().await;
        let pool = database.pool(80).await;
        let outbox = Outbox::new(Config::new())?;
        outbox.migrate(&pool).await?;
        let own = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id uuid NOT NULL DEFAULT \
                   gen_random_uuid(), topic text NOT NULL, key text, payload bytea NOT NULL, \
                   created_at timestamptz NOT NULL DEFAULT now()";
        // The same settings as those of the outbox table, so that vacuum gives no contender an advantage.
        let storage = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, \
                       autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000, \
                       autovacuum_vacuum_cost_delay = 0";
        for statement in [
            "CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)"
                .to_owned(),
            format!("CREATE TABLE plain ({own}) WITH ({storage})"),
            format!("CREATE TABLE marked ({own}, published_at timestamptz) WITH ({storage})"),
            "CREATE INDEX ON marked (id) WHERE published_at IS NULL".to_owned(),
            format!(
                "CREATE TABLE claimed ({own}, claimed_until timestamptz, attempts integer NOT NULL DEFAULT 0) \
                 WITH ({storage})"
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
}

fn row(row: &PgRow) -> Result<Row> {
    let message = Message::bytes(row.try_get::<String, _>(2)?, row.try_get::<Vec<u8>, _>(4)?)
        .id(row.try_get::<Uuid, _>(1)?);
    let message = match row.try_get::<Option<String>, _>(3)? {
        Some(key) => message.key(key),
        None => message,
    };
    Ok((row.try_get(0)?, message.build()?))
}

const COLUMNS: &str = "id, message_id, topic, key, payload";

#[async_trait]
impl Writer for OnPostgres {
    async fn commit(&self, writes: &[Write<'_>]) -> Result<Instant> {
        let mut transaction = self.pool.begin().await?;
        for write in writes {
            match write {
                Write::Business(body) => {
                    sqlx::query("INSERT INTO business (body) VALUES ($1)")
                        .bind(*body)
                        .execute(&mut *transaction)
                        .await?;
                }
                Write::Bare([message]) => {
                    sqlx::query(
                        "INSERT INTO plain (message_id, topic, key, payload) VALUES ($1, $2, $3, $4)",
                    )
                    .bind(message.id().as_uuid())
                    .bind(message.topic())
                    .bind(message.key())
                    .bind(&message.payload()[..])
                    .execute(&mut *transaction)
                    .await?;
                }
                Write::Bare(messages) => {
                    sqlx::query(
                        "INSERT INTO plain (message_id, topic, key, payload) \
                         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[])",
                    )
                    .bind(messages.iter().map(|message| *message.id().as_uuid()).collect::<Vec<Uuid>>())
                    .bind(messages.iter().map(Message::topic).collect::<Vec<_>>())
                    .bind(messages.iter().map(Message::key).collect::<Vec<_>>())
                    .bind(messages.iter().map(|message| &message.payload()[..]).collect::<Vec<_>>())
                    .execute(&mut *transaction)
                    .await?;
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
impl Database for OnPostgres {
    fn name(&self) -> &'static str {
        "postgres"
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
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        sqlx::query("SELECT count(*) FROM business").execute(&mut *transaction).await?;
        Ok(Box::new(transaction))
    }

    async fn clear(&self) -> Result<()> {
        self.run("TRUNCATE outbox_message, plain, marked, claimed, business").await
    }

    async fn insert(&self, table: Table, load: &Load, chunk: u64) -> Result<()> {
        let insert = format!(
            "INSERT INTO {} (topic, key, payload) SELECT $1, 'key-' || n % $2, \
             convert_to(lpad(to_hex(n), 16, '0') || $3, 'UTF8') FROM generate_series($4, $5) AS n",
            table.name()
        );
        let mut first = 0;
        while first < load.messages {
            let last = (first + chunk).min(load.messages);
            sqlx::query(AssertSqlSafe(insert.clone()))
                .bind(TOPIC)
                .bind(load.keys.cast_signed())
                .bind(load.filler())
                .bind(first.cast_signed())
                .bind(last.cast_signed() - 1)
                .execute(&self.pool)
                .await?;
            first = last;
        }
        Ok(())
    }

    async fn tidy(&self, table: Table) -> Result<()> {
        self.run(format!("VACUUM (ANALYZE) {}", table.name())).await?;
        self.run("CHECKPOINT").await
    }

    async fn waiting(&self, table: Table) -> Result<u64> {
        let condition = if table == Table::Marked { "WHERE published_at IS NULL" } else { "" };
        let count = format!("SELECT count(*) FROM {} {condition}", table.name());
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&self.pool).await?;
        Ok(count.cast_unsigned())
    }

    async fn read_after(&self, position: i64, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM plain WHERE id > $1 ORDER BY id LIMIT $2"
        )))
        .bind(position)
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(row).collect()
    }

    async fn delete(&self, table: Table, positions: Vec<i64>) -> Result<()> {
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {} WHERE id = ANY($1)", table.name())))
            .bind(positions)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn unmarked(&self, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM marked WHERE published_at IS NULL ORDER BY id LIMIT $1"
        )))
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(row).collect()
    }

    async fn mark(&self, position: i64) -> Result<()> {
        sqlx::query("UPDATE marked SET published_at = now() WHERE id = $1")
            .bind(position)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "UPDATE claimed SET claimed_until = now() + interval '30 seconds', attempts = attempts + 1 WHERE id IN \
             (SELECT id FROM claimed WHERE claimed_until IS NULL OR claimed_until < now() ORDER BY id LIMIT $1 \
             FOR UPDATE SKIP LOCKED) RETURNING {COLUMNS}"
        )))
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        let mut rows: Vec<Row> = rows.iter().map(row).collect::<Result<_>>()?;
        rows.sort_unstable_by_key(|(position, _)| *position);
        Ok(rows)
    }
}
