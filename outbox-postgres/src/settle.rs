//! Writing what became of rows.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::{Partition, RelayId, Result, Settle, Settlement};
use sqlx::{PgConnection, SqlStr};

use crate::error::map_error;
use crate::group::{micros, numbers};
use crate::sql::Statements;
use crate::store::PostgresStore;
use crate::transaction::begin;

/// What a statement says about a row it has written: where, its key, whether it blocks now, and whether it did.
type Written = (i16, i64, Option<String>, bool, bool);

/// Errors are for people. PostgreSQL would take a gigabyte, but the row with it is rewritten at each attempt.
const LONGEST_ERROR: usize = 8 * 1024;

/// Rows as two parallel arrays.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    partitions: Vec<i16>,
    positions: Vec<i64>,
}

impl Rows {
    fn push(&mut self, settle: &Settle) {
        if let Ok(partition) = i16::try_from(settle.partition.0) {
            self.add(partition, settle.position.0);
        }
    }

    pub(crate) fn add(&mut self, partition: i16, position: i64) {
        self.partitions.push(partition);
        self.positions.push(position);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }
}

/// What there is to write beside deliveries.
#[derive(Debug, Default)]
struct Others {
    retries: Failures,
    held: Rows,
    dead: Failures,
}

#[derive(Debug, Default)]
struct Failures {
    rows: Rows,
    after: Vec<i64>,
    attempts: Vec<i32>,
    errors: Vec<String>,
    block: Vec<bool>,
}

impl Failures {
    fn push(&mut self, settle: &Settle, after: i64, attempts: u32, error: &str, block: bool) {
        self.rows.push(settle);
        self.after.push(after);
        self.attempts.push(i32::try_from(attempts).unwrap_or(i32::MAX));
        self.errors.push(storable(error));
        self.block.push(block);
    }
}

/// An error as PostgreSQL takes it: without NUL characters, and not endless.
fn storable(error: &str) -> String {
    let end = error.floor_char_boundary(LONGEST_ERROR);
    let cut = error.get(..end).unwrap_or_default().replace('\0', "\u{fffd}");
    if end < error.len() { cut + "…" } else { cut }
}

impl PostgresStore {
    pub(crate) async fn write(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        let (pool, _, sql) = self.checked().await?;
        let deliver = if keep_delivered { &sql.deliver_and_keep } else { &sql.deliver };
        let delivered = deliveries(batch);
        if delivered.positions.len() == batch.len() {
            if !delivered.is_empty() {
                run_deliver(deliver, delivered, pool).await?;
            }
            return Ok(());
        }

        let mut tx = begin(pool).await?;
        let owned = lock_leases(sql, relay, batch, &mut tx).await?;
        let others = Others::of(batch, &owned);
        let mut keys = Keys::default();
        if !others.retries.rows.is_empty() {
            keys.note(retry(sql, others.retries, &mut tx).await?);
        }
        if !others.held.is_empty() {
            hold(sql, others.held, &mut tx).await?;
        }
        if !others.dead.rows.is_empty() {
            keys.note(bury(sql, others.dead, &mut tx).await?);
        }
        keys.hold_later(sql, &mut tx).await?;
        if !delivered.is_empty() {
            run_deliver(deliver, delivered, &mut *tx).await?;
        }
        keys.release(sql, &mut tx).await?;
        tx.commit().await.map_err(map_error)
    }
}

fn deliveries(batch: &[Settle]) -> Rows {
    let mut rows = Rows::default();
    for settle in batch.iter().filter(|settle| settle.settlement == Settlement::Delivered) {
        rows.push(settle);
    }
    rows
}

impl Others {
    fn of(batch: &[Settle], owned: &BTreeSet<i16>) -> Self {
        let mut others = Self::default();
        let is_owned =
            |settle: &&Settle| i16::try_from(settle.partition.0).is_ok_and(|number| owned.contains(&number));
        for settle in batch.iter().filter(is_owned) {
            match &settle.settlement {
                Settlement::Delivered => {}
                Settlement::Retry { after, attempts, error, block_key } => {
                    others.retries.push(settle, micros(*after), *attempts, error, *block_key);
                }
                Settlement::Held => others.held.push(settle),
                Settlement::Dead { attempts, error, block_key } => {
                    others.dead.push(settle, 0, *attempts, error, *block_key);
                }
            }
        }
        others
    }
}

/// The partitions of the batch that the relay owns. The lock keeps others from taking them until the commit, so that
/// what is written here is written as their owner.
async fn lock_leases(
    sql: &Statements,
    relay: RelayId,
    batch: &[Settle],
    connection: &mut PgConnection,
) -> Result<BTreeSet<i16>> {
    let others = batch.iter().filter(|settle| settle.settlement != Settlement::Delivered);
    let partitions: BTreeSet<Partition> = others.map(|settle| settle.partition).collect();
    let owned: Vec<i16> = sqlx::query_scalar(sql.lock_leases.clone())
        .bind(relay.0)
        .bind(numbers(&partitions.into_iter().collect::<Vec<_>>()))
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    Ok(owned.into_iter().collect())
}

async fn run_deliver<'e, E>(statement: &SqlStr, rows: Rows, executor: E) -> Result<()>
where
    E: sqlx::Executor<'e, Database = sqlx::Postgres>,
{
    sqlx::query(statement.clone())
        .bind(rows.partitions)
        .bind(rows.positions)
        .bind(false)
        .execute(executor)
        .await
        .map_err(map_error)?;
    Ok(())
}

async fn retry(sql: &Statements, retries: Failures, connection: &mut PgConnection) -> Result<Vec<Written>> {
    sqlx::query_as(sql.retry.clone())
        .bind(retries.rows.partitions)
        .bind(retries.rows.positions)
        .bind(retries.after)
        .bind(retries.attempts)
        .bind(retries.errors)
        .bind(retries.block)
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

/// Holds rows, or makes them due at once where nothing blocks them.
pub(crate) async fn hold(sql: &Statements, rows: Rows, connection: &mut PgConnection) -> Result<()> {
    sqlx::query(sql.hold.clone())
        .bind(rows.partitions)
        .bind(rows.positions)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}

async fn bury(sql: &Statements, dead: Failures, connection: &mut PgConnection) -> Result<Vec<Written>> {
    sqlx::query_as(sql.bury.clone())
        .bind(dead.rows.partitions)
        .bind(dead.rows.positions)
        .bind(dead.attempts)
        .bind(dead.errors)
        .bind(dead.block)
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

/// Keys whose messages have to wait from some position on, and keys that may go on.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    blocked: BTreeMap<(i16, String), i64>,
    freed: BTreeSet<(i16, String)>,
}

impl Keys {
    fn note(&mut self, written: Vec<Written>) {
        for (partition, position, key, blocks, did_block) in written {
            let Some(key) = key else { continue };
            if blocks {
                self.block(partition, key, position);
            } else if did_block {
                self.free(partition, key);
            }
        }
    }

    pub(crate) fn block(&mut self, partition: i16, key: String, position: i64) {
        let from = self.blocked.entry((partition, key)).or_insert(position);
        *from = (*from).min(position);
    }

    pub(crate) fn free(&mut self, partition: i16, key: String) {
        self.freed.insert((partition, key));
    }

    pub(crate) async fn hold_later(&self, sql: &Statements, connection: &mut PgConnection) -> Result<()> {
        if self.blocked.is_empty() {
            return Ok(());
        }
        let ((partitions, keys), positions): ((Vec<i16>, Vec<&str>), Vec<i64>) = self
            .blocked
            .iter()
            .map(|((partition, key), position)| ((*partition, key.as_str()), *position))
            .unzip();
        sqlx::query(sql.hold_later.clone())
            .bind(partitions)
            .bind(keys)
            .bind(positions)
            .execute(connection)
            .await
            .map_err(map_error)?;
        Ok(())
    }

    pub(crate) async fn release(&self, sql: &Statements, connection: &mut PgConnection) -> Result<()> {
        if self.freed.is_empty() {
            return Ok(());
        }
        let (partitions, keys): (Vec<i16>, Vec<&str>) =
            self.freed.iter().map(|(partition, key)| (*partition, key.as_str())).unzip();
        sqlx::query(sql.release.clone())
            .bind(partitions)
            .bind(keys)
            .execute(connection)
            .await
            .map_err(map_error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fits_into_a_text_column() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        let cut = storable(&"é".repeat(LONGEST_ERROR));
        assert!(cut.len() <= LONGEST_ERROR + '…'.len_utf8() && cut.ends_with("é…"));
    }
}
