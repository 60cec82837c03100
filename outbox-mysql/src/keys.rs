//! Holding and releasing the messages of keys.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::{Identity, Partition, RelayId, Result};
use outbox_sql::settle::{Blocking, Keys, Place, released};
use outbox_sql::text::json_list;
use serde_json::{Value, json};
use sqlx::{MySqlConnection, SqlStr};

use crate::error::map_error;
use crate::group::list;
use crate::row::Columns;
use crate::sql::Statements;
use crate::store::MySqlStore;
use crate::transaction::{again, begin_on};

/// How many keys one statement looks at.
const KEYS_AT_A_TIME: usize = 64;

/// A row as it is under its lock.
#[derive(Clone, Debug)]
pub(crate) struct Locked {
    pub(crate) partition: Partition,
    pub(crate) identity: Identity,
    /// The hash of its key, which stands for the key in all that follows.
    pub(crate) hash: Option<String>,
    pub(crate) blocks: bool,
}

impl Locked {
    /// From the second column on.
    pub(crate) fn of(row: Columns<'_>) -> Result<Self> {
        Ok(Self {
            partition: row.partition(1)?,
            identity: row.identity(4, 5)?,
            hash: row.own_text(2)?,
            blocks: row.boolean(3)?,
        })
    }
}

/// Locks the rows at some positions, and tells what they are. Those that are gone are left out.
pub(crate) async fn lock_rows(
    statement: &SqlStr,
    positions: impl IntoIterator<Item = i64>,
    connection: &mut MySqlConnection,
) -> Result<BTreeMap<i64, Locked>> {
    let rows = sqlx::query(statement.clone())
        .bind(json_list(positions))
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    rows.iter().map(Columns).map(|row| Ok((row.required(0)?, Locked::of(row)?))).collect()
}

/// Keeps others from settling in some partitions until the transaction ends, and says which of these the relay owns.
pub(crate) async fn lock_leases(
    sql: &Statements,
    relay: RelayId,
    partitions: impl IntoIterator<Item = Partition>,
    connection: &mut MySqlConnection,
) -> Result<BTreeSet<Partition>> {
    let rows = sqlx::query(sql.lock_leases.clone())
        .bind(relay.0)
        .bind(list(partitions))
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    let mut owned = BTreeSet::new();
    for row in rows.iter().map(Columns) {
        if row.boolean(1)? {
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
    connection: &mut MySqlConnection,
) -> Result<BTreeSet<i64>> {
    let with_key = |position: i64| {
        let row = rows.get(&position)?;
        Some(json!([position, row.partition.0, row.hash.as_ref()?]))
    };
    let list: Vec<Value> = positions.into_iter().filter_map(with_key).collect();
    if list.is_empty() {
        return Ok(BTreeSet::new());
    }
    let blocked = sqlx::query(sql.blocked.clone())
        .bind(Value::from(list).to_string())
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    blocked.iter().map(|row| Columns(row).required(0)).collect()
}

/// Makes some rows wait for their turn, or due: position, whether it waits, whether it blocks.
pub(crate) async fn set_due(
    sql: &Statements,
    rows: impl IntoIterator<Item = (i64, bool, bool)>,
    connection: &mut MySqlConnection,
) -> Result<()> {
    let rows: Vec<Value> = rows
        .into_iter()
        .map(|(position, waits, block)| json!([position, u8::from(waits), u8::from(block)]))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(sql.set_due.clone())
        .bind(Value::from(rows).to_string())
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}

/// Holds rows: they wait for what blocks them, or are due at once where nothing does, and go on blocking, so that the
/// ready rows behind them stay behind them. Takes note of them: nothing of their keys may be due behind them.
pub(crate) async fn hold(
    sql: &Statements,
    rows: &BTreeMap<i64, Locked>,
    positions: &[i64],
    keys: &mut Keys,
    connection: &mut MySqlConnection,
) -> Result<()> {
    let waiting = blocked(sql, rows, positions.iter().copied(), connection).await?;
    let has_key = |position: &i64| rows.get(position).is_some_and(|row| row.hash.is_some());
    for position in positions {
        if let Some(row) = rows.get(position)
            && let Some(key) = row.hash.clone()
        {
            keys.block(Place { partition: row.partition, position: *position }, key);
        }
    }
    let held = positions
        .iter()
        .filter(|position| rows.contains_key(position))
        .map(|position| (*position, waiting.contains(position), has_key(position)));
    set_due(sql, held, connection).await
}

/// Makes wait what is due behind the blocked positions.
pub(crate) async fn hold_later(
    sql: &Statements,
    keys: &Keys,
    connection: &mut MySqlConnection,
) -> Result<()> {
    if keys.blocked.is_empty() {
        return Ok(());
    }
    let list: Vec<Value> = keys
        .blocked
        .iter()
        .map(|((partition, hash), position)| json!([partition.0, hash, position]))
        .collect();
    sqlx::query(sql.hold_later.clone())
        .bind(Value::from(list).to_string())
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}

/// Makes the first waiting rows of some keys due, unless they are behind something that retries or is dead. Not more
/// than `limit`; says how many.
pub(crate) async fn release(
    sql: &Statements,
    keys: &BTreeSet<(Partition, String)>,
    limit: usize,
    connection: &mut MySqlConnection,
) -> Result<u64> {
    let keys: Vec<&(Partition, String)> = keys.iter().collect();
    let mut due = Vec::new();
    for keys in keys.chunks(KEYS_AT_A_TIME) {
        let dead = blocking_dead(sql, keys, connection).await?;
        for (key, rows) in blocking(sql, keys, connection).await? {
            due.extend(released(rows, dead.get(&key).copied()));
        }
        if due.len() >= limit {
            break;
        }
    }
    due.truncate(limit);
    let count = due.len() as u64;
    set_due(sql, due.into_iter().map(|position| (position, false, true)), connection).await?;
    Ok(count)
}

type OfKeys<T> = BTreeMap<(Partition, String), T>;

async fn blocking(
    sql: &Statements,
    keys: &[&(Partition, String)],
    connection: &mut MySqlConnection,
) -> Result<OfKeys<Vec<Blocking>>> {
    let statement = sql.blocking(keys.len());
    let mut query = sqlx::query(statement);
    for (partition, hash) in keys {
        query = query.bind(partition.0).bind(hash);
    }
    let mut found = OfKeys::<Vec<Blocking>>::new();
    for row in query.fetch_all(connection).await.map_err(map_error)?.iter().map(Columns) {
        let key = (row.partition(0)?, row.own_text(1)?.unwrap_or_default());
        let row = Blocking { position: row.required(2)?, waits: row.boolean(3)?, retries: row.boolean(4)? };
        found.entry(key).or_default().push(row);
    }
    Ok(found)
}

async fn blocking_dead(
    sql: &Statements,
    keys: &[&(Partition, String)],
    connection: &mut MySqlConnection,
) -> Result<OfKeys<i64>> {
    let list: Vec<Value> = keys.iter().map(|(partition, hash)| json!([partition.0, hash])).collect();
    let rows = sqlx::query(sql.blocking_dead())
        .bind(Value::from(list).to_string())
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    let mut found = OfKeys::new();
    for row in rows.iter().map(Columns) {
        if let Some(position) = row.bigint(2)? {
            found.insert((row.partition(0)?, row.own_text(1)?.unwrap_or_default()), position);
        }
    }
    Ok(found)
}

impl MySqlStore {
    /// Releases rows that wait for nothing.
    pub(crate) async fn release_stuck(
        &self,
        relay: RelayId,
        partitions: &[Partition],
        limit: usize,
    ) -> Result<u64> {
        let inner = self.checked().await?;
        let sql = &inner.shared.statements;
        // Usually nothing is, and then nobody is disturbed.
        let mut session = inner.connections.lend().await?;
        let anything: Option<Vec<u8>> =
            sqlx::query_scalar(sql.anything.clone()).fetch_one(&mut *session).await.map_err(map_error)?;
        let nothing = anything.is_none()
            || fronts(sql, partitions.iter().copied(), limit, &mut session).await?.is_empty();
        session.give_back();
        if nothing {
            return Ok(0);
        }
        again(|| async move {
            let mut session = inner.connections.lend().await?;
            let mut tx = begin_on(&mut session).await?;
            let owned = lock_leases(sql, relay, partitions.iter().copied(), &mut tx).await?;
            let keys = fronts(sql, owned, limit, &mut tx).await?;
            let released = release(sql, &keys, limit, &mut tx).await?;
            tx.commit().await.map_err(map_error)?;
            session.give_back();
            Ok(released)
        })
        .await
    }
}

async fn fronts(
    sql: &Statements,
    partitions: impl IntoIterator<Item = Partition>,
    limit: usize,
    connection: &mut MySqlConnection,
) -> Result<BTreeSet<(Partition, String)>> {
    let rows = sqlx::query(sql.fronts.clone())
        .bind(list(partitions))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    rows.iter()
        .map(Columns)
        .map(|row| Ok((row.partition(0)?, row.own_text(1)?.unwrap_or_default())))
        .collect()
}
