//! Looking at an outbox: for people, not for the relay.

use async_trait::async_trait;
use outbox_core::{Finding, Group, Inspection, Position, RelayId, Result, Timestamp, Waiting};
use outbox_sql::row::attempts;
use sqlx::mysql::MySqlRow;
use uuid::Uuid;

use crate::diagnosis;
use crate::error::map_error;
use crate::row::Columns;
use crate::store::MySqlStore;

/// The column with which the parts of a message begin.
const CONTENT: usize = 7;
/// The largest message that publishers take by default. One statement has to hold it.
const PACKET: i64 = 16 << 20;

#[async_trait]
impl Inspection for MySqlStore {
    async fn group(&self) -> Result<Option<Group>> {
        let inner = self.checked().await?;
        let sql = &inner.shared.statements;
        let mut session = inner.connections.lend().await?;
        let relays = sqlx::query_scalar(sql.relays.clone()).fetch_all(&mut *session);
        let relays: Vec<Uuid> = relays.await.map_err(map_error)?;
        let owners = sqlx::query(sql.owners.clone()).fetch_all(&mut *session);
        let owners = owners.await.map_err(map_error)?;
        session.give_back();
        let owner = |row: &MySqlRow| {
            let owner: Option<Uuid> = sqlx::Row::try_get(row, 1).map_err(map_error)?;
            Ok((Columns(row).partition(0)?, owner.map(RelayId)))
        };
        Ok(Some(Group::new(
            relays.into_iter().map(RelayId).collect(),
            owners.iter().map(owner).collect::<Result<_>>()?,
        )))
    }

    async fn peek(&self, after: Option<Position>, limit: usize) -> Result<Option<Vec<Waiting>>> {
        let inner = self.checked().await?;
        let query = sqlx::query(inner.shared.statements.peek.clone())
            .bind(after.map_or(i64::MIN, |after| after.0))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = inner.connections.rows(query).await?;
        rows.iter().map(describe).collect::<Result<_>>().map(Some)
    }

    async fn clock(&self) -> Result<Option<Timestamp>> {
        let inner = self.checked().await?;
        let row = inner.connections.row(sqlx::query(inner.shared.statements.clock.clone())).await?;
        Columns(&row).timestamp(0)
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let inner = self.checked().await?;
        // One session, to see whether it stays the same.
        let mut session = inner.connections.lend().await?;
        let row = sqlx::query("SELECT VERSION(), @@global.read_only, @@max_allowed_packet, @@global.innodb_flush_log_at_trx_commit")
            .fetch_one(&mut *session)
            .await
            .map_err(map_error)?;
        let row = Columns(&row);
        let version = row.lossy_text(0)?.unwrap_or_default();
        let mut findings = vec![if row.required(1)? == 0 {
            Finding::good("server", format!("{version}, which can be written to"))
        } else {
            let advice = "connect to the primary: a relay writes";
            Finding::problem("server", format!("{version}, read-only: perhaps a replica"), advice)
        }];
        let packet = row.required(2)?;
        let seen = format!("max_allowed_packet is {} MiB", packet >> 20);
        findings.push(if packet >= PACKET {
            Finding::good("message size", seen)
        } else {
            Finding::warning("message size", seen, "raise it, unless messages are smaller than that")
        });
        findings.push(if row.required(3)? == 1 {
            Finding::good("durability", "every commit is on the disk before it returns")
        } else {
            let advice = "set innodb_flush_log_at_trx_commit = 1, unless messages that vanish with a power loss are \
                          acceptable";
            Finding::warning("durability", "the last commits may vanish with a power loss", advice)
        });
        findings.push(diagnosis::transactions(&mut session).await?);
        findings.push(diagnosis::rights(&mut session, &inner.shared.names).await?);
        findings.push(diagnosis::indexes(&mut session, &inner.shared.names).await?);
        findings.push(diagnosis::isolation(&mut session).await?);
        findings.push(diagnosis::pooler(&mut session).await?);
        session.give_back();
        Ok(findings)
    }
}

fn describe(row: &MySqlRow) -> Result<Waiting> {
    let row = Columns(row);
    let enqueued_at = row.timestamp(5)?.unwrap_or(Timestamp::from_micros(0));
    let mut waiting = Waiting::new(Position(row.required(0)?), row.partition(1)?, enqueued_at);
    waiting.attempts = attempts(row.required(2)?);
    waiting.blocks_key = row.boolean(3)?;
    waiting.error = row.lossy_text(4)?;
    waiting.available_at = row.timestamp(6)?;
    Ok(waiting.with(row.content(CONTENT, None)?))
}
