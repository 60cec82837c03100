//! Looking at an outbox: for people, not for the relay.

use async_trait::async_trait;
use outbox_core::{Finding, Group, Inspection, Partition, Position, RelayId, Result, Timestamp, Waiting};
use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::diagnosis;
use crate::error::map_error;
use crate::row::Columns;
use crate::sql::Column;
use crate::store::PostgresStore;

/// The columns that only a look brings, behind those of a fetched row.
const AVAILABLE_AT: usize = Column::Blocked as usize + 1;
const LAST_ERROR: usize = AVAILABLE_AT + 1;

#[async_trait]
impl Inspection for PostgresStore {
    async fn group(&self) -> Result<Option<Group>> {
        let (pool, _, sql) = self.checked().await?;
        let relays: Vec<Uuid> =
            sqlx::query_scalar(sql.relays.clone()).fetch_all(pool).await.map_err(map_error)?;
        let owners: Vec<(i16, Option<Uuid>)> =
            sqlx::query_as(sql.owners.clone()).fetch_all(pool).await.map_err(map_error)?;
        let owner = |(partition, owner): (i16, Option<Uuid>)| {
            Some((Partition(u16::try_from(partition).ok()?), owner.map(RelayId)))
        };
        Ok(Some(Group::new(
            relays.into_iter().map(RelayId).collect(),
            owners.into_iter().filter_map(owner).collect(),
        )))
    }

    async fn peek(&self, after: Option<Position>, limit: usize) -> Result<Option<Vec<Waiting>>> {
        let partitions = self.meta().await?.partitions;
        let (pool, _, sql) = self.checked().await?;
        let rows = sqlx::query(sql.peek.clone())
            .bind(after.map_or(i64::MIN, |after| after.0))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(partitions)
            .fetch_all(pool)
            .await
            .map_err(map_error)?;
        rows.iter().filter_map(|row| describe(row).transpose()).collect::<Result<_>>().map(Some)
    }

    async fn clock(&self) -> Result<Option<Timestamp>> {
        let (pool, ..) = self.checked().await?;
        let row = sqlx::query("SELECT clock_timestamp()").fetch_one(pool).await.map_err(map_error)?;
        Columns(&row).timestamp(0)
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let (pool, names, _) = self.checked().await?;
        // One connection, to see whether it stays the same.
        let mut connection = pool.acquire().await.map_err(map_error)?;
        let connection: &mut PgConnection = &mut connection;
        let mut findings = diagnosis::settings(connection, names).await?;
        findings.push(diagnosis::rights(connection, names).await?);
        findings.push(diagnosis::enqueueing(connection, names).await?);
        findings.push(diagnosis::positions(connection, names).await?);
        findings.push(diagnosis::publications(connection, names).await?);
        findings.push(diagnosis::indexes(connection, names).await?);
        findings.push(diagnosis::trigger(connection, names).await?);
        findings.push(diagnosis::transactions(connection).await?);
        findings.push(diagnosis::bloat(connection, names).await?);
        findings.push(diagnosis::pooler(connection, self.has_sessions_of_its_own()).await?);
        Ok(findings)
    }
}

fn describe(row: &PgRow) -> Result<Option<Waiting>> {
    let row = Columns(row);
    let Some(position) = row.position()? else { return Ok(None) };
    let mut waiting = Waiting::new(position, row.partition()?, row.enqueued_at()?);
    waiting.attempts = row.attempts()?;
    waiting.error = row.lossy_text(LAST_ERROR)?;
    waiting.blocks_key = row.boolean(Column::Blocked as usize)?;
    waiting.available_at = row.timestamp(AVAILABLE_AT)?;
    Ok(Some(waiting.with(row.content()?)))
}
