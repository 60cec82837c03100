//! Writing what became of rows.

use std::collections::BTreeMap;

use outbox_core::{RelayId, Result, Settle};
use outbox_sql::settle::{Failure, Groups, Keys, Place, Target};
use serde_json::{Value, json};
use sqlx::{MySqlConnection, SqlStr};

use crate::error::map_error;
use crate::keys::{Locked, blocked, hold, hold_later, lock_leases, lock_rows, release};
use crate::sql::Statements;
use crate::store::MySqlStore;
use crate::transaction::{again, begin_on};

impl MySqlStore {
    pub(crate) async fn write(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        let inner = self.checked().await?;
        let sql = &inner.shared.statements;
        let groups = &Groups::of(batch);
        if batch.is_empty() {
            return Ok(());
        }
        if groups.only_delivered() && !keep_delivered {
            let delivered = again(|| async move {
                let rows: Vec<Value> = groups.delivered.iter().map(whole).collect();
                let mut session = inner.connections.lend().await?;
                let delivered = sqlx::query(sql.deliver.clone())
                    .bind(Value::from(rows).to_string())
                    .execute(&mut *session)
                    .await
                    .map_err(map_error)?;
                session.give_back();
                Ok(delivered.rows_affected())
            });
            if delivered.await? >= groups.delivered.len() as u64 {
                return Ok(());
            }
            // Some of them block their key, or are gone.
        }
        again(|| async move {
            let mut session = inner.connections.lend().await?;
            let mut tx = begin_on(&mut session).await?;
            write(sql, relay, groups.clone(), keep_delivered, &mut tx).await?;
            tx.commit().await.map_err(map_error)?;
            session.give_back();
            Ok(())
        })
        .await
    }
}

async fn write(
    sql: &Statements,
    relay: RelayId,
    mut groups: Groups<'_>,
    keep_delivered: bool,
    connection: &mut MySqlConnection,
) -> Result<()> {
    let mut partitions = groups.partitions();
    partitions.extend(groups.delivered.iter().map(|row| row.place.partition));
    let owned = lock_leases(sql, relay, partitions, connection).await?;
    groups.retain(&owned);
    let failures = groups.retries.iter().chain(&groups.dead).map(|failure| failure.target.position());
    let others = groups.delivered.iter().chain(&groups.held).map(Target::position);
    let rows = lock_rows(&sql.lock_rows, failures.chain(others), connection).await?;
    // What was fetched of the others is gone, and another message may be at its position.
    groups.retain_rows(|row| rows.get(&row.position()).is_some_and(|found| found.identity == row.identity));

    let mut keys = Keys::default();
    retry(sql, &rows, &groups.retries, &mut keys, connection).await?;
    let held: Vec<i64> = groups.held.iter().map(Target::position).collect();
    hold(sql, &rows, &held, &mut keys, connection).await?;
    bury(sql, &rows, &groups.dead, &mut keys, connection).await?;
    hold_later(sql, &keys, connection).await?;
    deliver(sql, &rows, &groups.delivered, keep_delivered, &mut keys, connection).await?;
    release(sql, &keys.freed, usize::MAX, connection).await?;
    Ok(())
}

/// A row as an element of a list: its position, its id in hexadecimal digits, and its time of enqueueing.
fn whole(row: &Target) -> Value {
    let id = u128::from_be_bytes(row.identity.id());
    json!([row.position(), format!("{id:032X}"), row.identity.time()])
}

/// Takes note of what a row does to its key now.
fn note(keys: &mut Keys, position: i64, row: &Locked, blocks: bool) {
    let place = Place { partition: row.partition, position };
    keys.note(place, row.hash.clone(), blocks, row.blocks);
}

async fn retry(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    retries: &[Failure<'_>],
    keys: &mut Keys,
    connection: &mut MySqlConnection,
) -> Result<()> {
    let blocking = retries.iter().filter(|retry| retry.block).map(|retry| retry.target.position());
    let waiting = blocked(sql, rows, blocking, connection).await?;
    let mut list = Vec::new();
    for retry in retries {
        let position = retry.target.position();
        let Some(row) = rows.get(&position) else { continue };
        let blocks = retry.block && row.hash.is_some();
        let after = (!waiting.contains(&position)).then_some(retry.after);
        list.push(json!([position, retry.attempts, after, retry.error, u8::from(blocks)]));
        note(keys, position, row, blocks);
    }
    run(&sql.retry, list, connection).await
}

async fn bury(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    dead: &[Failure<'_>],
    keys: &mut Keys,
    connection: &mut MySqlConnection,
) -> Result<()> {
    let mut list = Vec::new();
    let mut positions = Vec::new();
    for failure in dead {
        let position = failure.target.position();
        let Some(row) = rows.get(&position) else { continue };
        let blocks = failure.block && row.hash.is_some();
        list.push(json!([position, failure.attempts, failure.error, u8::from(blocks)]));
        positions.push(json!(position));
        note(keys, position, row, blocks);
    }
    run(&sql.bury, list, connection).await?;
    run(&sql.delete, positions, connection).await
}

async fn deliver(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    delivered: &[Target],
    keep: bool,
    keys: &mut Keys,
    connection: &mut MySqlConnection,
) -> Result<()> {
    let mut positions = Vec::new();
    for target in delivered {
        let Some(row) = rows.get(&target.position()) else { continue };
        positions.push(json!(target.position()));
        note(keys, target.position(), row, false);
    }
    if keep {
        run(&sql.keep_delivered, positions.clone(), connection).await?;
    }
    run(&sql.delete, positions, connection).await
}

/// Runs a statement whose parameter is a list, unless that is empty.
pub(crate) async fn run(
    statement: &SqlStr,
    list: Vec<Value>,
    connection: &mut MySqlConnection,
) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    sqlx::query(statement.clone())
        .bind(Value::from(list).to_string())
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}
