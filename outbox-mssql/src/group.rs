//! The group of relays and their leases.

use std::time::Duration;

use outbox_core::{Membership, Partition, RelayId, Result};
use outbox_sql::partitions::share;
use outbox_sql::text::{json_list, micros};

use tiberius::ToSql;

use crate::call::{again, begin, commit, execute, query};
use crate::row::Columns;
use crate::store::{Checked, MssqlStore, number};

/// Partitions as a parameter.
pub(crate) fn list(partitions: impl IntoIterator<Item = Partition>) -> String {
    json_list(partitions.into_iter().map(|partition| i64::from(partition.0)))
}

/// A duration as whole seconds and microseconds, because `DATEADD` takes an `int`. 68 years at most.
pub(crate) fn span(duration: Duration) -> (i32, i32) {
    of_micros(micros(duration))
}

pub(crate) fn of_micros(micros: i64) -> (i32, i32) {
    let seconds = i32::try_from(micros / 1_000_000).unwrap_or(i32::MAX);
    (seconds, i32::try_from(micros % 1_000_000).unwrap_or(0))
}

impl MssqlStore {
    pub(crate) async fn beat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        let Checked { pool, shared, sql, .. } = self.checked().await?;
        let (seconds, micros) = span(ttl);
        again(|| async move {
            let mut tx = begin(pool).await?;
            let parameters: [&dyn ToSql; 4] = [&relay.0, &seconds, &micros, &shared.names.group_lock];
            let mut results = query(&mut tx, &sql.join_group, &parameters).await?;
            let group = results.rows();
            let group = group.first().map(Columns);
            let count = |column| group.map_or(Ok(0), |row| row.count(column));
            let (relays, before, partitions) = (count(0)?, count(1)?, count(2)?);
            let mut owned = numbers(results.rows())?;
            let share = share(partitions, relays, before);
            let wanted = share.saturating_sub(owned.len());
            if wanted > 0 {
                let parameters: [&dyn ToSql; 4] = [&relay.0, &seconds, &micros, &number(wanted)];
                owned.extend(numbers(query(&mut tx, &sql.claim_leases, &parameters).await?.rows())?);
                owned.sort_unstable();
            }
            commit(tx).await?;
            Ok(Membership { owned, share, relays: relays.max(1), partitions, joined: false })
        })
        .await
    }

    pub(crate) async fn release_leases(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        let Checked { pool, sql, .. } = self.checked().await?;
        let partitions = &list(partitions.iter().copied());
        again(|| async move {
            let mut client = pool.call().await?;
            execute(&mut client, &sql.release_leases, &[&relay.0, partitions]).await?;
            client.give_back();
            Ok(())
        })
        .await
    }

    pub(crate) async fn leave_group(&self, relay: RelayId) -> Result<()> {
        let Checked { pool, shared, sql, .. } = self.checked().await?;
        again(|| async move {
            let mut tx = begin(pool).await?;
            execute(&mut tx, &sql.leave_group, &[&relay.0, &shared.names.group_lock]).await?;
            commit(tx).await
        })
        .await
    }
}

fn numbers(rows: Vec<tiberius::Row>) -> Result<Vec<Partition>> {
    rows.iter().map(|row| Columns(row).partition(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_what_dateadd_takes() {
        assert_eq!(span(Duration::from_micros(1_500_001)), (1, 500_001));
        assert_eq!(span(Duration::ZERO), (0, 0));
        assert_eq!(span(Duration::MAX).0, i32::MAX);
    }
}
