//! Looking after dead letters.

use std::borrow::Cow;
use std::collections::BTreeMap;

use async_trait::async_trait;
use outbox_core::{
    Count, DeadLetter, DeadLetterFilter, DeadLetters, Error, ErrorKind, Partition, Position, RelayId, Result,
};
use outbox_sql::dead_letters::{Condition, DeadRow, Dialect, Value, full, places, replace_last};
use outbox_sql::row::attempts;
use outbox_sql::settle::{Keys, Place};
use outbox_sql::text::json_list;
use serde_json::json;
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{MySql, MySqlConnection, Transaction};

use crate::error::map_error;
use crate::keys::{Locked, hold, hold_later, lock_leases, lock_rows, release};
use crate::row::Columns;
use crate::settle::run;
use crate::store::MySqlStore;
use crate::transaction::{again, begin_on};

/// The column with which the parts of the message begin.
const CONTENT: usize = 6;

/// Spaces at the end make a difference to bytes only.
const DIALECT: Dialect = Dialect {
    everything: "TRUE",
    positions: "d.`position` IN (SELECT s.`position` FROM JSON_TABLE(?, '$[*]' COLUMNS (`position` BIGINT PATH '$')) AS s)",
    id: ("d.`message_id` = ?", |id| vec![Value::Bytes(id.as_bytes().to_vec())]),
    topic: ("CAST(d.`topic` AS BINARY) = ?", |topic| Value::Bytes(topic.as_bytes().to_vec())),
    key: ("CAST(d.`key` AS BINARY) = ?", |key| Value::Bytes(key.as_bytes().to_vec())),
    error_contains: "INSTR(d.`last_error`, ?) > 0",
    older_than: Cow::Borrowed("d.`died_at` <= UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND"),
    after: "d.`position` > ?",
    at: "d.`position` = ?",
};

fn bind(query: Query<'_, MySql, MySqlArguments>, values: Vec<Value>) -> Query<'_, MySql, MySqlArguments> {
    values.into_iter().fold(query, |query, value| match value {
        Value::Integer(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Bytes(value) => query.bind(value),
    })
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A dead letter under its lock.
struct Dead {
    number: i64,
    position: i64,
    row: Locked,
}

/// Dead letters by position, in a transaction to be committed by the caller.
struct Taken<'s> {
    tx: Transaction<'s, MySql>,
    letters: Vec<Dead>,
}

fn numbers(letters: &[Dead]) -> Vec<serde_json::Value> {
    letters.iter().map(|dead| json!(dead.number)).collect()
}

impl MySqlStore {
    /// Locks the first dead letters that match, and keeps the relays that own their partitions from settling.
    async fn take<'s>(
        &self,
        filter: &DeadLetterFilter,
        limit: usize,
        session: &'s mut MySqlConnection,
    ) -> Result<Option<Taken<'s>>> {
        let sql = &self.checked().await?.shared.statements;
        let condition = Condition::new(&DIALECT, filter, None);
        let statement = sql.pick_dead(&condition.sql);
        let picked = bind(sqlx::query(statement), condition.values)
            .bind(count(limit))
            .fetch_all(&mut *session)
            .await
            .map_err(map_error)?;
        if picked.is_empty() {
            return Ok(None);
        }
        let picked: Vec<(i64, Partition)> = picked
            .iter()
            .map(|row| Ok((Columns(row).required(0)?, Columns(row).partition(1)?)))
            .collect::<Result<_>>()?;
        let mut tx = begin_on(session).await?;
        // Leases first, as settling does.
        lock_leases(sql, RelayId(uuid::Uuid::nil()), picked.iter().map(|(_, partition)| *partition), &mut tx)
            .await?;
        let rows = sqlx::query(sql.lock_dead.clone())
            .bind(json_list(picked.iter().map(|(number, _)| *number)))
            .fetch_all(&mut *tx)
            .await
            .map_err(map_error)?;
        let dead = |row: Columns<'_>| {
            Ok(Dead { number: row.required(0)?, position: row.required(6)?, row: Locked::of(row)? })
        };
        let letters = rows.iter().map(Columns).map(dead).collect::<Result<_>>()?;
        Ok(Some(Taken { tx, letters }))
    }
}

#[async_trait]
impl DeadLetters for MySqlStore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let inner = self.checked().await?;
        let condition = Condition::new(&DIALECT, filter, after);
        let statement = inner.shared.statements.list_dead(&condition.sql);
        let query = bind(sqlx::query(statement), condition.values.clone());
        let rows = inner.connections.rows(query.bind(count(limit))).await?;
        let mut page: Vec<DeadLetter> = rows.iter().map(describe).collect::<Result<_>>()?;
        if let Some(last) = full(&page, limit) {
            // The next page begins behind the position.
            let condition = condition.at(&DIALECT, last);
            let statement = inner.shared.statements.list_dead(&condition.sql);
            let query = bind(sqlx::query(statement), condition.values);
            let rows = inner.connections.rows(query.bind(i64::MAX)).await?;
            replace_last(&mut page, rows.iter().map(describe).collect::<Result<_>>()?);
        }
        Ok(page)
    }

    async fn count(&self, filter: &DeadLetterFilter, limit: u64) -> Result<Count> {
        let inner = self.checked().await?;
        let condition = Condition::new(&DIALECT, filter, None);
        let statement = inner.shared.statements.count_dead(&condition.sql);
        let query = bind(sqlx::query(statement), condition.values)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
        let row = inner.connections.row(query).await?;
        Ok(Count::limited(u64::try_from(Columns(&row).required(0)?).unwrap_or(0), limit))
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let inner = self.checked().await?;
        let sql = &inner.shared.statements;
        again(|| async move {
            let mut session = inner.connections.lend().await?;
            let Some(Taken { mut tx, letters }) = self.take(filter, limit, &mut session).await? else {
                session.give_back();
                return Ok(0);
            };
            let count = letters.len() as u64;
            let wanted: Vec<i64> = letters.iter().map(|dead| dead.position).collect();
            let there = lock_rows(&sql.lock_rows, wanted.iter().copied(), &mut tx).await?;
            let lowest: Option<i64> =
                sqlx::query_scalar(sql.lowest.clone()).fetch_one(&mut *tx).await.map_err(map_error)?;
            let places = places(&wanted, there.into_keys().collect(), lowest);
            let list = letters.iter().zip(&places).map(|(dead, place)| json!([dead.number, place]));
            run(&sql.redrive, list.collect(), &mut tx).await?;
            run(&sql.delete_dead, numbers(&letters), &mut tx).await?;
            let rows: BTreeMap<i64, Locked> =
                places.into_iter().zip(letters.into_iter().map(|dead| dead.row)).collect();
            let mut keys = Keys::default();
            let mut blocking = Vec::new();
            for (position, row) in &rows {
                if let (Some(hash), true) = (&row.hash, row.blocks) {
                    keys.block(Place { partition: row.partition, position: *position }, hash.clone());
                    blocking.push(*position);
                }
            }
            hold_later(sql, &keys, &mut tx).await?;
            // They are due, unless one of them or something else still blocks them from the front.
            hold(sql, &rows, &blocking, &mut keys, &mut tx).await?;
            tx.commit().await.map_err(map_error)?;
            session.give_back();
            Ok(count)
        })
        .await
    }

    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let inner = self.checked().await?;
        let sql = &inner.shared.statements;
        again(|| async move {
            let mut session = inner.connections.lend().await?;
            let Some(Taken { mut tx, letters }) = self.take(filter, limit, &mut session).await? else {
                session.give_back();
                return Ok(0);
            };
            run(&sql.delete_dead, numbers(&letters), &mut tx).await?;
            let mut keys = Keys::default();
            for Dead { position, row, .. } in &letters {
                let place = Place { partition: row.partition, position: *position };
                keys.note(place, row.hash.clone(), false, row.blocks);
            }
            release(sql, &keys.freed, usize::MAX, &mut tx).await?;
            tx.commit().await.map_err(map_error)?;
            session.give_back();
            Ok(letters.len() as u64)
        })
        .await
    }
}

fn describe(row: &MySqlRow) -> Result<DeadLetter> {
    let row = Columns(row);
    let Some(died_at) = row.timestamp(5)? else {
        return Err(Error::new(ErrorKind::Schema, "a dead letter has no time of its death; put it right"));
    };
    let dead = DeadRow {
        position: row.required(0)?,
        attempts: attempts(row.required(1)?),
        error: row.lossy_text(3)?.unwrap_or_default(),
        blocks_key: row.boolean(2)?,
        enqueued_at: row.timestamp(4)?.unwrap_or(died_at),
        died_at,
    };
    Ok(dead.with(row.content(CONTENT, None)?))
}
