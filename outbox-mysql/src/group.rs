//! The group of relays and their leases.

use std::time::Duration;

use outbox_core::{Membership, Partition, RelayId, Result};
use outbox_sql::partitions::share;
use outbox_sql::text::{json_list, micros};
use sqlx::{MySqlConnection, SqlStr};

use crate::error::map_error;
use crate::store::MySqlStore;
use crate::transaction::{again, begin_on};

/// Partitions as a parameter.
pub(crate) fn list(partitions: impl IntoIterator<Item = Partition>) -> String {
    json_list(partitions.into_iter().map(|partition| i64::from(partition.0)))
}

fn count(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

impl MySqlStore {
    pub(crate) async fn beat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        let inner = self.checked().await?;
        again(|| async move {
            let sql = &inner.shared.statements;
            let ttl = micros(ttl);
            let mut session = inner.connections.lend().await?;
            let mut tx = begin_on(&mut session).await?;
            sqlx::query(sql.lock_group.clone()).execute(&mut *tx).await.map_err(map_error)?;
            sqlx::query(sql.forget_relays.clone())
                .bind(relay.0)
                .execute(&mut *tx)
                .await
                .map_err(map_error)?;
            sqlx::query(sql.join_group.clone())
                .bind(relay.0)
                .bind(ttl)
                .execute(&mut *tx)
                .await
                .map_err(map_error)?;
            // An own lease that has expired is still ours as long as nobody else has taken it.
            sqlx::query(sql.extend_leases.clone())
                .bind(ttl)
                .bind(relay.0)
                .execute(&mut *tx)
                .await
                .map_err(map_error)?;
            let (relays, before, partitions): (i64, i64, i64) = sqlx::query_as(sql.read_group.clone())
                .bind(relay.0)
                .fetch_one(&mut *tx)
                .await
                .map_err(map_error)?;
            let mut owned = numbers(&sql.own_leases, relay, None, &mut tx).await?;
            let share = share(count(partitions), count(relays), count(before));
            let wanted = share.saturating_sub(owned.len());
            if wanted > 0 {
                let free = numbers(&sql.free_leases, relay, Some(wanted), &mut tx).await?;
                sqlx::query(sql.claim_leases.clone())
                    .bind(relay.0)
                    .bind(ttl)
                    .bind(list(free.iter().copied()))
                    .execute(&mut *tx)
                    .await
                    .map_err(map_error)?;
                owned.extend(free);
                owned.sort_unstable();
            }
            tx.commit().await.map_err(map_error)?;
            session.give_back();
            Ok(Membership {
                owned,
                share,
                relays: count(relays).max(1),
                partitions: count(partitions),
                joined: false,
            })
        })
        .await
    }

    pub(crate) async fn release_leases(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        let inner = self.checked().await?;
        again(|| async move {
            // In a transaction, so that a release which is on its way when the relay gives up on it cannot take effect later,
            // when the relay counts on these leases again: a transaction whose relay is gone ends with it, and if it was
            // about to commit, the next heartbeat waits for its locks.
            let mut session = inner.connections.lend().await?;
            let mut tx = begin_on(&mut session).await?;
            sqlx::query(inner.shared.statements.release_leases.clone())
                .bind(relay.0)
                .bind(list(partitions.iter().copied()))
                .execute(&mut *tx)
                .await
                .map_err(map_error)?;
            tx.commit().await.map_err(map_error)?;
            session.give_back();
            Ok(())
        })
        .await
    }

    pub(crate) async fn leave_group(&self, relay: RelayId) -> Result<()> {
        let inner = self.checked().await?;
        again(|| async move {
            let sql = &inner.shared.statements;
            let mut session = inner.connections.lend().await?;
            let mut tx = begin_on(&mut session).await?;
            sqlx::query(sql.lock_group.clone()).execute(&mut *tx).await.map_err(map_error)?;
            for statement in [&sql.leave_group, &sql.release_all_leases] {
                sqlx::query(statement.clone()).bind(relay.0).execute(&mut *tx).await.map_err(map_error)?;
            }
            tx.commit().await.map_err(map_error)?;
            session.give_back();
            Ok(())
        })
        .await
    }
}

/// The partitions that a statement gives for a relay.
async fn numbers(
    statement: &SqlStr,
    relay: RelayId,
    most: Option<usize>,
    connection: &mut MySqlConnection,
) -> Result<Vec<Partition>> {
    let mut query = sqlx::query_scalar::<_, u16>(statement.clone()).bind(relay.0);
    if let Some(most) = most {
        query = query.bind(i64::try_from(most).unwrap_or(i64::MAX));
    }
    let numbers = query.fetch_all(connection).await.map_err(map_error)?;
    Ok(numbers.into_iter().map(Partition).collect())
}
