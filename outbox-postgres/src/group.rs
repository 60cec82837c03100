//! The group of relays and their leases.

use std::time::Duration;

use outbox_core::{Membership, Partition, RelayId, Result};
use outbox_sql::partitions::share;
use outbox_sql::text::micros;
use uuid::Uuid;

use crate::error::map_error;
use crate::lent::Lent;
use crate::store::PostgresStore;

/// Partitions as a parameter.
pub(crate) fn numbers(partitions: &[Partition]) -> Vec<i16> {
    partitions.iter().filter_map(|partition| i16::try_from(partition.0).ok()).collect()
}

fn partition(number: i16) -> Option<Partition> {
    u16::try_from(number).ok().map(Partition)
}

impl PostgresStore {
    pub(crate) async fn beat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        let (pool, names, sql) = self.checked().await?;
        let ttl = micros(ttl);
        let mut lent = Lent::from(pool).await?;
        let mut tx = lent.begin().await?;
        // One at a time, so that each sees the relays and the leases as the one before left them.
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(names.group_lock)
            .execute(&mut *tx)
            .await
            .map_err(map_error)?;
        sqlx::query(sql.join_group.clone())
            .bind(relay.0)
            .bind(ttl)
            .execute(&mut *tx)
            .await
            .map_err(map_error)?;
        sqlx::query(sql.extend_leases.clone())
            .bind(relay.0)
            .bind(ttl)
            .execute(&mut *tx)
            .await
            .map_err(map_error)?;
        let (relays, before, partitions, mut owned): (i64, i64, i64, Vec<i16>) =
            sqlx::query_as(sql.read_group.clone())
                .bind(relay.0)
                .fetch_one(&mut *tx)
                .await
                .map_err(map_error)?;
        let count = |number: i64| usize::try_from(number).unwrap_or(0);
        let share = share(count(partitions), count(relays), count(before));
        let wanted = share.saturating_sub(owned.len());
        if wanted > 0 {
            let claimed: Vec<i16> = sqlx::query_scalar(sql.claim_leases.clone())
                .bind(relay.0)
                .bind(ttl)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
                .fetch_all(&mut *tx)
                .await
                .map_err(map_error)?;
            owned.extend(claimed);
            owned.sort_unstable();
        }
        tx.commit().await.map_err(map_error)?;
        lent.give_back();
        Ok(Membership {
            owned: owned.into_iter().filter_map(partition).collect(),
            share,
            relays: count(relays).max(1),
            partitions: count(partitions),
        })
    }

    pub(crate) async fn release_leases(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        let (pool, _, sql) = self.checked().await?;
        let mut lent = Lent::from(pool).await?;
        // In a transaction, so that a release which is on its way when the relay gives up on it cannot take effect later, when
        // the relay counts on these leases again: a transaction whose relay is gone ends with it, and if it was about to
        // commit, the next heartbeat waits for its locks.
        let mut tx = lent.begin().await?;
        sqlx::query(sql.release_leases.clone())
            .bind(relay.0)
            .bind(numbers(partitions))
            .execute(&mut *tx)
            .await
            .map_err(map_error)?;
        tx.commit().await.map_err(map_error)?;
        lent.give_back();
        Ok(())
    }

    pub(crate) async fn leave_group(&self, relay: RelayId) -> Result<()> {
        let (pool, _, sql) = self.checked().await?;
        let mut lent = Lent::from(pool).await?;
        sqlx::query(sql.leave_group.clone()).bind(relay.0).execute(&mut *lent).await.map_err(map_error)?;
        lent.give_back();
        Ok(())
    }

    pub(crate) async fn write_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        let (pool, _, sql) = self.checked().await?;
        let relay: Uuid = relay.0;
        let mut lent = Lent::from(pool).await?;
        sqlx::query(sql.set_idle.clone())
            .bind(relay)
            .bind(idle)
            .execute(&mut *lent)
            .await
            .map_err(map_error)?;
        lent.give_back();
        Ok(())
    }
}
