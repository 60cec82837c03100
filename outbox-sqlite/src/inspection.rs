//! Looking at an outbox: for people, not for the relay.

use async_trait::async_trait;
use outbox_core::{Finding, Group, Inspection, Partition, Position, RelayId, Result, Timestamp, Waiting};
use outbox_sql::row::attempts;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::error::store_error;
use crate::row::{integer, lossy, raw_message};
use crate::store::{SqliteStore, impossible};

/// Free pages beyond this share of a file are worth a person's attention, and in a small file never.
const MOST_FREE: i64 = 50;
const SMALL_FILE: i64 = 64 << 20;
/// The column with which the parts of a message begin.
const CONTENT: usize = 7;

#[async_trait]
impl Inspection for SqliteStore {
    async fn group(&self) -> Result<Option<Group>> {
        let failed = |error| store_error("looking at the relays", error);
        let mut connection = self.connection().await?;
        let now: i64 =
            sqlx::query_scalar(self.sql().now.sql()).fetch_one(&mut *connection).await.map_err(failed)?;
        let relays: Vec<(String, i64)> = sqlx::query_as(self.sql().known_relays.sql())
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        let owners: Vec<(i64, Option<String>, Option<i64>)> =
            sqlx::query_as(self.sql().owners.sql()).fetch_all(&mut *connection).await.map_err(failed)?;
        let id = |text: &str| text.parse::<Uuid>().ok().map(RelayId);
        let alive = |(relay, expires): &(String, i64)| if *expires > now { id(relay) } else { None };
        let owner = |(partition, owner, expires): (i64, Option<String>, Option<i64>)| {
            let owner = owner.filter(|_| expires.is_some_and(|expires| expires > now));
            Ok((to_partition(partition)?, owner.as_deref().and_then(id)))
        };
        Ok(Some(Group::new(
            relays.iter().filter_map(alive).collect(),
            owners.into_iter().map(owner).collect::<Result<_>>()?,
        )))
    }

    async fn peek(&self, after: Option<Position>, limit: usize) -> Result<Option<Vec<Waiting>>> {
        let rows = sqlx::query(self.sql().peek.sql())
            .bind(after.map_or(i64::MIN, |after| after.0))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(|error| store_error("looking at waiting messages", error))?;
        rows.iter().map(describe).collect::<Result<_>>().map(Some)
    }

    async fn clock(&self) -> Result<Option<Timestamp>> {
        let now: i64 = sqlx::query_scalar(self.sql().now.sql())
            .fetch_one(&mut *self.connection().await?)
            .await
            .map_err(|error| store_error("asking for the time", error))?;
        Ok(Some(Timestamp::from_micros(now)))
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let failed = |error| store_error("looking at the file", error);
        let mut connection = self.connection().await?;
        let (synchronous, pages, free, page): (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT synchronous FROM pragma_synchronous), (SELECT page_count FROM pragma_page_count),
                (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size)",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
        // A connection in use was checked for that already.
        let mut findings =
            vec![Finding::good("journal", "WAL: readers and the writer do not wait for each other")];
        findings.push(if synchronous >= 2 {
            Finding::good("durability", "every commit is on the disk before it returns")
        } else {
            let advice =
                "set durability = \"full\", unless messages that vanish with a power loss are acceptable";
            Finding::warning("durability", "the last commits may vanish with a power loss", advice)
        });
        let (bytes, share) = (pages.saturating_mul(page), free * 100 / pages.max(1));
        let seen = format!("{} KiB, of which {share} % are free", bytes >> 10);
        findings.push(if bytes > SMALL_FILE && share > MOST_FREE {
            let advice = "a former backlog has left it; if the space is wanted back, run VACUUM while nothing else works";
            Finding::warning("file", seen, advice)
        } else {
            Finding::good("file", seen)
        });
        Ok(findings)
    }
}

fn to_partition(number: i64) -> Result<Partition> {
    u16::try_from(number).map(Partition).map_err(|_| impossible("partition", number))
}

fn describe(row: &SqliteRow) -> Result<Waiting> {
    let enqueued_at = Timestamp::from_micros(integer(row, 5)?);
    let mut waiting = Waiting::new(Position(integer(row, 0)?), to_partition(integer(row, 1)?)?, enqueued_at);
    waiting.attempts = attempts(integer(row, 2)?);
    waiting.blocks_key = integer(row, 3)? != 0;
    waiting.error = lossy(row, 4)?;
    let available_at: Option<i64> =
        sqlx::Row::try_get(row, 6).map_err(|error| store_error("reading a row", error))?;
    waiting.available_at = available_at.map(Timestamp::from_micros);
    Ok(waiting.with(raw_message(row, CONTENT)?.content(None)))
}
