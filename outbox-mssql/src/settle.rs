//! Writing what became of rows.

use std::collections::BTreeMap;

use chrono::DateTime;
use outbox_core::{RelayId, Result, Settle};
use outbox_sql::settle::{Failure, Groups, Keys, Place, Target};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::call::{again, begin, commit, execute, query};
use crate::group::of_micros;
use crate::keys::{Locked, blocked, hold, hold_later, lock_leases, lock_rows, release, run};
use crate::outbox::datetime2;
use crate::pool::Client;
use crate::row::Columns;
use crate::rows::Rows;
use crate::sql::Statements;
use crate::store::{Checked, MssqlStore};

impl MssqlStore {
    pub(crate) async fn write(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        let Checked { pool, sql, .. } = self.checked().await?;
        if batch.is_empty() {
            return Ok(());
        }
        let groups = &Groups::of(batch);
        if groups.only_delivered() {
            // One statement, which needs no transaction: a delivery is final by itself.
            let statement = if keep_delivered { &sql.deliver_and_keep } else { &sql.deliver };
            let rows: Vec<Value> = groups.delivered.iter().map(whole).collect();
            let rows = &Value::from(rows).to_string();
            let delivered = again(|| async move {
                let mut client = pool.call().await?;
                let rows = query(&mut client, statement, &[rows]).await?.rows();
                client.give_back();
                rows.first().map_or(Ok(0), |row| Columns(row).count(0))
            });
            if delivered.await? >= groups.delivered.len() {
                return Ok(());
            }
            // Some of them block their key, or are gone.
        }
        again(|| async move {
            let mut tx = begin(pool).await?;
            write(sql, relay, groups.clone(), keep_delivered, &mut tx).await?;
            commit(tx).await
        })
        .await
    }
}

async fn write(
    sql: &Statements,
    relay: RelayId,
    mut groups: Groups<'_>,
    keep_delivered: bool,
    client: &mut Client,
) -> Result<()> {
    let mut partitions = groups.partitions();
    partitions.extend(groups.delivered.iter().map(|row| row.place.partition));
    let owned = lock_leases(sql, relay, partitions, client).await?;
    groups.retain(&owned);
    let failures = groups.retries.iter().chain(&groups.dead).map(|failure| failure.target.position());
    let others = groups.delivered.iter().chain(&groups.held).map(Target::position);
    let rows = lock_rows(&sql.lock_rows, failures.chain(others), client).await?;
    // What was fetched of the others is gone, and another message may be at its position.
    groups.retain_rows(|row| rows.get(&row.position()).is_some_and(|found| found.identity == row.identity));

    let mut keys = Keys::default();
    retry(sql, &rows, &groups.retries, &mut keys, client).await?;
    let held: Vec<i64> = groups.held.iter().map(Target::position).collect();
    hold(sql, &rows, &held, &mut keys, client).await?;
    bury(sql, &rows, &groups.dead, &mut keys, client).await?;
    hold_later(sql, &keys, client).await?;
    deliver(sql, &rows, &groups.delivered, keep_delivered, &mut keys, client).await?;
    release(sql, &keys.freed, usize::MAX, client).await?;
    Ok(())
}

/// A row as an element of a list: its position, its id, and its time of enqueueing.
fn whole(row: &Target) -> Value {
    let time = DateTime::from_timestamp_micros(row.identity.time()).unwrap_or_default();
    json!([row.position(), Uuid::from_bytes(row.identity.id()).to_string(), datetime2(time)])
}

/// Takes note of what a row does to its key now.
fn note(keys: &mut Keys, position: i64, row: &Locked, blocks: bool) {
    keys.note(Place { partition: row.partition, position }, row.key(), blocks, row.blocks);
}

async fn retry(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    retries: &[Failure<'_>],
    keys: &mut Keys,
    client: &mut Client,
) -> Result<()> {
    let blocking = retries.iter().filter(|retry| retry.block).map(|retry| retry.target.position());
    let waiting = blocked(sql, rows, blocking, client).await?;
    let mut list = Rows::default();
    for retry in retries {
        let position = retry.target.position();
        let Some(row) = rows.get(&position) else { continue };
        let blocks = retry.block && row.hash.is_some();
        let (seconds, micros) = of_micros(retry.after);
        list.row()
            .plain(position)
            .plain(attempts(retry))
            .plain(u8::from(blocks))
            .plain(u8::from(waiting.contains(&position)))
            .plain(seconds)
            .plain(micros)
            .text(Some(&retry.error));
        note(keys, position, row, blocks);
    }
    write_list(&sql.retry, list, client).await
}

async fn bury(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    dead: &[Failure<'_>],
    keys: &mut Keys,
    client: &mut Client,
) -> Result<()> {
    let mut list = Rows::default();
    let mut positions = Vec::new();
    for failure in dead {
        let position = failure.target.position();
        let Some(row) = rows.get(&position) else { continue };
        let blocks = failure.block && row.hash.is_some();
        list.row()
            .plain(position)
            .plain(attempts(failure))
            .plain(u8::from(blocks))
            .text(Some(&failure.error));
        positions.push(json!(position));
        note(keys, position, row, blocks);
    }
    write_list(&sql.bury, list, client).await?;
    run(&sql.delete, positions, client).await
}

fn attempts(failure: &Failure<'_>) -> i32 {
    i32::try_from(failure.attempts).unwrap_or(i32::MAX)
}

async fn write_list(statement: &str, list: Rows, client: &mut Client) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    execute(client, statement, &list.finish().bind()).await
}

async fn deliver(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    delivered: &[Target],
    keep: bool,
    keys: &mut Keys,
    client: &mut Client,
) -> Result<()> {
    let mut positions = Vec::new();
    for target in delivered {
        let Some(row) = rows.get(&target.position()) else { continue };
        positions.push(json!(target.position()));
        note(keys, target.position(), row, false);
    }
    run(if keep { &sql.delete_and_keep } else { &sql.delete }, positions, client).await
}
