//! Holding and releasing the messages of keys.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::{Identity, Partition, RelayId, Result};
use outbox_sql::settle::{Blocking, Keys, Place, released};
use outbox_sql::text::json_list;
use serde_json::{Value, json};

use crate::call::{again, begin, commit, execute, query};
use crate::group::list;
use crate::pool::Client;
use crate::row::Columns;
use crate::sql::Statements;
use crate::store::{Checked, MssqlStore, number};

/// A row as it is under its lock.
#[derive(Clone, Debug)]
pub(crate) struct Locked {
    pub(crate) partition: Partition,
    pub(crate) identity: Identity,
    /// The hash of its key, which stands for the key in all that follows. Two keys of one hash would wait for each
    /// other, which harms nothing.
    pub(crate) hash: Option<i64>,
    pub(crate) blocks: bool,
}

impl Locked {
    /// From the second column on.
    pub(crate) fn of(row: Columns<'_>) -> Result<Self> {
        Ok(Self {
            partition: row.partition(1)?,
            identity: row.identity(4, 5)?,
            hash: row.number(2)?,
            blocks: row.boolean(3)?,
        })
    }

    /// The hash as the name of a key.
    pub(crate) fn key(&self) -> Option<String> {
        self.hash.map(|hash| hash.to_string())
    }
}

/// The other way round.
fn hash(key: &str) -> i64 {
    key.parse().unwrap_or_default()
}

/// Locks the rows at some positions, and tells what they are. Those that are gone are left out.
pub(crate) async fn lock_rows(
    statement: &str,
    positions: impl IntoIterator<Item = i64>,
    client: &mut Client,
) -> Result<BTreeMap<i64, Locked>> {
    let rows = query(client, statement, &[&json_list(positions)]).await?.rows();
    rows.iter().map(Columns).map(|row| Ok((row.required(0)?, Locked::of(row)?))).collect()
}

/// Keeps others from settling in some partitions until the transaction ends, and says which of these the relay owns.
pub(crate) async fn lock_leases(
    sql: &Statements,
    relay: RelayId,
    partitions: impl IntoIterator<Item = Partition>,
    client: &mut Client,
) -> Result<BTreeSet<Partition>> {
    // In one order, so that nobody waits in a circle.
    let partitions: BTreeSet<Partition> = partitions.into_iter().collect();
    let rows = query(client, &sql.lock_leases, &[&list(partitions)]).await?.rows();
    let mut owned = BTreeSet::new();
    for row in rows.iter().map(Columns) {
        if row.uuid(1)? == Some(relay.0) {
            owned.insert(row.partition(0)?);
        }
    }
    Ok(owned)
}

/// Those of some rows that something in front of them blocks.
pub(crate) async fn blocked(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    positions: impl IntoIterator<Item = i64>,
    client: &mut Client,
) -> Result<BTreeSet<i64>> {
    let with_key = |position: i64| {
        let row = rows.get(&position)?;
        Some(json!([position, row.partition.0, row.hash?]))
    };
    let list: Vec<Value> = positions.into_iter().filter_map(with_key).collect();
    if list.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows = query(client, &sql.blocked, &[&Value::from(list).to_string()]).await?.rows();
    rows.iter().map(|row| Columns(row).required(0)).collect()
}

/// Makes some rows wait for their turn, or due: position, whether it waits, whether it blocks.
async fn set_due(
    sql: &Statements,
    rows: impl IntoIterator<Item = (i64, bool, bool)>,
    client: &mut Client,
) -> Result<()> {
    let rows = rows
        .into_iter()
        .map(|(position, waits, block)| json!([position, u8::from(waits), u8::from(block)]))
        .collect();
    run(&sql.set_due, rows, client).await
}

/// Runs a statement whose parameter is a list, unless that is empty.
pub(crate) async fn run(statement: &str, list: Vec<Value>, client: &mut Client) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    execute(client, statement, &[&Value::from(list).to_string()]).await
}

/// Holds rows: they wait for what blocks them, or are due at once where nothing does, and go on blocking, so that the
/// ready rows behind them stay behind them. Takes note of them: nothing of their keys may be due behind them.
pub(crate) async fn hold(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    positions: &[i64],
    keys: &mut Keys,
    client: &mut Client,
) -> Result<()> {
    let waiting = blocked(sql, rows, positions.iter().copied(), client).await?;
    let has_key = |position: &i64| rows.get(position).is_some_and(|row| row.hash.is_some());
    for position in positions {
        if let Some(row) = rows.get(position)
            && let Some(key) = row.key()
        {
            keys.block(Place { partition: row.partition, position: *position }, key);
        }
    }
    let held = positions
        .iter()
        .filter(|position| rows.contains_key(position))
        .map(|position| (*position, waiting.contains(position), has_key(position)));
    set_due(sql, held, client).await
}

/// Makes wait what is due behind the blocked positions.
pub(crate) async fn hold_later(sql: &Statements, keys: &Keys, client: &mut Client) -> Result<()> {
    let list = keys
        .blocked
        .iter()
        .map(|((partition, key), position)| json!([partition.0, hash(key), position]))
        .collect();
    run(&sql.hold_later, list, client).await
}

/// Makes the first waiting rows of some keys due, unless they are behind something that retries or is dead. Not more
/// than `limit`; says how many.
pub(crate) async fn release(
    sql: &Statements,
    keys: &BTreeSet<(Partition, String)>,
    limit: usize,
    client: &mut Client,
) -> Result<u64> {
    if keys.is_empty() {
        return Ok(0);
    }
    let list: Vec<Value> = keys.iter().map(|(partition, key)| json!([partition.0, hash(key)])).collect();
    let mut results = query(client, &sql.blocking, &[&Value::from(list).to_string()]).await?;
    let mut rows = BTreeMap::<(Partition, i64), Vec<Blocking>>::new();
    for row in results.rows().iter().map(Columns) {
        let key = (row.partition(0)?, row.required(1)?);
        let row = Blocking { position: row.required(2)?, waits: row.boolean(3)?, retries: row.boolean(4)? };
        rows.entry(key).or_default().push(row);
    }
    let mut dead = BTreeMap::new();
    for row in results.rows().iter().map(Columns) {
        dead.insert((row.partition(0)?, row.required(1)?), row.required(2)?);
    }
    let mut due = Vec::new();
    for (key, rows) in rows {
        due.extend(released(rows, dead.get(&key).copied()));
    }
    due.truncate(limit);
    let count = due.len() as u64;
    set_due(sql, due.into_iter().map(|position| (position, false, true)), client).await?;
    Ok(count)
}

impl MssqlStore {
    /// Releases rows that wait for nothing.
    pub(crate) async fn release_stuck(
        &self,
        relay: RelayId,
        partitions: &[Partition],
        limit: usize,
    ) -> Result<u64> {
        let Checked { pool, sql, .. } = self.checked().await?;
        // Usually nothing is, and then nobody is disturbed.
        let stuck = again(|| async move {
            let mut client = pool.call().await?;
            let stuck = fronts(sql, partitions.iter().copied(), limit, &mut client).await?;
            client.give_back();
            Ok(stuck)
        });
        if stuck.await?.is_empty() {
            return Ok(0);
        }
        again(|| async move {
            let mut tx = begin(pool).await?;
            let owned = lock_leases(sql, relay, partitions.iter().copied(), &mut tx).await?;
            let keys = fronts(sql, owned, limit, &mut tx).await?;
            let released = release(sql, &keys, limit, &mut tx).await?;
            commit(tx).await?;
            Ok(released)
        })
        .await
    }
}

async fn fronts(
    sql: &Statements,
    partitions: impl IntoIterator<Item = Partition>,
    limit: usize,
    client: &mut Client,
) -> Result<BTreeSet<(Partition, String)>> {
    let rows = query(client, &sql.fronts, &[&list(partitions), &number(limit)]).await?.rows();
    rows.iter().map(Columns).map(|row| Ok((row.partition(0)?, row.required(1)?.to_string()))).collect()
}
