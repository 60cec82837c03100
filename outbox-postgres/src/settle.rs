//! Writing what became of rows.

use std::collections::BTreeSet;

use outbox_core::{Partition, RelayId, Result, Settle};
use outbox_sql::settle::{Failure, Groups, Keys, Place};
use sqlx::{PgConnection, SqlStr};

use crate::error::map_error;
use crate::group::numbers;
use crate::runs::Runs;
use crate::sessions::Lent;
use crate::sql::Statements;
use crate::store::PostgresStore;

/// What a statement says about a row it has written: where, its key, whether it blocks now, and whether it did.
type Written = (i16, i64, Option<String>, bool, bool);

/// Rows as two parallel arrays.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    partitions: Vec<i16>,
    positions: Vec<i64>,
}

impl FromIterator<Place> for Rows {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Self {
        // There are no partitions beyond those that the column takes.
        let places = places
            .into_iter()
            .filter_map(|place| Some((i16::try_from(place.partition.0).ok()?, place.position)));
        let (partitions, positions) = places.unzip();
        Self { partitions, positions }
    }
}

/// Where a row is that a statement has returned.
pub(crate) fn place(partition: i16, position: i64) -> Place {
    Place { partition: Partition(u16::try_from(partition).unwrap_or_default()), position }
}

impl PostgresStore {
    pub(crate) async fn write(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        let sql = self.sql().await?;
        let deliver = if keep_delivered { &sql.deliver_and_keep } else { &sql.deliver };
        let mut groups = Groups::of(batch);
        let mut delivered = std::mem::take(&mut groups.delivered);
        if groups.only_delivered() && delivered.is_empty() {
            return Ok(());
        }
        let mut lent = self.lend().await?;
        if groups.only_delivered() {
            if keep_delivered || !deliver_free(sql, &mut delivered, &mut lent).await? {
                run_deliver(deliver, delivered, &mut lent).await?;
            }
            lent.give_back();
            return Ok(());
        }

        let mut tx = lent.begin().await?;
        let owned = lock_leases(sql, relay, groups.partitions(), &mut tx).await?;
        groups.retain(&owned);
        let mut keys = Keys::default();
        if !groups.retries.is_empty() {
            note(&mut keys, retry(sql, &groups.retries, &mut tx).await?);
        }
        if !groups.held.is_empty() {
            note(&mut keys, hold(sql, groups.held.into_iter().collect(), &mut tx).await?);
        }
        if !groups.dead.is_empty() {
            note(&mut keys, bury(sql, &groups.dead, &mut tx).await?);
        }
        hold_later(sql, &keys, &mut tx).await?;
        if !delivered.is_empty() {
            run_deliver(deliver, delivered, &mut tx).await?;
        }
        release(sql, &keys, &mut tx).await?;
        tx.commit().await.map_err(map_error)?;
        lent.give_back();
        Ok(())
    }
}

fn note(keys: &mut Keys, written: Vec<Written>) {
    for (partition, position, key, blocks, did_block) in written {
        keys.note(place(partition, position), key, blocks, did_block);
    }
}

/// Those of the partitions that the relay owns. The lock keeps others from taking them until the commit, so that
/// what is written here is written as their owner.
async fn lock_leases(
    sql: &Statements,
    relay: RelayId,
    partitions: BTreeSet<Partition>,
    connection: &mut PgConnection,
) -> Result<BTreeSet<Partition>> {
    let owned: Vec<i16> = sqlx::query_scalar(sql.lock_leases.clone())
        .bind(relay.0)
        .bind(numbers(&partitions.into_iter().collect::<Vec<_>>()))
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    Ok(owned.into_iter().filter_map(|number| u16::try_from(number).ok()).map(Partition).collect())
}

/// Deletes rows that nothing waits for. Says whether these were all; the others block their key, or are gone.
async fn deliver_free(sql: &Statements, places: &mut Vec<Place>, lent: &mut Lent) -> Result<bool> {
    let runs = Runs::of(places);
    let done = sqlx::query(sql.deliver_free.clone())
        .bind(&runs.partitions)
        .bind(&runs.first)
        .bind(&runs.last)
        .bind(&runs.taken)
        .bind(false)
        .execute(&mut **lent)
        .await
        .map_err(map_error)?;
    Ok(done.rows_affected() >= runs.count)
}

async fn run_deliver(statement: &SqlStr, places: Vec<Place>, connection: &mut PgConnection) -> Result<()> {
    let rows: Rows = places.into_iter().collect();
    sqlx::query(statement.clone())
        .bind(&rows.partitions)
        .bind(&rows.positions)
        .bind(false)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}

async fn retry(
    sql: &Statements,
    retries: &[Failure<'_>],
    connection: &mut PgConnection,
) -> Result<Vec<Written>> {
    let rows: Rows = retries.iter().map(|retry| retry.place).collect();
    sqlx::query_as(sql.retry.clone())
        .bind(rows.partitions)
        .bind(rows.positions)
        .bind(retries.iter().map(|retry| retry.after).collect::<Vec<_>>())
        .bind(attempts(retries))
        .bind(errors(retries))
        .bind(blocks(retries))
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

fn attempts(failures: &[Failure<'_>]) -> Vec<i32> {
    failures.iter().map(|failure| i32::try_from(failure.attempts).unwrap_or(i32::MAX)).collect()
}

fn errors<'a>(failures: &'a [Failure<'_>]) -> Vec<&'a str> {
    failures.iter().map(|failure| &*failure.error).collect()
}

fn blocks(failures: &[Failure<'_>]) -> Vec<bool> {
    failures.iter().map(|failure| failure.block).collect()
}

/// Holds rows, or makes them due at once where nothing blocks them.
pub(crate) async fn hold(
    sql: &Statements,
    rows: Rows,
    connection: &mut PgConnection,
) -> Result<Vec<Written>> {
    sqlx::query_as(sql.hold.clone())
        .bind(rows.partitions)
        .bind(rows.positions)
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

async fn bury(sql: &Statements, dead: &[Failure<'_>], connection: &mut PgConnection) -> Result<Vec<Written>> {
    let rows: Rows = dead.iter().map(|dead| dead.place).collect();
    sqlx::query_as(sql.bury.clone())
        .bind(rows.partitions)
        .bind(rows.positions)
        .bind(attempts(dead))
        .bind(errors(dead))
        .bind(blocks(dead))
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

/// Makes wait what is due behind the blocked positions.
pub(crate) async fn hold_later(sql: &Statements, keys: &Keys, connection: &mut PgConnection) -> Result<()> {
    if keys.blocked.is_empty() {
        return Ok(());
    }
    let (rows, names): (Vec<Place>, Vec<&str>) = keys
        .blocked
        .iter()
        .map(|((partition, key), position)| {
            (Place { partition: *partition, position: *position }, key.as_str())
        })
        .unzip();
    let rows: Rows = rows.into_iter().collect();
    sqlx::query(sql.hold_later.clone())
        .bind(rows.partitions)
        .bind(names)
        .bind(rows.positions)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}

/// Makes due what waits behind keys that were freed.
pub(crate) async fn release(sql: &Statements, keys: &Keys, connection: &mut PgConnection) -> Result<()> {
    if keys.freed.is_empty() {
        return Ok(());
    }
    let (partitions, names): (Vec<Partition>, Vec<&str>) =
        keys.freed.iter().map(|(partition, key)| (*partition, key.as_str())).unzip();
    sqlx::query(sql.release.clone())
        .bind(numbers(&partitions))
        .bind(names)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}
