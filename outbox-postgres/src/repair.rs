//! Releasing rows that wait for a row that is gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use outbox_core::{Partition, RelayId, Result};

use crate::error::map_error;
use crate::group::numbers;
use crate::store::PostgresStore;

/// How many blocked keys a call reads at most. The next call goes on behind them, so that a store with a million blocked keys does
/// not keep the database busy for seconds at each repair.
const MOST_KEYS: usize = 20_000;

/// From which hash of a key on each partition is read next. A partition that is not in it is read from its start.
#[derive(Debug, Default)]
pub(crate) struct Round(Mutex<BTreeMap<i16, i64>>);

impl Round {
    fn starts(&self, partitions: &[i16]) -> Vec<i64> {
        let round = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.iter().map(|partition| round.get(partition).copied().unwrap_or(i64::MIN)).collect()
    }

    /// Notes how far a call came: for each of its partitions, the last hash if there may be more behind it.
    fn note(&self, partitions: &[i16], last: &BTreeMap<i16, i64>) {
        let mut round = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for partition in partitions {
            match last.get(partition).and_then(|last| last.checked_add(1)) {
                Some(next) => round.insert(*partition, next),
                None => round.remove(partition),
            };
        }
    }
}

impl PostgresStore {
    pub(crate) async fn release_stuck(
        &self,
        relay: RelayId,
        partitions: &[Partition],
        limit: usize,
    ) -> Result<u64> {
        let sql = self.sql().await?;
        let partitions = numbers(partitions);
        let most = i64::try_from((MOST_KEYS / partitions.len().max(1)).max(1)).unwrap_or(i64::MAX);
        let mut lent = self.lend().await?;
        let read = async {
            let mut connection = lent.bounded().await?;
            let read = sqlx::query_as(sql.repair.clone())
                .bind(relay.0)
                .bind(&partitions)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(self.round().starts(&partitions))
                .bind(most)
                .bind(false)
                .fetch_all(&mut *connection)
                .await
                .map_err(map_error)?;
            connection.finish().await?;
            Ok(read)
        };
        let read = read.await;
        let read: Vec<(i16, i64, i64, i64)> = lent.end(read).await?;
        let released = read.first().map_or(0, |(.., released)| u64::try_from(*released).unwrap_or(0));
        // If the limit was reached, there may be more among the keys that were read.
        if released < limit as u64 {
            let unfinished = read.into_iter().filter(|(_, keys, ..)| *keys >= most);
            let last = unfinished.map(|(partition, _, hash, _)| (partition, hash)).collect();
            self.round().note(&partitions, &last);
        }
        Ok(released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_goes_on_where_it_stopped_and_starts_over_at_its_end() {
        let round = Round::default();
        assert_eq!(round.starts(&[3, 5]), [i64::MIN, i64::MIN]);
        round.note(&[3, 5], &BTreeMap::from([(3, 17), (5, i64::MAX)]));
        assert_eq!(round.starts(&[3, 5, 7]), [18, i64::MIN, i64::MIN]);
        round.note(&[5], &BTreeMap::new());
        assert_eq!(round.starts(&[3]), [18]);
        round.note(&[3], &BTreeMap::new());
        assert_eq!(round.starts(&[3]), [i64::MIN]);
    }
}
