//! Reading ready and due rows.
//!
//! These databases do not tell which transactions are open. So the reader looks twice, and
//! [`Sightings`](outbox_sql::sightings) makes sense of the two.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use outbox_core::{Batch, FetchLimit, Fetched, Partition, Reader, Result, RowId, Timestamp};
use outbox_sql::sightings::{Committed, Look, Read, Sighted, Sightings};
use outbox_sql::text::json_list;
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{MySql, MySqlConnection, SqlStr};

use crate::error::map_error;
use crate::row::Columns;
use crate::sql::{Column, Ranges};
use crate::store::{Inner, MySqlStore};

/// How long a number that was handed out and has no row is looked at in every fetch. An `INSERT` that has to wait
/// between the two waits for a lock on a gap, which nothing of ours takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many rows as one fetch brings at most, whatever the limit.
const MOST_ROWS: usize = 2000;
/// As many rows of all partitions as one fetch looks at.
const MOST_SCANNED: usize = 8000;
/// How often a reader that is kept busy by ready rows looks for due ones.
const DUE_INTERVAL: Duration = Duration::from_millis(50);

type Statement<'q> = Query<'q, MySql, MySqlArguments>;

pub(crate) struct MySqlReader {
    store: MySqlStore,
    sightings: Sightings,
    waiting: Waiting,
    /// Whether due rows were left over, so that ready ones have to leave them room.
    due_waits: bool,
}

/// When rows wait for something.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    looked_at: Option<Instant>,
    /// When the next one becomes due.
    next: Option<Instant>,
}

impl Waiting {
    fn is_recent(&self, now: Instant) -> bool {
        self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < DUE_INTERVAL)
    }
}

impl MySqlReader {
    pub(crate) fn new(store: MySqlStore) -> Self {
        Self { store, sightings: Sightings::new(PATIENCE), waiting: Waiting::default(), due_waits: false }
    }
}

#[async_trait]
impl Reader for MySqlReader {
    fn assign(&mut self, partition: Partition) {
        self.sightings.assign(partition);
        self.waiting = Waiting::default();
    }

    fn revoke(&mut self, partition: Partition) {
        self.sightings.revoke(partition);
    }

    /// Works on a copy of the state and puts it in place at the very end, so that an error or a dropped future leaves
    /// everything to be read again.
    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        let own: Vec<Partition> = self.sightings.partitions().collect();
        if own.is_empty() {
            return Ok(Batch::default());
        }
        let inner = self.store.checked().await?;
        let messages = limit.messages.clamp(1, MOST_ROWS);
        let fetch =
            Fetch { inner, own: &own, in_flight: json_list(in_flight.iter().map(|row| row.position.0)) };
        let mut next = self.sightings.clone();

        let room = if self.due_waits { messages.div_ceil(2) } else { messages };
        let mut rows = fetch.ready(&mut next, room, limit.bytes).await?;
        let mut more = next.more();

        let now = Instant::now();
        let mut waiting = self.waiting;
        let mut due_waits = false;
        if !(rows.len() >= room && waiting.is_recent(now)) {
            let waits = fetch.waits().await?;
            waiting = Waiting { looked_at: Some(now), next: waits.next.map(|wait| now + wait) };
            if !waits.due.is_empty() {
                let messages = messages.saturating_sub(rows.len()).max(1);
                let bytes = limit.bytes.saturating_sub(rows.iter().map(Fetched::size).sum());
                let found = fetch.due(&next, &waits.due, messages, bytes).await?;
                due_waits = found.left;
                more |= found.left;
                rows.extend(found.rows);
                if found.left {
                    waiting.next = Some(now);
                }
            }
        }
        rows.sort_unstable_by_key(|row| row.position);
        self.sightings = next;
        self.waiting = waiting;
        self.due_waits = due_waits;
        let next_due = waiting.next.map(|at| at.saturating_duration_since(now));
        Ok(Batch { rows, more, next_due })
    }
}

/// What rows wait for.
struct Waits {
    /// Partitions with rows that are due. They may be in flight.
    due: Vec<Partition>,
    /// How long until the next one becomes due.
    next: Option<Duration>,
}

/// Due rows, and whether some were left.
struct Due {
    rows: Vec<Fetched>,
    left: bool,
}

/// The statements of one fetch.
struct Fetch<'a> {
    inner: &'a Inner,
    own: &'a [Partition],
    in_flight: String,
}

impl Fetch<'_> {
    async fn ready(&self, sightings: &mut Sightings, messages: usize, bytes: usize) -> Result<Vec<Fetched>> {
        let look = sightings.look(Instant::now());
        let (sighted, cut_at) = self.look(&look, messages).await?;
        let read = sightings.sight(&sighted, cut_at);
        if read.is_empty() {
            sightings.confirm(&[], true, &[]);
            return Ok(Vec::new());
        }
        let (rows, complete) = self.read(&read, messages, bytes).await?;
        let witnesses = self.witnesses(&read.witnesses).await?;
        let accepted = sightings.confirm(
            &rows.iter().map(|(committed, _)| *committed).collect::<Vec<_>>(),
            complete,
            &witnesses,
        );
        let rows = rows.iter().zip(accepted).filter(|(_, accepted)| *accepted);
        rows.map(|((_, row), _)| Columns(row).fetched(false)).collect()
    }

    /// The dirty read.
    async fn look(&self, look: &Look, messages: usize) -> Result<(Vec<Sighted>, Option<i64>)> {
        let sql = &self.inner.shared.statements;
        let mut session = self.inner.connections.lend_dirty().await?;
        let others = self.inner.partitions.div_ceil(self.own.len());
        let most = messages.saturating_mul(others).min(MOST_SCANNED);
        let scan = match &look.backfill {
            None => sqlx::query(sql.look.clone()).bind(look.after).bind(number(most)),
            Some((partitions, upto)) => {
                let scan = sqlx::query(sql.look_back(partitions.len())).bind(look.after).bind(upto);
                bind_partitions(scan, partitions).bind(number(most))
            }
        };
        let mut rows = sights(scan, &mut session).await?;
        let cut_at = (rows.len() >= most).then(|| rows.last().map(|row| row.position)).flatten();
        if !look.again.is_empty() {
            let ranges = Ranges::for_so_many(look.again.len());
            let again = bind_ranges(sqlx::query(sql.look_again(ranges)), ranges, &look.again);
            rows.extend(sights(again, &mut session).await?);
        }
        session.give_back();
        Ok((rows, cut_at))
    }

    /// The committed read, and whether it was complete.
    async fn read(
        &self,
        read: &Read,
        messages: usize,
        bytes: usize,
    ) -> Result<(Vec<(Committed, MySqlRow)>, bool)> {
        if read.ranges.is_empty() || read.partitions.is_empty() {
            return Ok((Vec::new(), true));
        }
        let ranges = Ranges::for_so_many(read.ranges.len());
        let statement: SqlStr = self.inner.shared.statements.read(ranges, read.partitions.len());
        let query = bind_ranges(sqlx::query(statement), ranges, &read.ranges);
        let query = bind_partitions(query, &read.partitions);
        let rows = self.inner.connections.rows(query.bind(number(messages)).bind(number(bytes))).await?;
        let total = rows.first().map_or(Ok(0), |row| Columns(row).required(Column::Total as usize))?;
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        // As many as were asked for may not be all.
        let complete = rows.len() == total && total < messages;
        let rows = rows
            .into_iter()
            .map(|row| {
                let columns = Columns(&row);
                let committed = Committed {
                    position: columns.required(Column::Position as usize)?,
                    partition: columns.partition(Column::Partition as usize)?,
                    writer: columns.required(Column::Writer as usize)?,
                };
                Ok((committed, row))
            })
            .collect::<Result<_>>()?;
        Ok((rows, complete))
    }

    async fn witnesses(&self, witnesses: &[i64]) -> Result<Vec<i64>> {
        if witnesses.is_empty() {
            return Ok(Vec::new());
        }
        let query = sqlx::query(self.inner.shared.statements.witnesses());
        let rows = self.inner.connections.rows(query.bind(json_list(witnesses.iter().copied()))).await?;
        rows.iter().map(|row| Columns(row).required(0)).collect()
    }

    /// For what the rows of each partition wait.
    async fn waits(&self) -> Result<Waits> {
        let mut query = sqlx::query(self.inner.shared.statements.waiting(self.own.len()));
        for partition in self.own {
            query = query.bind(partition.0).bind(partition.0).bind(partition.0);
        }
        let rows = self.inner.connections.rows(query).await?;
        let rows = rows
            .iter()
            .map(Columns)
            .map(|row| Ok((row.required(0)?, row.timestamp(1)?, row.timestamp(2)?)))
            .collect::<Result<Vec<_>>>()?;
        let now = rows.iter().find(|(number, _, _)| *number < 0).and_then(|(_, now, _)| *now);
        let now = now.unwrap_or(Timestamp::from_micros(i64::MIN));
        let mut waits = Waits { due: Vec::new(), next: None };
        for (number, first, future) in rows {
            let Ok(number) = u16::try_from(number) else { continue };
            if first.is_some_and(|first| first <= now) {
                waits.due.push(Partition(number));
            }
            if let Some(future) = future {
                let wait = future.since(now);
                waits.next = Some(waits.next.map_or(wait, |next| next.min(wait)));
            }
        }
        Ok(waits)
    }

    /// Due rows of some partitions, the longest due first.
    async fn due(
        &self,
        sightings: &Sightings,
        partitions: &[Partition],
        messages: usize,
        bytes: usize,
    ) -> Result<Due> {
        let mut query = sqlx::query(self.inner.shared.statements.due(partitions.len()));
        for partition in partitions {
            query = query
                .bind(partition.0)
                .bind(sightings.read_to(*partition))
                .bind(sightings.first_pending(*partition).unwrap_or(i64::MAX))
                .bind(partition.0)
                .bind(&self.in_flight)
                .bind(number(messages));
        }
        let found = self.inner.connections.rows(query).await?;
        let mut found: Vec<(i64, i64, usize)> = found
            .iter()
            .map(Columns)
            .map(|row| {
                let size = usize::try_from(row.required(1)?).unwrap_or(usize::MAX);
                Ok((row.required(2)?, row.required(0)?, size))
            })
            .collect::<Result<_>>()?;
        found.sort_unstable();
        let mut left_bytes = bytes;
        let fit = found.iter().take(messages).take_while(|(_, _, size)| {
            let fits = left_bytes > 0;
            left_bytes = left_bytes.saturating_sub(*size);
            fits
        });
        let count = fit.count().max(1).min(found.len());
        if count == 0 {
            return Ok(Due { rows: Vec::new(), left: false });
        }
        let positions = found.iter().take(count).map(|(_, position, _)| *position);
        let query = sqlx::query(self.inner.shared.statements.fetch.clone());
        let rows = self.inner.connections.rows(query.bind(json_list(positions))).await?;
        let rows = rows.iter().map(|row| Columns(row).fetched(true)).collect::<Result<_>>()?;
        Ok(Due { rows, left: count < found.len() || count >= messages })
    }
}

async fn sights(query: Statement<'_>, session: &mut MySqlConnection) -> Result<Vec<Sighted>> {
    let rows = query.fetch_all(session).await.map_err(map_error)?;
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

fn bind_partitions<'q>(query: Statement<'q>, partitions: &[Partition]) -> Statement<'q> {
    partitions.iter().fold(query, |query, partition| query.bind(partition.0))
}

/// Fills the places that are left over with the last range.
fn bind_ranges<'q>(query: Statement<'q>, places: Ranges, ranges: &[RangeInclusive<i64>]) -> Statement<'q> {
    let Some(last) = ranges.last() else { return query };
    let filled = ranges.iter().chain(std::iter::repeat(last)).take(places.count());
    filled.fold(query, |query, range| query.bind(*range.start()).bind(*range.end()))
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
