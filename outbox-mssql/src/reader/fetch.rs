//! The statements of one fetch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Fetched, Partition, Position, Result, Timestamp};
use outbox_sql::sightings::{Committed, Read, Sighted, Sightings};
use outbox_sql::text::json_list;
use tiberius::{Row, ToSql};
use tokio::time::Instant;

use super::ranges::{json_ranges, marks, union};
use super::whole::whole;
use crate::call::query;
use crate::group::list;
use crate::pool::Client;
use crate::row::Columns;
use crate::sql::{ReadStatements, Reading};
use crate::store::{Facts, number};

/// What is left of a fetch's limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Limit {
    pub(super) fn half(self) -> Self {
        Self { messages: self.messages.div_ceil(2), bytes: self.bytes.div_ceil(2) }
    }

    pub(super) fn spend(&mut self, rows: &[Fetched]) {
        let bytes = rows.iter().map(Fetched::size).sum();
        self.messages = self.messages.saturating_sub(rows.len()).max(1);
        self.bytes = self.bytes.saturating_sub(bytes).max(1);
    }

    /// How many of the first rows of these sizes to take: one at least.
    fn fit(self, sizes: impl Iterator<Item = usize>) -> usize {
        let mut bytes = 0_usize;
        sizes
            .take(self.messages)
            .enumerate()
            .take_while(|(index, size)| {
                bytes = bytes.saturating_add(*size);
                *index == 0 || bytes <= self.bytes
            })
            .count()
    }
}

pub(super) struct Fetch<'a> {
    pub(super) client: &'a mut Client,
    pub(super) reads: &'a ReadStatements,
    pub(super) facts: Facts,
    pub(super) own: &'a [Partition],
    pub(super) in_flight: &'a BTreeSet<i64>,
}

/// What the dirty read has shown.
pub(super) struct Sight {
    pub(super) read: Read,
    /// Where it has looked again.
    pub(super) again: Vec<RangeInclusive<i64>>,
    /// The present by the database's clock.
    pub(super) now: Timestamp,
    /// The first time that a row waits for which is not in flight. It may have come.
    pub(super) waiting: Option<Timestamp>,
}

/// Rows to hand on, and whether some were left.
#[derive(Default)]
pub(super) struct Found {
    pub(super) rows: Vec<Fetched>,
    pub(super) left: bool,
}

/// Due rows, and how long until others become due.
pub(super) struct Due {
    pub(super) found: Found,
    /// Whether something else than the limit kept rows back.
    pub(super) held_up: bool,
    pub(super) next: Option<Duration>,
}

/// A row without its content, ready or due.
#[derive(Clone, Copy, Debug)]
struct Narrow {
    position: i64,
    partition: Partition,
    /// The writer of a ready row, the hash of a due row's key.
    owner: Option<i64>,
    size: usize,
    available_at: Option<Timestamp>,
}

impl Fetch<'_> {
    /// The dirty read.
    pub(super) async fn look(&mut self, sightings: &mut Sightings, most: usize) -> Result<Sight> {
        let look = sightings.look(Instant::now().into_std());
        let count = self.facts.partitions;
        let (scanned, upto) = match look.backfill {
            None => ("1".repeat(count), i64::MAX),
            Some((partitions, upto)) => (marks(count, partitions), upto),
        };
        let parameters: [&dyn ToSql; 7] = [
            &json_ranges(&look.again),
            &look.after,
            &upto,
            &scanned,
            &number(most),
            &list(self.own.iter().copied()),
            &number(self.in_flight.len().saturating_add(1)),
        ];
        let mut results = query(self.client, &self.reads.look, &parameters).await?;
        let mut sighted = sights(&results.rows())?;
        let cut_at = (sighted.len() >= most).then(|| sighted.last().map(|row| row.position)).flatten();
        sighted.extend(sights(&results.rows())?);
        let clock = results.rows();
        let now = clock.first().map_or(Ok(None), |row| Columns(row).timestamp(0))?.ok_or_else(incomplete)?;
        let mut waiting = None;
        for row in results.rows().iter().map(Columns) {
            let time = row.timestamp(1)?;
            if !self.in_flight.contains(&row.required(0)?) {
                waiting = [waiting, time].into_iter().flatten().min();
            }
        }
        Ok(Sight { read: sightings.sight(&sighted, cut_at), again: look.again, now, waiting })
    }

    /// The committed read of what the dirty one has shown.
    pub(super) async fn ready(
        &mut self,
        sightings: &mut Sightings,
        sight: &Sight,
        limit: Limit,
    ) -> Result<Found> {
        let Sight { read, again, now, .. } = sight;
        if read.is_empty() {
            sightings.confirm(&[], true, &[]);
            return Ok(Found::default());
        }
        // In the gaps as well, even where nothing has shown up: what a transaction has written there since then would
        // come behind what it has written elsewhere.
        let ranges = if read.ranges.is_empty() { Vec::new() } else { union(&read.ranges, again) };
        let most = limit.messages.saturating_add(1);
        let parameters: [&dyn ToSql; 4] = [
            &json_ranges(&ranges),
            &marks(self.facts.partitions, read.partitions.iter().copied()),
            &number(most),
            &json_list(read.witnesses.iter().copied()),
        ];
        let mut results = query(self.client, &self.reads.read, &parameters).await?;
        let mut rows = ready_rows(&results.rows())?;
        let mut complete = rows.len() < most;
        let mut left = false;
        if self.facts.reading == Reading::Locks {
            let again = ready_rows(&results.rows())?;
            complete = again.len() < most;
            let count = again.len();
            rows = whole(&rows, again, |row| (row.owner, row.position));
            left = rows.len() < count;
        }
        let witnesses = results.rows();
        let witnesses: Vec<i64> =
            witnesses.iter().map(|row| Columns(row).required(0)).collect::<Result<_>>()?;

        let fit = limit.fit(rows.iter().map(|row| row.size));
        complete &= fit == rows.len();
        rows.truncate(fit);
        let committed: Vec<Committed> = rows
            .iter()
            .map(|row| Committed {
                position: row.position,
                partition: row.partition,
                writer: row.owner.unwrap_or_default(),
            })
            .collect();
        let before = sightings.clone();
        let accepted = sightings.confirm(&committed, complete, &witnesses);
        let positions = accepted_positions(&committed, &accepted);
        let mut contents = self.contents(&positions, *now).await?;
        contents.retain(|_, row| !row.due);
        if let Some(missing) = positions.iter().find(|position| !contents.contains_key(position)) {
            // Somebody has changed, deleted or locked it just now. What is behind it comes with the next fetch.
            left = true;
            *sightings = before;
            let upto = committed.partition_point(|row| row.position < *missing);
            let committed = committed.get(..upto).unwrap_or_default();
            let accepted = sightings.confirm(committed, false, &witnesses);
            let positions: BTreeSet<i64> = accepted_positions(committed, &accepted).into_iter().collect();
            contents.retain(|position, _| positions.contains(position));
        }
        Ok(Found { rows: contents.into_values().collect(), left })
    }

    /// Rows whose time has come, the longest due first.
    pub(super) async fn due(&mut self, sightings: &Sightings, limit: Limit, now: Timestamp) -> Result<Due> {
        let bounds: Vec<String> = self
            .own
            .iter()
            .map(|partition| format!("[{},{}]", partition.0, due_bound(sightings, *partition)))
            .collect();
        let most = limit.messages.saturating_add(self.in_flight.len()).saturating_add(1);
        let parameters: [&dyn ToSql; 2] = [&format!("[{}]", bounds.join(",")), &number(most)];
        let mut results = query(self.client, &self.reads.due, &parameters).await?;
        let mut rows = due_rows(&results.rows())?;
        let mut held_up = false;
        if self.facts.reading == Reading::Locks {
            let again = due_rows(&results.rows())?;
            let count = again.len();
            rows = whole(&rows, again, |row| (row.owner, row.position));
            held_up = rows.len() < count;
        }
        let mut next = None;
        for row in results.rows().iter().map(Columns) {
            let wait = row.timestamp(0)?.map(|time| time.since(now));
            next = [next, wait].into_iter().flatten().min();
        }
        rows.retain(|row| !self.in_flight.contains(&row.position));
        rows.sort_unstable_by_key(|row| (row.available_at, row.position));
        let fit = limit.fit(rows.iter().map(|row| row.size));
        let left = fit < rows.len();
        rows.truncate(fit);
        let positions: Vec<i64> = rows.iter().map(|row| row.position).collect();
        let mut contents = self.contents(&positions, now).await?;
        let mut given_up = BTreeSet::new();
        for row in rows {
            let is_missing = contents.get(&row.position).is_none_or(|row| !row.due);
            if is_missing || row.owner.is_some_and(|owner| given_up.contains(&owner)) {
                // Nothing of its key may come before it.
                contents.remove(&row.position);
                given_up.extend(row.owner);
                held_up = true;
            }
        }
        let rows: Vec<Fetched> = contents.into_values().collect();
        // What is due and does not come yet waits for ready rows in front of it, which are read next.
        held_up |= rows.is_empty();
        Ok(Due { found: Found { rows, left: left || held_up }, held_up, next })
    }

    async fn contents(&mut self, positions: &[i64], now: Timestamp) -> Result<BTreeMap<i64, Fetched>> {
        if positions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let positions = json_list(positions.iter().copied());
        let rows = query(self.client, &self.reads.fetch, &[&positions]).await?.rows();
        rows.iter()
            .map(|row| {
                let row = Columns(row).fetched(now)?;
                let Position(position) = row.position;
                Ok((position, row))
            })
            .collect()
    }
}

/// Up to where due rows may come. A ready row of a committed transaction that has not been read may be of the same key
/// as a due one behind it. Rows of open transactions are no such rows: what is there already was enqueued before they
/// commit. Which of the two kinds a pending row is, is not told; but if there are any of the first kind, there is more.
fn due_bound(sightings: &Sightings, partition: Partition) -> i64 {
    let read_to = sightings.read_to(partition);
    match sightings.first_pending(partition) {
        Some(pending) if sightings.more() => read_to.min(pending.saturating_sub(1)),
        _ => read_to,
    }
}

fn accepted_positions(rows: &[Committed], accepted: &[bool]) -> Vec<i64> {
    rows.iter().zip(accepted).filter(|(_, accepted)| **accepted).map(|(row, _)| row.position).collect()
}

fn sights(rows: &[Row]) -> Result<Vec<Sighted>> {
    rows.iter()
        .map(Columns)
        .map(|row| {
            Ok(Sighted {
                position: row.required(0)?,
                partition: row.partition(1)?,
                writer: row.required(2)?,
                ready: row.boolean(3)?,
            })
        })
        .collect()
}

fn ready_rows(rows: &[Row]) -> Result<Vec<Narrow>> {
    rows.iter()
        .map(Columns)
        .map(|row| {
            Ok(Narrow {
                position: row.required(0)?,
                partition: row.partition(1)?,
                owner: row.number(2)?,
                size: row.count(3)?,
                available_at: None,
            })
        })
        .collect()
}

fn due_rows(rows: &[Row]) -> Result<Vec<Narrow>> {
    rows.iter()
        .map(Columns)
        .map(|row| {
            Ok(Narrow {
                position: row.required(0)?,
                partition: row.partition(1)?,
                owner: row.number(2)?,
                available_at: row.timestamp(3)?,
                size: row.count(4)?,
            })
        })
        .collect()
}

fn incomplete() -> Error {
    Error::new(ErrorKind::Internal, "the database's answer to a fetch is incomplete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_always_fits() {
        let limit = Limit { messages: 3, bytes: 10 };
        assert_eq!(limit.fit([50, 1].into_iter()), 1);
        assert_eq!(limit.fit([5, 5, 1].into_iter()), 2);
        assert_eq!(limit.fit([1, 1, 1, 1].into_iter()), 3);
        assert_eq!(limit.fit([].into_iter()), 0);
        assert_eq!(Limit { messages: 0, bytes: 0 }.half().messages, 0);
    }

    #[test]
    fn a_pending_row_holds_due_ones_back_only_while_there_is_more() {
        let partition = Partition(0);
        let mut sightings = Sightings::new(Duration::from_secs(1));
        sightings.assign(partition);
        let row = |position, writer| Sighted { position, partition, writer, ready: true };
        sightings.look(Instant::now().into_std());
        sightings.sight(&[row(5, 1), row(9, 2)], None);
        // The first one is of an open transaction.
        sightings.confirm(&[Committed { position: 9, partition, writer: 2 }], true, &[]);
        assert_eq!(due_bound(&sightings, partition), 9);
        // More to come: it is not known of which kind the pending row is.
        sightings.look(Instant::now().into_std());
        sightings.sight(&[row(5, 1), row(10, 2), row(11, 2)], Some(11));
        sightings.confirm(&[Committed { position: 10, partition, writer: 2 }], false, &[]);
        assert_eq!(due_bound(&sightings, partition), 4);
    }
}
