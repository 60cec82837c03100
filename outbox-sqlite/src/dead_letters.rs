//! Looking after dead letters.

use async_trait::async_trait;
use outbox_core::{Content, DeadLetter, DeadLetterFilter, DeadLetters, Position, RelayId, Result, Timestamp};
use outbox_sql::row::attempts;
use outbox_sql::text::{json_list, micros};
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

/// A filter as SQL, and its values.
struct Condition {
    sql: String,
    values: Vec<Value>,
}

enum Value {
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Condition {
    fn new(filter: &DeadLetterFilter, after: Option<Position>) -> Self {
        let mut condition = Self { sql: "1 = 1".to_owned(), values: Vec::new() };
        if let Some(positions) = &filter.positions {
            let list = json_list(positions.iter().map(|position| position.0));
            condition.and(r#""position" IN (SELECT value FROM json_each(?))"#, Value::Text(list));
        }
        if let Some(id) = filter.id {
            // In each of the ways it may have been written.
            let id = Uuid::from(id);
            condition
                .and(r#"(lower(replace("message_id", '-', '')) = ?"#, Value::Text(id.simple().to_string()));
            condition.values.push(Value::Blob(id.as_bytes().to_vec()));
            condition.sql.push_str(r#" OR "message_id" = ?)"#);
        }
        if let Some(topic) = &filter.topic {
            condition.and(r#""topic" = ?"#, Value::Text(topic.clone()));
        }
        if let Some(key) = &filter.key {
            condition.and(r#""key" = ?"#, Value::Text(key.clone()));
        }
        if let Some(text) = &filter.error_contains {
            condition.and(r#"instr("last_error", ?) > 0"#, Value::Text(text.clone()));
        }
        if let Some(age) = filter.older_than {
            condition.and(&format!(r#""died_at" <= {NOW} - ?"#), Value::Integer(micros(age)));
        }
        if let Some(after) = after {
            condition.and(r#""position" > ?"#, Value::Integer(after.0));
        }
        condition
    }

    fn and(&mut self, sql: &str, value: Value) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.push(value);
    }

    fn bind<'q>(self, mut query: Query<'q, Sqlite, SqliteArguments>) -> Query<'q, Sqlite, SqliteArguments> {
        for value in self.values {
            query = match value {
                Value::Integer(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Blob(value) => query.bind(value),
            };
        }
        query
    }
}

impl SqliteStore {
    async fn select(
        &self,
        connection: &mut SqliteConnection,
        columns: &str,
        condition: Condition,
        limit: usize,
    ) -> Result<Vec<SqliteRow>> {
        let sql = format!(
            r#"SELECT {columns} FROM {} WHERE {} ORDER BY "position" LIMIT ?"#,
            self.sql().dead_letters.text(),
            condition.sql
        );
        condition
            .bind(sqlx::query(AssertSqlSafe(sql)))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await
            .map_err(|error| store_error("looking for dead letters", error))
    }

    async fn positions(
        &self,
        connection: &mut SqliteConnection,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Result<Vec<i64>> {
        let rows = self.select(connection, r#""position""#, Condition::new(filter, None), limit).await?;
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
        let rows = self.select(&mut connection, columns, Condition::new(filter, after), limit).await?;
        rows.iter().map(dead_letter).collect()
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let failed = |error| store_error("redriving dead letters", error);
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
        let positions = self.positions(&mut transaction, filter, limit).await?;
        let sql = self.sql();
        let now: i64 =
            sqlx::query_scalar(sql.now.sql()).fetch_one(&mut *transaction).await.map_err(failed)?;
        sqlx::query(sql.redrive.sql())
            .bind(json_list(positions.iter().copied()))
            .bind(now)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let mut settling = Settling::begin(&mut transaction, sql, nobody()).await?;
        settling.change(&sql.delete_dead, &positions).await?;
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
        let positions = self.positions(&mut transaction, filter, limit).await?;
        let sql = self.sql();
        let mut settling = Settling::begin(&mut transaction, sql, nobody()).await?;
        let behind = settling.held_behind(&sql.held_behind_dead, &positions).await?;
        settling.change(&sql.delete_dead, &positions).await?;
        settling.release(&behind, u64::MAX).await?;
        transaction.commit().await.map_err(failed)?;
        self.outbox().wake();
        Ok(u64::try_from(positions.len()).unwrap_or(u64::MAX))
    }
}

/// Dead letters belong to no relay, so that none of the statements used here asks for one.
fn nobody() -> RelayId {
    RelayId(Uuid::nil())
}

fn dead_letter(row: &SqliteRow) -> Result<DeadLetter> {
    let (id, topic, key, message) = match raw_message(row, 6)?.content(None) {
        Content::Message(message) => {
            let key = message.key().map(str::to_owned);
            (Some(message.id()), Some(message.topic().to_owned()), key, Some(message))
        }
        Content::Malformed { id, topic, key, .. } => (id, topic, key, None),
    };
    Ok(DeadLetter {
        position: Position(integer(row, 0)?),
        id,
        topic,
        key,
        attempts: attempts(integer(row, 1)?),
        error: lossy(row, 3)?.unwrap_or_default(),
        blocks_key: integer(row, 2)? != 0,
        enqueued_at: Timestamp::from_micros(integer(row, 4)?),
        died_at: Timestamp::from_micros(integer(row, 5)?),
        message,
    })
}
