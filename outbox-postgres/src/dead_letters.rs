//! Looking after dead letters.

use async_trait::async_trait;
use outbox_core::{Count, DeadLetter, DeadLetterFilter, DeadLetters, Identity, Position, Result};
use outbox_sql::dead_letters::DeadRow;
use outbox_sql::settle::{Keys, Target};
use outbox_sql::text::micros;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::{Query, QueryAs};
use sqlx::{PgPool, Postgres, SqlStr, Transaction};
use uuid::Uuid;

use crate::error::map_error;
use crate::row::Columns;
use crate::settle::{hold, hold_later, place, release};
use crate::sql::Column;
use crate::store::PostgresStore;
use crate::targets::StoredTime;
use crate::transaction::begin;

/// Where a dead letter was, its key, whether it blocked, its message id, and its time of enqueueing.
type Taken = (i16, i64, Option<String>, bool, Uuid, StoredTime);

/// The columns that only dead letters have, behind those of a fetched row.
const DIED_AT: usize = Column::Blocked as usize + 1;
const LAST_ERROR: usize = DIED_AT + 1;

/// A filter as the first six parameters.
struct Conditions<'a> {
    positions: Option<Vec<i64>>,
    id: Option<Uuid>,
    topic: Option<&'a str>,
    key: Option<&'a str>,
    error: Option<&'a str>,
    age: Option<i64>,
}

impl<'a> Conditions<'a> {
    fn new(filter: &'a DeadLetterFilter) -> Self {
        let positions = filter.positions.as_ref();
        Self {
            positions: positions.map(|positions| positions.iter().map(|position| position.0).collect()),
            id: filter.id.map(Uuid::from),
            topic: filter.topic.as_deref(),
            key: filter.key.as_deref(),
            error: filter.error_contains.as_deref(),
            age: filter.older_than.map(micros),
        }
    }

    /// Whether a text is in it that no row can hold, and that PostgreSQL would not even compare.
    fn matches_nothing(&self) -> bool {
        [self.topic, self.key, self.error].into_iter().flatten().any(|text| text.contains('\0'))
    }

    fn query(self, statement: &SqlStr) -> Query<'a, Postgres, PgArguments> {
        sqlx::query(statement.clone())
            .bind(self.positions)
            .bind(self.id)
            .bind(self.topic)
            .bind(self.key)
            .bind(self.error)
            .bind(self.age)
    }

    fn query_taken(self, statement: &SqlStr) -> QueryAs<'a, Postgres, Taken, PgArguments> {
        sqlx::query_as(statement.clone())
            .bind(self.positions)
            .bind(self.id)
            .bind(self.topic)
            .bind(self.key)
            .bind(self.error)
            .bind(self.age)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[async_trait]
impl DeadLetters for PostgresStore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let (pool, _, sql) = self.checked().await?;
        let conditions = Conditions::new(filter);
        if conditions.matches_nothing() {
            return Ok(Vec::new());
        }
        let rows = conditions
            .query(&sql.list_dead)
            .bind(after.map(|position| position.0))
            .bind(count(limit))
            .fetch_all(pool)
            .await
            .map_err(map_error)?;
        rows.iter().filter_map(|row| describe(row).transpose()).collect()
    }

    async fn count(&self, filter: &DeadLetterFilter, limit: u64) -> Result<Count> {
        let (pool, _, sql) = self.checked().await?;
        let conditions = Conditions::new(filter);
        if conditions.matches_nothing() {
            return Ok(Count::default());
        }
        let row = conditions
            .query(&sql.count_dead)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
            .fetch_one(pool)
            .await
            .map_err(map_error)?;
        let counted = Columns(&row).bigint(0)?.and_then(|counted| u64::try_from(counted).ok());
        Ok(Count::limited(counted.unwrap_or(0), limit))
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let (pool, _, sql) = self.checked().await?;
        let Some((mut tx, redriven)) = take(pool, &sql.redrive, filter, limit).await? else { return Ok(0) };
        let number = redriven.len() as u64;
        let (mut keys, mut rows) = (Keys::default(), Vec::new());
        for (partition, position, key, blocks, id, time) in redriven {
            if let (Some(key), true) = (key, blocks) {
                let place = place(partition, position);
                keys.block(place, key);
                rows.push(Target { place, identity: Identity::new(id.into_bytes(), time.0) });
            }
        }
        hold_later(sql, &keys, &mut tx).await?;
        // They are due, unless one of them or something else still blocks them from the front.
        if !rows.is_empty() {
            hold(sql, &rows, &mut tx).await?;
        }
        tx.commit().await.map_err(map_error)?;
        Ok(number)
    }

    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let (pool, _, sql) = self.checked().await?;
        let Some((mut tx, discarded)) = take(pool, &sql.discard, filter, limit).await? else { return Ok(0) };
        let number = discarded.len() as u64;
        let mut keys = Keys::default();
        for (partition, position, key, blocks, ..) in discarded {
            keys.note(place(partition, position), key, false, blocks);
        }
        release(sql, &keys, &mut tx).await?;
        tx.commit().await.map_err(map_error)?;
        Ok(number)
    }
}

/// Takes dead letters out of their table by a statement that returns them, in a transaction to be committed by the
/// caller. `None` if the filter matches nothing.
async fn take(
    pool: &PgPool,
    statement: &SqlStr,
    filter: &DeadLetterFilter,
    limit: usize,
) -> Result<Option<(Transaction<'static, Postgres>, Vec<Taken>)>> {
    let conditions = Conditions::new(filter);
    if conditions.matches_nothing() {
        return Ok(None);
    }
    let mut tx = begin(pool).await?;
    let taken =
        conditions.query_taken(statement).bind(count(limit)).fetch_all(&mut *tx).await.map_err(map_error)?;
    Ok(Some((tx, taken)))
}

fn describe(row: &PgRow) -> Result<Option<DeadLetter>> {
    let row = Columns(row);
    let (Some(position), Some(died_at)) = (row.position()?, row.timestamp(DIED_AT)?) else { return Ok(None) };
    let dead = DeadRow {
        position: position.0,
        attempts: row.attempts()?,
        error: row.lossy_text(LAST_ERROR)?.unwrap_or_default(),
        blocks_key: row.boolean(Column::Blocked as usize)?,
        enqueued_at: row.enqueued_at()?,
        died_at,
    };
    Ok(Some(dead.with(row.content()?)))
}
