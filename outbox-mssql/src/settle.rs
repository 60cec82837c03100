//! Writing what became of rows.

use std::collections::BTreeMap;

use outbox_core::{RelayId, Result, Settle};
use outbox_sql::settle::{Failure, Groups, Keys, Place};
use outbox_sql::text::json_list;
use serde_json::json;

use crate::call::{again, begin, commit, execute, query};
use crate::group::of_micros;
use crate::keys::{Locked, blocked, hold, hold_later, lock_leases, lock_rows, release, run};
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
            let positions = &json_list(groups.delivered.iter().map(|place| place.position));
            let delivered = again(|| async move {
                let mut client = pool.call().await?;
                let rows = query(&mut client, statement, &[positions]).await?.rows();
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
    partitions.extend(groups.delivered.iter().map(|place| place.partition));
    let owned = lock_leases(sql, relay, partitions, client).await?;
    groups.retain(&owned);
    let failures = groups.retries.iter().chain(&groups.dead).map(|failure| failure.place.position);
    let others = groups.delivered.iter().chain(&groups.held).map(|place| place.position);
    let rows = lock_rows(&sql.lock_rows, failures.chain(others), client).await?;

    let mut keys = Keys::default();
    retry(sql, &rows, &groups.retries, &mut keys, client).await?;
    let held: Vec<i64> = groups.held.iter().map(|place| place.position).collect();
    hold(sql, &rows, &held, &mut keys, client).await?;
    bury(sql, &rows, &groups.dead, &mut keys, client).await?;
    hold_later(sql, &keys, client).await?;
    deliver(sql, &rows, &groups.delivered, keep_delivered, &mut keys, client).await?;
    release(sql, &keys.freed, usize::MAX, client).await?;
    Ok(())
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
    let blocking = retries.iter().filter(|retry| retry.block).map(|retry| retry.place.position);
    let waiting = blocked(sql, rows, blocking, client).await?;
    let mut list = Rows::default();
    for retry in retries {
        let position = retry.place.position;
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
        let position = failure.place.position;
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
    delivered: &[Place],
    keep: bool,
    keys: &mut Keys,
    client: &mut Client,
) -> Result<()> {
    let mut positions = Vec::new();
    for place in delivered {
        let Some(row) = rows.get(&place.position) else { continue };
        positions.push(json!(place.position));
        note(keys, place.position, row, false);
    }
    run(if keep { &sql.delete_and_keep } else { &sql.delete }, positions, client).await
}
