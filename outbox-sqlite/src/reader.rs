//! Reading ready and due rows.
//!
//! SQLite has one writer at a time, so rows become visible in the order of their positions: no row ever appears
//! below one that has been read, and one cursor per partition is all a reader has to remember.
//!
//! A relay that owns all partitions, as one alone does, reads them in step: from the table as it lies, all cursors at the
//! same position. Otherwise it finds the rows of its own partitions by the index.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use outbox_core::{Batch, FetchLimit, Fetched, Partition, Position, Reader, Result, RowId, Timestamp};
use outbox_sql::row::{RawMessage, attempts, identity};
use outbox_sql::text::json_list;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use crate::error::store_error;
use crate::packed::unpack;
use crate::row::{integer, raw_message};
use crate::schema::Installed;
use crate::sql::Statement;
use crate::store::{SqliteStore, impossible};

pub(crate) struct SqliteReader {
    store: SqliteStore,
    /// The last position read of each partition, all positions being greater than zero.
    cursors: BTreeMap<Partition, i64>,
    /// How many rows to look at in each partition. Follows how unevenly the work is spread, so that neither one
    /// busy partition among idle ones nor many busy ones cost more than they bring.
    depth: usize,
}

impl SqliteReader {
    pub(crate) fn new(store: SqliteStore) -> Self {
        Self { store, cursors: BTreeMap::new(), depth: 1 }
    }
}

/// What is to be read in step.
#[derive(Clone, Copy)]
struct Next {
    /// Past which position.
    cursor: i64,
    now: i64,
    /// Most rows, and most bytes, but one row in any case.
    messages: usize,
    bytes: usize,
}

/// What one statement brought.
struct Rows {
    rows: Vec<Fetched>,
    /// How many there would have been without the limits of the batch.
    total: usize,
    /// The rows looked at in each partition.
    depth: usize,
}

impl Rows {
    fn in_partition(&self, partition: Partition) -> impl Iterator<Item = &Fetched> {
        self.rows.iter().filter(move |row| row.partition == partition)
    }

    /// Whether the limits of the batch left something out, of whatever partition.
    fn was_cut(&self) -> bool {
        self.total > self.rows.len()
    }

    /// Whether there may be more in this partition.
    fn may_continue(&self, partition: Partition) -> bool {
        self.was_cut() || self.in_partition(partition).count() >= self.depth
    }

    fn bytes(&self) -> usize {
        self.rows.iter().map(Fetched::size).sum()
    }
}

#[async_trait]
impl Reader for SqliteReader {
    fn assign(&mut self, partition: Partition) {
        self.cursors.insert(partition, 0);
    }

    fn revoke(&mut self, partition: Partition) {
        self.cursors.remove(&partition);
    }

    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        if self.cursors.is_empty() {
            return Ok(Batch::default());
        }
        let failed = |error| store_error("fetching messages", error);
        let (mut connection, Installed { partitions, .. }) = self.store.installed().await?;
        // One view of the database for all that follows, so that a due row cannot be seen without the ready rows
        // that were committed before it.
        let mut transaction = connection.begin().await.map_err(failed)?;
        let (batch, cursors, depth) = self.read(&mut transaction, limit, in_flight, partitions).await?;
        transaction.commit().await.map_err(failed)?;
        // Only now, so that nothing is skipped after an error.
        self.cursors.extend(cursors);
        self.depth = depth;
        Ok(batch)
    }
}

impl SqliteReader {
    /// The position up to which all our partitions have been read, if there is one.
    fn in_step(&self) -> Option<i64> {
        let first = *self.cursors.values().next()?;
        self.cursors.values().all(|cursor| *cursor == first).then_some(first)
    }

    /// Reads, and says how far the cursors may advance and how deep to look next time.
    async fn read(
        &self,
        connection: &mut SqliteConnection,
        limit: FetchLimit,
        in_flight: &[RowId],
        partitions: u16,
    ) -> Result<(Batch, BTreeMap<Partition, i64>, usize)> {
        let all = self.cursors.len() == usize::from(partitions);
        let in_step = self.in_step().filter(|_| all);
        let (now, first_waiting, mut next) = self.waiting(connection).await?;
        let some_due = first_waiting.is_some_and(|first| first <= now);

        // Neither kind may starve the other: of ready rows at most half a batch is taken if due ones are there.
        let messages = limit.messages.max(1);
        let ready_limit = if some_due { messages.div_ceil(2) } else { messages };
        let depth = self.depth.max(ready_limit.div_ceil(self.cursors.len())).min(ready_limit);
        let ready_bytes = if some_due { limit.bytes / 2 } else { limit.bytes };
        let (ready, cursors, ready_left) = match in_step {
            Some(cursor) => {
                let next = Next { cursor, now, messages: ready_limit, bytes: ready_bytes };
                self.ready_in_step(connection, next).await?
            }
            None => self.ready(connection, all, depth, ready_limit, ready_bytes).await?,
        };

        let mut due = Vec::new();
        let mut due_left = false;
        if some_due {
            // As far as the ready rows have been read by now.
            let bounds = self
                .cursors
                .iter()
                .map(|(partition, cursor)| (*partition, *cursors.get(partition).unwrap_or(cursor)));
            let messages = messages.saturating_sub(ready.rows.len()).max(1);
            let bytes = limit.bytes.saturating_sub(ready.bytes());
            let statement = &self.store.sql().fetch_due;
            let found =
                rows(connection, statement, bounds, messages, (messages, bytes), Some(in_flight)).await?;
            due_left = self.cursors.keys().any(|partition| found.may_continue(*partition));
            due = found.rows;
        }
        if due_left {
            next = Some(now);
        }

        let deeper = if in_step.is_some() { depth } else { deepen(&ready, ready_limit, depth) };
        let mut rows = ready.rows;
        rows.extend(due);
        rows.sort_unstable_by_key(|row| row.position);
        let batch = Batch {
            rows,
            more: due_left || ready_left,
            next_due: next.map(|at| Timestamp::from_micros(at).since(Timestamp::from_micros(now))),
        };
        Ok((batch, cursors, deeper))
    }

    /// Ready rows of each partition past its cursor, how far the cursors may advance, and whether there may be more.
    async fn ready(
        &self,
        connection: &mut SqliteConnection,
        all: bool,
        depth: usize,
        messages: usize,
        bytes: usize,
    ) -> Result<(Rows, BTreeMap<Partition, i64>, bool)> {
        let bounds = self.cursors.iter().map(|(partition, cursor)| (*partition, *cursor));
        let statement = &self.store.sql().fetch_ready;
        let ready = rows(connection, statement, bounds, depth, (messages, bytes), None).await?;
        let left = self.cursors.keys().any(|partition| ready.may_continue(*partition));
        if all && !left {
            // Nothing ready was left behind anywhere, so that they may go on in step.
            let (_, end) = self.read_to(connection, 0).await?;
            return Ok((ready, self.all_at(end), false));
        }
        let cursors = ready.rows.iter().map(|row| (row.partition, row.position.0)).collect();
        Ok((ready, cursors, left))
    }

    /// The same, where all partitions are ours and have been read up to the same position.
    async fn ready_in_step(
        &self,
        connection: &mut SqliteConnection,
        next: Next,
    ) -> Result<(Rows, BTreeMap<Partition, i64>, bool)> {
        let Next { cursor, messages, .. } = next;
        let (rows, cut) = match self.packed(connection, next).await? {
            Some(found) => found,
            None => self.one_by_one(connection, next).await?,
        };
        let (read_to, left) = match rows.last() {
            Some(last) if cut || rows.len() >= messages => (last.position.0, true),
            _ => {
                let (stretch, end) = self.read_to(connection, cursor).await?;
                (stretch.min(end).max(cursor), stretch < end)
            }
        };
        let total = rows.len();
        Ok((Rows { rows, total, depth: total }, self.all_at(read_to), left))
    }

    /// As many as can be had at once, and whether an unusual row comes next. `None` if that is the first one.
    async fn packed(
        &self,
        connection: &mut SqliteConnection,
        next: Next,
    ) -> Result<Option<(Vec<Fetched>, bool)>> {
        let row = sqlx::query(self.store.sql().fetch_packed.sql())
            .bind(next.cursor)
            .bind(number(next.messages))
            // So many of this size are within the limit.
            .bind(number(next.bytes / next.messages.max(1)))
            .fetch_one(connection)
            .await;
        match row {
            Ok(row) => unpack(&row, next.now),
            // Bytes where a text belongs, which JSON does not hold; or something that reading one by one meets, too.
            Err(sqlx::Error::Database(_)) => Ok(None),
            Err(error) => Err(store_error("fetching messages", error)),
        }
    }

    /// Whatever rows there are, and whether the limit of bytes has left some out.
    async fn one_by_one(
        &self,
        connection: &mut SqliteConnection,
        next: Next,
    ) -> Result<(Vec<Fetched>, bool)> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut found = sqlx::query(self.store.sql().fetch_in_step.sql())
            .bind(next.cursor)
            .bind(number(next.messages))
            .fetch(connection);
        while let Some(row) =
            found.try_next().await.map_err(|error| store_error("fetching messages", error))?
        {
            let known =
                Known { now: next.now, due: false, blocked: integer(&row, 4)? != 0, ..Known::of(&row)? };
            let row = fetched(known, raw_message(&row, 5)?)?;
            bytes += row.size();
            if bytes > next.bytes && !rows.is_empty() {
                return Ok((rows, true));
            }
            rows.push(row);
        }
        Ok((rows, false))
    }

    fn all_at(&self, position: i64) -> BTreeMap<Partition, i64> {
        self.cursors.iter().map(|(partition, cursor)| (*partition, position.max(*cursor))).collect()
    }

    /// The end of the stretch that a fetch past this position reads, and the last position of all.
    async fn read_to(&self, connection: &mut SqliteConnection, cursor: i64) -> Result<(i64, i64)> {
        let failed = |error| store_error("fetching messages", error);
        let row = sqlx::query(self.store.sql().read_to.sql())
            .bind(cursor)
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        Ok((integer(&row, 0)?, integer(&row, 1)?))
    }

    /// The present, the first time a row waits for, and the first such time that is still to come.
    async fn waiting(&self, connection: &mut SqliteConnection) -> Result<(i64, Option<i64>, Option<i64>)> {
        let failed = |error| store_error("fetching messages", error);
        let row = sqlx::query(self.store.sql().waiting.sql())
            .bind(json_list(self.cursors.keys().map(|partition| i64::from(partition.0))))
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        Ok((integer(&row, 0)?, row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?))
    }
}

/// Twice as deep if a partition had more while the batch had room, half as deep once it is overfull.
fn deepen(ready: &Rows, limit: usize, depth: usize) -> usize {
    if ready.rows.len() < limit && !ready.was_cut() {
        let mut counts: BTreeMap<Partition, usize> = BTreeMap::new();
        for row in &ready.rows {
            *counts.entry(row.partition).or_default() += 1;
        }
        if counts.values().any(|count| *count >= depth) {
            return depth.saturating_mul(2).min(limit);
        }
        return depth;
    }
    if ready.total > limit.saturating_mul(2) { (depth / 2).max(1) } else { depth }
}

async fn rows(
    connection: &mut SqliteConnection,
    statement: &Statement,
    bounds: impl Iterator<Item = (Partition, i64)>,
    depth: usize,
    (messages, bytes): (usize, usize),
    in_flight: Option<&[RowId]>,
) -> Result<Rows> {
    let bounds: Vec<String> = bounds.map(|(partition, bound)| format!("[{},{bound}]", partition.0)).collect();
    let due = in_flight.is_some();
    let mut query = sqlx::query(statement.sql())
        .bind(format!("[{}]", bounds.join(",")))
        .bind(number(depth))
        .bind(number(messages))
        .bind(number(bytes));
    if let Some(in_flight) = in_flight {
        query = query.bind(json_list(in_flight.iter().map(|row| row.position.0)));
    }
    let found = query.fetch_all(connection).await.map_err(|error| store_error("fetching messages", error))?;
    let total = found.first().map_or(Ok(0), |row| integer(row, 6))?;
    let rows = found.iter().map(|row| {
        let known = Known {
            now: integer(row, 4)?,
            due,
            blocked: integer(row, 5)? != 0,
            // Known until the first attempt; from then on the time is that of the next one.
            scheduled: row.try_get(7).map_err(|error| store_error("fetching messages", error))?,
            ..Known::of(row)?
        };
        fetched(known, raw_message(row, 8)?)
    });
    let rows = rows.collect::<Result<_>>()?;
    Ok(Rows { rows, total: usize::try_from(total).unwrap_or(0), depth })
}

fn number(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What is known of a row beside its message.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) position: i64,
    pub(crate) partition: i64,
    pub(crate) attempts: i64,
    pub(crate) enqueued_at: i64,
    pub(crate) now: i64,
    pub(crate) due: bool,
    pub(crate) blocked: bool,
    pub(crate) scheduled: Option<i64>,
}

impl Known {
    /// The columns that all statements begin with.
    fn of(row: &SqliteRow) -> Result<Self> {
        Ok(Self {
            position: integer(row, 0)?,
            partition: integer(row, 1)?,
            attempts: integer(row, 2)?,
            enqueued_at: integer(row, 3)?,
            ..Self::default()
        })
    }
}

pub(crate) fn fetched(known: Known, message: RawMessage<'_>) -> Result<Fetched> {
    let Known { partition, .. } = known;
    let enqueued_at = Timestamp::from_micros(known.enqueued_at);
    Ok(Fetched {
        position: Position(known.position),
        identity: identity(message.message_id, known.enqueued_at),
        partition: Partition(u16::try_from(partition).map_err(|_| impossible("partition", partition))?),
        attempts: attempts(known.attempts),
        enqueued_at,
        age: Timestamp::from_micros(known.now).since(enqueued_at),
        due: known.due,
        blocked: known.blocked,
        content: message.content(known.scheduled.map(Timestamp::from_micros)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::{Content, Identity};
    use proptest::prelude::*;

    use super::*;

    fn ready(counts: &[usize], total: usize, depth: usize) -> Rows {
        let rows = counts.iter().zip(0..).flat_map(|(count, partition)| {
            (0..*count).map(move |_| Fetched {
                position: Position(1),
                identity: Identity::new([0; 16], 0),
                partition: Partition(partition),
                attempts: 0,
                enqueued_at: Timestamp::from_micros(0),
                age: Duration::ZERO,
                due: false,
                blocked: false,
                content: Content::Malformed { id: None, topic: None, key: None, reason: String::new() },
            })
        });
        Rows { rows: rows.collect(), total, depth }
    }

    #[test]
    fn one_busy_partition_is_soon_read_with_whole_batches() {
        let (limit, mut depth) = (500, 500_usize.div_ceil(16));
        for _ in 0..4 {
            depth = deepen(&ready(&[depth], depth, depth), limit, depth);
        }
        assert_eq!(depth, limit);
    }

    #[test]
    fn many_busy_partitions_are_soon_read_shallowly() {
        let (limit, mut depth) = (500, 500);
        for _ in 0..5 {
            depth = deepen(&ready(&[limit / 16; 16], 16 * depth, depth), limit, depth);
        }
        assert!(depth <= 2 * limit / 16, "{depth}");
    }

    proptest! {
        #[test]
        fn the_depth_stays_in_its_range(
            counts in prop::collection::vec(0..50_usize, 1..16), extra in 0..1000_usize, depth in 1..500_usize,
        ) {
            let total = counts.iter().sum::<usize>() + extra;
            let next = deepen(&ready(&counts, total, depth), 500, depth);
            prop_assert!((1..=500).contains(&next));
        }
    }
}
