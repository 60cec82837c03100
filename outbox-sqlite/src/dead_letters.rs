//! Looking after dead letters.

use async_trait::async_trait;
use outbox_core::{Count, DeadLetter, DeadLetterFilter, DeadLetters, Position, RelayId, Result, Timestamp};
use outbox_sql::dead_letters::{Condition, DeadRow, Dialect, Value, full, replace_last};
use outbox_sql::row::attempts;
use outbox_sql::text::json_list;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use crate::error::store_error;
use crate::row::{integer, lossy, raw_message};
use crate::schema::NOW;
use crate::settle::Settling;
use crate::store::SqliteStore;
use crate::transaction::BEGIN_IMMEDIATE;

fn dialect() -> Dialect {
    Dialect {
        everything: "1 = 1",
        positions: r#""position" IN (SELECT value FROM json_each(?))"#,
        // In each of the ways it may have been written.
        id: (r#"(lower(replace("message_id", '-', '')) = ? OR "message_id" = ?)"#, |id| {
            vec![Value::Text(id.simple().to_string()), Value::Bytes(id.as_bytes().to_vec())]
        }),
        topic: (r#""topic" = ?"#, |topic| Value::Text(topic.to_owned())),
        key: (r#""key" = ?"#, |key| Value::Text(key.to_owned())),
        error_contains: r#"instr("last_error", ?) > 0"#,
        older_than: format!(r#""died_at" <= {NOW} - ?"#).into(),
        after: r#""position" > ?"#,
        at: r#""position" = ?"#,
    }
}

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind(query: Statement<'_>, values: Vec<Value>) -> Statement<'_> {
    values.into_iter().fold(query, |query, value| match value {
        Value::Integer(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Bytes(value) => query.bind(value),
    })
}

impl SqliteStore {
    async fn select(
        &self,
        connection: &mut SqliteConnection,
        columns: &str,
        condition: &Condition,
        limit: usize,
    ) -> Result<Vec<SqliteRow>> {
        let sql = format!(
            r#"SELECT {columns} FROM {} WHERE {} ORDER BY "position", "enqueued_at", "number" LIMIT ?"#,
            self.sql().dead_letters.text(),
            condition.sql
        );
        bind(sqlx::query(AssertSqlSafe(sql)), condition.values.clone())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await
            .map_err(|error| store_error("looking for dead letters", error))
    }

    /// The numbers of the first dead letters that match.
    async fn numbers(
        &self,
        connection: &mut SqliteConnection,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Result<Vec<i64>> {
        let condition = Condition::new(&dialect(), filter, None);
        let rows = self.select(connection, r#""number""#, &condition, limit).await?;
        rows.iter().map(|row| integer(row, 0)).collect()
    }
}

#[async_trait]
impl DeadLetters for SqliteStore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let mut connection = self.connection().await?;
        let columns = self.sql().dead_letter_columns;
        let condition = Condition::new(&dialect(), filter, after);
        let rows = self.select(&mut connection, columns, &condition, limit).await?;
        let mut page: Vec<DeadLetter> = rows.iter().map(dead_letter).collect::<Result<_>>()?;
        if let Some(last) = full(&page, limit) {
            // The next page begins behind the position.
            let rest = condition.at(&dialect(), last);
            let rows = self.select(&mut connection, columns, &rest, usize::MAX).await?;
            replace_last(&mut page, rows.iter().map(dead_letter).collect::<Result<_>>()?);
        }
        Ok(page)
    }

    async fn count(&self, filter: &DeadLetterFilter, limit: u64) -> Result<Count> {
        let mut connection = self.connection().await?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
        // Numbers alone take no room to speak of, and the condition is the same as for a list.
        let counted = self.numbers(&mut connection, filter, most).await?.len();
        Ok(Count::limited(counted as u64, limit))
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let failed = |error| store_error("redriving dead letters", error);
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
        let numbers = self.numbers(&mut transaction, filter, limit).await?;
        let sql = self.sql();
        let now: i64 =
            sqlx::query_scalar(sql.now.sql()).fetch_one(&mut *transaction).await.map_err(failed)?;
        let positions: Vec<i64> = sqlx::query_scalar(sql.redrive.sql())
            .bind(json_list(numbers.iter().copied()))
            .bind(now)
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed)?;
        let mut settling = Settling::begin(&mut transaction, sql, nobody()).await?;
        settling.change(&sql.delete_dead, &numbers).await?;
        // What is still behind something that blocks its key waits for that, and what is behind it waits for it.
        settling.change(&sql.hold_behind, &positions).await?;
        settling.change(&sql.hold_later, &positions).await?;
        transaction.commit().await.map_err(failed)?;
        self.outbox().wake();
        Ok(u64::try_from(positions.len()).unwrap_or(u64::MAX))
    }

    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let failed = |error| store_error("discarding dead letters", error);
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
        let numbers = self.numbers(&mut transaction, filter, limit).await?;
        let sql = self.sql();
        let mut settling = Settling::begin(&mut transaction, sql, nobody()).await?;
        let behind = settling.held_behind(&sql.held_behind_dead, &numbers).await?;
        settling.change(&sql.delete_dead, &numbers).await?;
        settling.release(&behind, u64::MAX).await?;
        transaction.commit().await.map_err(failed)?;
        self.outbox().wake();
        Ok(u64::try_from(numbers.len()).unwrap_or(u64::MAX))
    }
}

/// Dead letters belong to no relay, so that none of the statements used here asks for one.
fn nobody() -> RelayId {
    RelayId(Uuid::nil())
}

fn dead_letter(row: &SqliteRow) -> Result<DeadLetter> {
    let dead = DeadRow {
        position: integer(row, 0)?,
        attempts: attempts(integer(row, 1)?),
        error: lossy(row, 3)?.unwrap_or_default(),
        blocks_key: integer(row, 2)? != 0,
        enqueued_at: Timestamp::from_micros(integer(row, 4)?),
        died_at: Timestamp::from_micros(integer(row, 5)?),
    };
    Ok(dead.with(raw_message(row, 6)?.content(None)))
}
