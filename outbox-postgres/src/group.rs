//! The group of relays and their leases.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outbox_core::{ErrorKind, Membership, Partition, RelayId, Result};
use outbox_sql::partitions::share;
use outbox_sql::text::micros;
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::map_error;
use crate::sessions::Lent;
use crate::sql::Statements;
use crate::store::PostgresStore;

/// Partitions as a parameter.
pub(crate) fn numbers(partitions: &[Partition]) -> Vec<i16> {
    partitions.iter().filter_map(|partition| i16::try_from(partition.0).ok()).collect()
}

fn partition(number: i16) -> Option<Partition> {
    u16::try_from(number).ok().map(Partition)
}

/// What a heartbeat finds: how many relays there are, how many of them come before this one, how many partitions there are,
/// and those it has.
struct Group {
    relays: i64,
    before: i64,
    partitions: i64,
    owned: Vec<i16>,
    joined: bool,
}

impl Group {
    fn share(&self) -> usize {
        share(count(self.partitions), count(self.relays), count(self.before))
    }

    fn wanted(&self) -> usize {
        self.share().saturating_sub(self.owned.len())
    }

    fn membership(mut self) -> Membership {
        self.owned.sort_unstable();
        Membership {
            share: self.share(),
            relays: count(self.relays).max(1),
            partitions: count(self.partitions),
            joined: self.joined,
            owned: self.owned.into_iter().filter_map(partition).collect(),
        }
    }
}

/// What the statement of a heartbeat returns.
type Renewed = (bool, i64, i64, i64, i64, Vec<i16>, i64, Vec<Uuid>, Vec<i64>);

/// Relays whose time ends further in the future than any heartbeat asks for. The database's clock was set back after their last
/// heartbeat: by a failover, say, or because a virtual machine was resumed. Those that are alive renew it soon. The lease of one
/// that has died would last for as long as the clock was set back, so it ends when the row has not changed for a while, by our own
/// clock.
#[derive(Debug, Default)]
pub(crate) struct FarOff(Mutex<BTreeMap<Uuid, (i64, Instant)>>);

impl FarOff {
    /// Notes those that there are now, with the versions of their rows, and returns those that have not changed for `time`.
    fn stale(&self, relays: impl Iterator<Item = (Uuid, i64)>, time: Duration) -> Vec<(Uuid, i64)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *known = relays
            .map(|(relay, version)| match known.get(&relay) {
                Some((same, since)) if *same == version => (relay, (version, *since)),
                _ => (relay, (version, now)),
            })
            .collect();
        let stale = known.iter().filter(|(_, (_, since))| now.duration_since(*since) >= time);
        stale.map(|(relay, (version, _))| (*relay, *version)).collect()
    }
}

fn count(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

impl PostgresStore {
    pub(crate) async fn beat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        let group = match self.renew(relay, ttl).await? {
            Some(group) => group,
            None => self.rebalance(relay, ttl).await?,
        };
        Ok(group.membership())
    }

    /// What nearly every heartbeat is: nobody has come or gone, and nothing is to be taken. `None` if that is not so.
    async fn renew(&self, relay: RelayId, ttl: Duration) -> Result<Option<Group>> {
        let sql = self.sql().await?;
        let mut lent = self.lend_reserved().await?;
        let renewed = async {
            let mut connection = lent.bounded().await?;
            let renewed = sqlx::query_as(sql.renew.clone())
                .bind(relay.0)
                .bind(micros(ttl))
                .fetch_one(&mut *connection)
                .await
                .map_err(map_error)?;
            connection.finish().await?;
            Ok(renewed)
        };
        let renewed = renewed.await;
        let (is_member, gone, relays, before, partitions, owned, free, far, versions): Renewed =
            match lent.end(renewed).await {
                Ok(renewed) => renewed,
                // A database that isolates more than READ COMMITTED by default fails where others wait.
                Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
                Err(error) => return Err(error),
            };
        let stale = self.far_off().stale(far.into_iter().zip(versions), ttl.saturating_mul(2));
        if !stale.is_empty() {
            self.remove_stale(&stale).await?;
            return Ok(None);
        }
        let group = Group { relays, before, partitions, owned, joined: false };
        let as_it_was = is_member && gone == 0 && (free == 0 || group.wanted() == 0);
        Ok(as_it_was.then_some(group))
    }

    async fn remove_stale(&self, stale: &[(Uuid, i64)]) -> Result<()> {
        let sql = self.sql().await?;
        let (relays, versions): (Vec<Uuid>, Vec<i64>) = stale.iter().copied().unzip();
        tracing::warn!(?relays, "removing relays whose lease ends too far in the future and is not renewed");
        let mut lent = self.lend_reserved().await?;
        let removed = async {
            let mut connection = lent.bounded().await?;
            sqlx::query(sql.remove_stale.clone())
                .bind(relays)
                .bind(versions)
                .execute(&mut *connection)
                .await
                .map_err(map_error)?;
            connection.finish().await
        };
        let removed = removed.await;
        lent.end(removed).await
    }

    /// The whole heartbeat: joins, drops relays that are gone, takes what is free of the share.
    async fn rebalance(&self, relay: RelayId, ttl: Duration) -> Result<Group> {
        let (_, names, sql) = self.checked().await?;
        let ttl = micros(ttl);
        let mut lent = self.lend_reserved().await?;
        let group = async {
            let mut tx = lent.begin_patient().await?;
            // One at a time, so that each sees the relays and the leases as the one before left them.
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(names.group_lock)
                .execute(&mut *tx)
                .await
                .map_err(map_error)?;
            let joined: bool = sqlx::query_scalar(sql.join_group.clone())
                .bind(relay.0)
                .bind(ttl)
                .fetch_one(&mut *tx)
                .await
                .map_err(map_error)?;
            sqlx::query(sql.extend_leases.clone())
                .bind(relay.0)
                .bind(ttl)
                .execute(&mut *tx)
                .await
                .map_err(map_error)?;
            let (relays, before, partitions, owned) = sqlx::query_as(sql.read_group.clone())
                .bind(relay.0)
                .fetch_one(&mut *tx)
                .await
                .map_err(map_error)?;
            let mut group = Group { relays, before, partitions, owned, joined };
            let wanted = group.wanted();
            if wanted > 0 {
                let claimed: Vec<i16> = sqlx::query_scalar(sql.claim_leases.clone())
                    .bind(relay.0)
                    .bind(ttl)
                    .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(map_error)?;
                group.owned.extend(claimed);
            }
            tx.commit().await.map_err(map_error)?;
            Ok(group)
        };
        let group = group.await;
        lent.end(group).await
    }

    pub(crate) async fn release_leases(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        let sql = self.sql().await?;
        let mut lent = self.lend().await?;
        // In a transaction, so that a release which is on its way when the relay gives up on it cannot take effect later, when
        // the relay counts on these leases again: a transaction whose relay is gone ends with it, and if it was about to
        // commit, the next heartbeat waits for its locks.
        let released = async {
            let mut tx = lent.begin().await?;
            sqlx::query(sql.release_leases.clone())
                .bind(relay.0)
                .bind(numbers(partitions))
                .execute(&mut *tx)
                .await
                .map_err(map_error)?;
            tx.commit().await.map_err(map_error)
        };
        let released = released.await;
        lent.end(released).await
    }

    pub(crate) async fn leave_group(&self, relay: RelayId) -> Result<()> {
        let sql = self.sql().await?;
        let mut lent = self.lend().await?;
        let left = async {
            let mut connection = lent.bounded().await?;
            sqlx::query(sql.leave_group.clone())
                .bind(relay.0)
                .execute(&mut *connection)
                .await
                .map_err(map_error)?;
            connection.finish().await?;
            close_gate(&mut lent, sql).await
        };
        let left = left.await;
        lent.end(left).await
    }

    /// The relay's row is exact, and what a commit goes by; the gate only keeps commits from asking while nobody sleeps. So it has
    /// to be open before anyone sleeps, and it does not matter if it is left open.
    pub(crate) async fn write_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        let sql = self.sql().await?;
        let mut lent = self.lend().await?;
        let written = async {
            let mut connection = lent.bounded().await?;
            sqlx::query(sql.set_idle.clone())
                .bind(relay.0)
                .bind(idle)
                .execute(&mut *connection)
                .await
                .map_err(map_error)?;
            // The gate is read after this is committed.
            connection.finish().await?;
            if idle {
                let mut connection = lent.bounded().await?;
                sqlx::query(sql.open_gate.clone()).execute(&mut *connection).await.map_err(map_error)?;
                connection.finish().await
            } else {
                close_gate(&mut lent, sql).await
            }
        };
        let written = written.await;
        lent.end(written).await
    }
}

async fn close_gate(lent: &mut Lent, sql: &Statements) -> Result<()> {
    let mut connection = lent.bounded().await?;
    let closed =
        sqlx::query(sql.close_gate.clone()).fetch_optional(&mut *connection).await.map_err(map_error)?;
    connection.finish().await?;
    if closed.is_some() {
        let mut connection = lent.bounded().await?;
        sqlx::query(sql.reopen_gate.clone()).execute(&mut *connection).await.map_err(map_error)?;
        connection.finish().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_row_that_has_not_changed_for_long_enough_is_stale() {
        let (dead, alive, time) = (Uuid::from_u128(1), Uuid::from_u128(2), Duration::from_secs(40));
        let far_off = FarOff::default();
        for version in 0..4 {
            let stale = far_off.stale([(dead, 7), (alive, version)].into_iter(), time);
            assert_eq!(stale, if version < 2 { vec![] } else { vec![(dead, 7)] }, "{version}");
            tokio::time::advance(time / 2).await;
        }
        // One that was not far off in between is new.
        assert_eq!(far_off.stale([].into_iter(), time), []);
        assert_eq!(far_off.stale([(dead, 7)].into_iter(), time), []);
    }
}
