//! Looking after dead letters.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use outbox_core::{DeadLetter, DeadLetterFilter, DeadLetters, Partition, Position, RelayId, Result};
use outbox_sql::dead_letters::{Condition, DeadRow, Dialect, Value, full, places, replace_last};
use outbox_sql::row::attempts;
use outbox_sql::settle::{Keys, Place};
use outbox_sql::text::json_list;
use serde_json::json;
use tiberius::{Row, ToSql};
use uuid::Uuid;

use crate::call::{again, begin, commit, query};
use crate::keys::{Locked, hold, hold_later, lock_leases, lock_rows, release, run};
use crate::migrate::batch;
use crate::pool::Client;
use crate::row::{Columns, unexpected};
use crate::sql::Statements;
use crate::store::{Checked, MssqlStore, number};

/// The column with which the parts of the message begin.
const CONTENT: usize = 6;

/// Where texts end with spaces, comparisons do not tell; the bar behind them does.
const DIALECT: Dialect = Dialect {
    everything: "1 = 1",
    positions: "d.position IN (SELECT s.position FROM OPENJSON(?) WITH (position bigint '$') AS s)",
    id: ("d.message_id = CONVERT(uniqueidentifier, ?)", |id| vec![Value::Text(id.to_string())]),
    topic: ("d.topic + N'|' = ? COLLATE Latin1_General_100_BIN2 + N'|'", |topic| {
        Value::Text(topic.to_owned())
    }),
    key: ("d.[key] + N'|' = ? COLLATE Latin1_General_100_BIN2 + N'|'", |key| Value::Text(key.to_owned())),
    error_contains: "CHARINDEX(? COLLATE Latin1_General_100_BIN2, d.last_error) > 0",
    older_than: Cow::Borrowed("DATEDIFF_BIG(microsecond, d.died_at, SYSUTCDATETIME()) >= ?"),
    after: "d.position > ?",
    at: "d.position = ?",
};

/// The parameters of a condition get their numbers, from the second one on.
fn numbered(condition: &str) -> String {
    let mut parts = condition.split('?');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (number, part) in parts.enumerate() {
        text.push_str(&format!("@P{}{part}", number + 2));
    }
    text
}

/// Runs a statement that has a condition in it.
async fn select(
    client: &mut Client,
    (before, behind): &(String, String),
    condition: &Condition,
    limit: usize,
) -> Result<Vec<Row>> {
    let statement = format!("{before}{}{behind}", numbered(&condition.sql));
    let limit = number(limit);
    let values = condition.values.iter().map(|value| -> &dyn ToSql {
        match value {
            Value::Integer(value) => value,
            Value::Text(value) => value,
            Value::Bytes(value) => value,
        }
    });
    let parameters: Vec<&dyn ToSql> = std::iter::once(&limit as &dyn ToSql).chain(values).collect();
    Ok(query(client, &statement, &parameters).await?.rows())
}

/// A dead letter under its lock.
struct Dead {
    number: i64,
    position: i64,
    row: Locked,
}

fn numbers(letters: &[Dead]) -> Vec<serde_json::Value> {
    letters.iter().map(|dead| json!(dead.number)).collect()
}

/// Locks the first dead letters that match, and returns them by position. Keeps the relays that own their partitions from settling.
async fn take(
    sql: &Statements,
    filter: &DeadLetterFilter,
    limit: usize,
    client: &mut Client,
) -> Result<Vec<Dead>> {
    let picked = select(client, &sql.pick_dead, &Condition::new(&DIALECT, filter, None), limit).await?;
    if picked.is_empty() {
        return Ok(Vec::new());
    }
    let mut picked_numbers = Vec::new();
    let mut partitions = BTreeSet::<Partition>::new();
    for row in picked.iter().map(Columns) {
        picked_numbers.push(row.required(0)?);
        partitions.insert(row.partition(1)?);
    }
    // Leases first, as settling does.
    lock_leases(sql, RelayId(Uuid::nil()), partitions, client).await?;
    let rows = query(client, &sql.lock_dead, &[&json_list(picked_numbers)]).await?.rows();
    let dead = |row: Columns<'_>| {
        Ok(Dead { number: row.required(0)?, position: row.required(6)?, row: Locked::of(row)? })
    };
    let mut letters: Vec<Dead> = rows.iter().map(Columns).map(dead).collect::<Result<_>>()?;
    letters.sort_unstable_by_key(|dead| (dead.position, dead.row.identity.time(), dead.number));
    Ok(letters)
}

#[async_trait]
impl DeadLetters for MssqlStore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let Checked { pool, sql, .. } = self.checked().await?;
        let condition = &Condition::new(&DIALECT, filter, after);
        again(|| async move {
            let mut client = pool.call().await?;
            let rows = select(&mut client, &sql.list_dead, condition, limit).await?;
            let mut page: Vec<DeadLetter> = rows.iter().map(describe).collect::<Result<_>>()?;
            if let Some(last) = full(&page, limit) {
                // The next page begins behind the position.
                let rest = condition.at(&DIALECT, last);
                let rows = select(&mut client, &sql.list_dead, &rest, usize::MAX).await?;
                replace_last(&mut page, rows.iter().map(describe).collect::<Result<_>>()?);
            }
            client.give_back();
            Ok(page)
        })
        .await
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let Checked { pool, sql, .. } = self.checked().await?;
        again(|| async move {
            let mut tx = begin(pool).await?;
            let letters = take(sql, filter, limit, &mut tx).await?;
            let count = letters.len() as u64;
            let wanted: Vec<i64> = letters.iter().map(|dead| dead.position).collect();
            let there = lock_rows(&sql.lock_rows, wanted.iter().copied(), &mut tx).await?;
            let lowest = query(&mut tx, &sql.lowest, &[]).await?.rows();
            let lowest = lowest.first().map_or(Ok(None), |row| Columns(row).number(0))?;
            let places = places(&wanted, there.into_keys().collect(), lowest);
            let list = letters.iter().zip(&places).map(|(dead, place)| json!([dead.number, place])).collect();
            // An error in between throws the connection away, and the setting with it.
            batch(&mut tx, &sql.own_positions).await?;
            run(&sql.redrive, list, &mut tx).await?;
            batch(&mut tx, &sql.drawn_positions).await?;
            run(&sql.delete_dead, numbers(&letters), &mut tx).await?;
            let rows: BTreeMap<i64, Locked> =
                places.into_iter().zip(letters.into_iter().map(|dead| dead.row)).collect();
            let mut keys = Keys::default();
            let mut blocking = Vec::new();
            for (position, row) in &rows {
                if let (Some(key), true) = (row.key(), row.blocks) {
                    keys.block(Place { partition: row.partition, position: *position }, key);
                    blocking.push(*position);
                }
            }
            hold_later(sql, &keys, &mut tx).await?;
            // They are due, unless one of them or something else still blocks them from the front.
            hold(sql, &rows, &blocking, &mut keys, &mut tx).await?;
            commit(tx).await?;
            Ok(count)
        })
        .await
    }

    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let Checked { pool, sql, .. } = self.checked().await?;
        again(|| async move {
            let mut tx = begin(pool).await?;
            let letters = take(sql, filter, limit, &mut tx).await?;
            run(&sql.delete_dead, numbers(&letters), &mut tx).await?;
            let mut keys = Keys::default();
            for Dead { position, row, .. } in &letters {
                let place = Place { partition: row.partition, position: *position };
                keys.note(place, row.key(), false, row.blocks);
            }
            release(sql, &keys.freed, usize::MAX, &mut tx).await?;
            commit(tx).await?;
            Ok(letters.len() as u64)
        })
        .await
    }
}

fn describe(row: &Row) -> Result<DeadLetter> {
    let row = Columns(row);
    let time = |column| row.timestamp(column)?.ok_or_else(|| unexpected(column));
    let dead = DeadRow {
        position: row.required(0)?,
        attempts: attempts(row.required(1)?),
        error: row.text(3)?.unwrap_or_default().to_owned(),
        blocks_key: row.boolean(2)?,
        enqueued_at: time(4)?,
        died_at: time(5)?,
    };
    Ok(dead.with(row.content(CONTENT, None)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::MessageId;

    use super::*;

    #[test]
    fn every_condition_is_numbered() {
        let mut filter = DeadLetterFilter::default();
        filter.positions = Some(vec![Position(1)]);
        filter.id = Some(MessageId::from(Uuid::nil()));
        filter.topic = Some("topic".to_owned());
        filter.key = Some("key".to_owned());
        filter.error_contains = Some("error".to_owned());
        filter.older_than = Some(Duration::from_secs(7));
        let condition = Condition::new(&DIALECT, &filter, Some(Position(9)));
        insta::assert_snapshot!("condition", numbered(&condition.sql).replace(" AND ", "\n    AND "));
        assert_eq!(condition.values.len(), 7);
    }
}
