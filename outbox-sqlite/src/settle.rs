//! Writing what became of fetched rows, and the rules of holding back and releasing.
//!
//! A row waits for a time (`available_at`), and may block its key (`blocks_key`):
//!
//! | state | `available_at` | `blocks_key` |
//! | --- | --- | --- |
//! | ready | NULL | 0 |
//! | scheduled, or retrying without blocking | a time | 0 |
//! | retrying | a time to come | 1 |
//! | held | never | 1 |
//! | released: was held and is due | a time that has come | 1 |
//!
//! Of the blocking rows of one key, those whose time is set come first and their times grow with the position;
//! behind a retrying row, or a dead letter that blocks, all are held.

use std::collections::HashMap;
use std::time::Duration;

use outbox_core::{Identity, Partition, RelayId, Result, Settle, Settlement};
use outbox_sql::row::identity;
use outbox_sql::text::{json_list, micros, storable};
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::query::QueryScalar;
use sqlx::sqlite::{Sqlite, SqliteConnection};

use crate::error::store_error;
use crate::row::{cell, integer};
use crate::schema::NEVER;
use crate::sql::{Sql, Statement};
use crate::transaction::BEGIN_IMMEDIATE;

/// How many of the first rows of a key may be due at a time after a release. It bounds the work of a settle call and what a relay
/// reads of the key; each of them that is delivered makes room for another one.
pub(crate) const RELEASE_CHUNK: usize = 256;

/// The batch, sorted by what happens to the rows.
#[derive(Debug, Default)]
struct Sorted {
    blocking_retries: Vec<Value>,
    other_retries: Vec<Value>,
    held: Vec<i64>,
    dead: Vec<Value>,
    /// Rows that block no longer: delivered, retried without blocking, or dead without blocking.
    freed_by_retry: Vec<i64>,
    freed: Vec<i64>,
    delivered: Vec<i64>,
}

impl Sorted {
    fn new<'s>(batch: impl IntoIterator<Item = &'s Settle>, now: i64) -> Self {
        let mut sorted = Self::default();
        for settle in batch {
            let position = settle.position.0;
            match &settle.settlement {
                Settlement::Delivered => {
                    sorted.delivered.push(position);
                    sorted.freed.push(position);
                }
                Settlement::Retry { after, attempts, error, block_key } => {
                    let row = json!([position, attempts, due_at(now, *after), storable(error), block_key]);
                    if *block_key {
                        sorted.blocking_retries.push(row);
                    } else {
                        sorted.other_retries.push(row);
                        sorted.freed_by_retry.push(position);
                    }
                }
                Settlement::Held => sorted.held.push(position),
                Settlement::Dead { attempts, error, block_key } => {
                    sorted.dead.push(json!([position, attempts, storable(error), block_key]));
                    if !block_key {
                        sorted.freed.push(position);
                    }
                }
            }
        }
        sorted
    }
}

fn due_at(now: i64, after: Duration) -> i64 {
    now.saturating_add(micros(after)).min(NEVER - 1)
}

pub(crate) async fn settle(
    connection: &mut SqliteConnection,
    sql: &Sql,
    relay: RelayId,
    batch: &[Settle],
    keep_delivered: bool,
) -> Result<()> {
    let failed = |error| store_error("settling messages", error);
    let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
    let mut settling = Settling::begin(&mut transaction, sql, relay).await?;
    let present = settling.identities(batch).await?;
    // What was fetched of the others is gone, and another message may be at its position.
    let is_present = |settle: &&Settle| present.get(&settle.position.0) == Some(&settle.identity);
    let sorted = Sorted::new(batch.iter().filter(is_present), settling.now);
    settling.retry(&sorted).await?;
    settling.hold(&sorted.held).await?;
    let behind = settling.held_behind(&sql.held_behind, &sorted.freed).await?;
    settling.bury(&sorted.dead).await?;
    settling.deliver(&sorted.delivered, keep_delivered).await?;
    settling.release(&behind, u64::MAX).await?;
    transaction.commit().await.map_err(failed)
}

pub(crate) async fn repair(
    connection: &mut SqliteConnection,
    sql: &Sql,
    relay: RelayId,
    partitions: &[Partition],
    limit: usize,
) -> Result<u64> {
    let failed = |error| store_error("repairing held messages", error);
    let stuck = || {
        sqlx::query_scalar::<_, i64>(sql.stuck.sql())
            .bind(json_list(partitions.iter().map(|partition| i64::from(partition.0))))
            .bind(relay.to_string())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    };
    // Usually nothing is, and then nobody's writing is disturbed.
    if stuck().fetch_all(&mut *connection).await.map_err(failed)?.is_empty() {
        return Ok(0);
    }
    let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
    let stuck = stuck().fetch_all(&mut *transaction).await.map_err(failed)?;
    let mut settling = Settling::begin(&mut transaction, sql, relay).await?;
    let released = settling.release(&stuck, u64::try_from(limit).unwrap_or(u64::MAX)).await?;
    transaction.commit().await.map_err(failed)?;
    Ok(released)
}

/// One transaction that changes what is held.
pub(crate) struct Settling<'c> {
    connection: &'c mut SqliteConnection,
    sql: &'c Sql,
    relay: String,
    pub(crate) now: i64,
    /// Whether any row blocks its key. Nearly always not, and then most statements can be left out.
    blocking: bool,
}

impl<'c> Settling<'c> {
    pub(crate) async fn begin(
        connection: &'c mut SqliteConnection,
        sql: &'c Sql,
        relay: RelayId,
    ) -> Result<Self> {
        let failed = |error| store_error("settling messages", error);
        let now = sqlx::query_scalar(sql.now.sql()).fetch_one(&mut *connection).await.map_err(failed)?;
        let blocking = sqlx::query_scalar(sql.anything_blocks.sql())
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        Ok(Self { connection, sql, relay: relay.to_string(), now, blocking })
    }

    /// Which messages are at the positions of a batch now.
    async fn identities(&mut self, batch: &[Settle]) -> Result<HashMap<i64, Identity>> {
        let rows = sqlx::query(self.sql.identities.sql())
            .bind(json_list(batch.iter().map(|settle| settle.position.0)))
            .fetch_all(&mut *self.connection)
            .await
            .map_err(|error| store_error("settling messages", error))?;
        rows.iter().map(|row| Ok((integer(row, 0)?, identity(cell(row, 2)?, integer(row, 1)?)))).collect()
    }

    async fn retry(&mut self, sorted: &Sorted) -> Result<()> {
        let freed = self.held_behind(&self.sql.held_behind, &sorted.freed_by_retry).await?;
        if !sorted.other_retries.is_empty() {
            self.update_listed(&self.sql.retry, Value::from(sorted.other_retries.clone())).await?;
        }
        if !sorted.blocking_retries.is_empty() {
            let blocked =
                self.update_listed(&self.sql.retry, Value::from(sorted.blocking_retries.clone())).await?;
            self.blocking = true;
            // A message behind a blocked one does not become due on its own, not even for its retry; and nothing
            // behind it stays due.
            self.change(&self.sql.hold_behind, &blocked).await?;
            self.change(&self.sql.hold_later, &blocked).await?;
        }
        self.release(&freed, u64::MAX).await?;
        Ok(())
    }

    async fn hold(&mut self, positions: &[i64]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let query = sqlx::query_scalar(self.sql.hold.sql())
            .bind(json_list(positions.iter().copied()))
            .bind(self.relay.clone())
            .bind(self.now);
        let held = self.fetch(query).await?;
        self.blocking = true;
        let query = sqlx::query(self.sql.unhold.sql()).bind(json_list(held.iter().copied())).bind(self.now);
        query
            .execute(&mut *self.connection)
            .await
            .map_err(|error| store_error("releasing held messages", error))?;
        // What was due behind one of these would come before it.
        self.change(&self.sql.hold_later, &held).await
    }

    async fn bury(&mut self, dead: &[Value]) -> Result<()> {
        if dead.is_empty() {
            return Ok(());
        }
        let buried: Vec<(i64, i64)> = sqlx::query_as(self.sql.bury.sql())
            .bind(Value::from(dead.to_vec()).to_string())
            .bind(self.relay.clone())
            .bind(self.now)
            .fetch_all(&mut *self.connection)
            .await
            .map_err(|error| store_error("settling messages", error))?;
        let (positions, numbers): (Vec<i64>, Vec<i64>) = buried.into_iter().unzip();
        self.change(&self.sql.delete, &positions).await?;
        if self.blocking {
            self.change(&self.sql.hold_later_than_dead, &numbers).await?;
        }
        Ok(())
    }

    async fn deliver(&mut self, delivered: &[i64], keep: bool) -> Result<()> {
        if keep && !delivered.is_empty() {
            sqlx::query(self.sql.keep_delivered.sql())
                .bind(json_list(delivered.iter().copied()))
                .bind(self.now)
                .execute(&mut *self.connection)
                .await
                .map_err(|error| store_error("keeping delivered messages", error))?;
        }
        self.change(&self.sql.delete, delivered).await
    }

    /// The first held row behind each key that one of these rows blocks.
    pub(crate) async fn held_behind(&mut self, statement: &Statement, positions: &[i64]) -> Result<Vec<i64>> {
        if !self.blocking || positions.is_empty() {
            return Ok(Vec::new());
        }
        self.fetch(sqlx::query_scalar(statement.sql()).bind(json_list(positions.iter().copied()))).await
    }

    /// Makes held rows due, from each of these first ones of a key on, as far as nothing in front forbids it.
    pub(crate) async fn release(&mut self, first: &[i64], limit: u64) -> Result<u64> {
        let mut released = 0;
        for position in first {
            let chunk = i64::try_from(limit.saturating_sub(released)).unwrap_or(i64::MAX);
            if chunk == 0 {
                break;
            }
            released += sqlx::query(self.sql.release.sql())
                .bind(position)
                .bind(self.now)
                .bind(chunk.min(i64::try_from(RELEASE_CHUNK).unwrap_or(i64::MAX)))
                .execute(&mut *self.connection)
                .await
                .map_err(|error| store_error("releasing held messages", error))?
                .rows_affected();
        }
        Ok(released)
    }

    /// Runs a statement whose only parameter is a list of positions.
    pub(crate) async fn change(&mut self, statement: &Statement, positions: &[i64]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        sqlx::query(statement.sql())
            .bind(json_list(positions.iter().copied()))
            .execute(&mut *self.connection)
            .await
            .map_err(|error| store_error("settling messages", error))?;
        Ok(())
    }

    async fn update_listed(&mut self, statement: &Statement, list: Value) -> Result<Vec<i64>> {
        self.fetch(sqlx::query_scalar(statement.sql()).bind(list.to_string()).bind(self.relay.clone())).await
    }

    async fn fetch(
        &mut self,
        query: QueryScalar<'_, Sqlite, i64, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<i64>> {
        query.fetch_all(&mut *self.connection).await.map_err(|error| store_error("settling messages", error))
    }
}
