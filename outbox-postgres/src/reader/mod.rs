//! Reading: one cursor for each partition, and what appears below it.

mod late;
#[cfg(test)]
mod model;
mod payloads;
mod progress;
mod quota;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use outbox_core::{
    Batch, Error, ErrorKind, FetchLimit, Fetched, Partition, Position, Reader, Result, RowId, Timestamp,
};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;

use self::payloads::Expected;
use self::progress::{LateScan, Progress, Scan};
use self::snapshot::Snapshot;
use crate::error::map_error;
use crate::group::numbers;
use crate::row::{Columns, aged};
use crate::sessions::Lent;
use crate::sql::{Column, Payloads};
use crate::store::PostgresStore;

/// As many rows as one fetch brings at most, whatever the limit. More would not be quicker, and the planner would
/// estimate the cost of the statement at so much that it compiled it to machine code, which takes half a second.
const MOST_ROWS: usize = 2000;
/// How many positions below the cursors a fetch looks for rows that have appeared there. Those further back are looked for once the
/// transaction has ended, by a statement of its own.
const REACH: i64 = 2048;
/// How many positions one statement looks through for the rows of transactions that took long. After a long transaction it may be
/// millions, nearly all of them of rows that are gone, and the server has to walk over what is left of these in the index.
const STRETCH: i64 = 1 << 18;
/// Keeps sums within bounds.
const MOST_BYTES: usize = i32::MAX as usize;

pub(crate) struct PostgresReader {
    store: PostgresStore,
    progress: Progress,
    payloads: Expected,
    /// Whether due rows were left over, so that ready ones have to leave them room.
    due_waits: bool,
}

impl PostgresReader {
    pub(crate) fn new(store: PostgresStore) -> Self {
        Self { store, progress: Progress::default(), payloads: Expected::default(), due_waits: false }
    }

    /// What the next fetch reads.
    #[cfg(test)]
    pub(crate) fn scans(&self) -> Vec<Scan> {
        self.progress.scans(1000, REACH)
    }
}

#[async_trait]
impl Reader for PostgresReader {
    fn assign(&mut self, partition: Partition) {
        self.progress.assign(partition);
    }

    fn revoke(&mut self, partition: Partition) {
        self.progress.revoke(partition);
    }

    /// Works on a copy of the state and puts it in place at the very end, so that an error or a dropped future leaves
    /// everything to be read again.
    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        let own = self.progress.partitions();
        if own.is_empty() {
            return Ok(Batch::default());
        }
        let mut budget =
            Budget { messages: limit.messages.clamp(1, MOST_ROWS), bytes: limit.bytes.clamp(1, MOST_BYTES) };
        let fetch = Fetch { store: &self.store, own: numbers(&own), in_flight: raw(in_flight) };
        let mut next = self.progress.clone();

        let room = if self.due_waits { budget.messages.div_ceil(2) } else { budget.messages };
        let scans = Scans { each: next.scans(room, REACH), base: next.base() };
        let (mut ready, about) = fetch.ready(&scans, room, budget.bytes, &mut self.payloads).await?;
        next.observe(&about.snapshot, about.fence);

        // Whoever committed before that snapshot goes before what it shows past the cursors.
        let mut rows = Vec::new();
        let mut more = false;
        for scan in &scans.each {
            let Some(slice) = ready.get_mut(&scan.partition) else { continue };
            let (last, late) = (slice.last(), slice.take_up_to(scan.after));
            if next.read_along(scan, last, slice.full) {
                budget.spend(&late);
                rows.extend(late.rows);
            }
        }
        let late_scans = next.late_scans();
        if !late_scans.is_empty() {
            for (partition, late) in fetch.late(&late_scans, &budget).await? {
                next.late_done(partition, late.last(), !late.full);
                budget.spend(&late);
                rows.extend(late.rows);
            }
        }

        ready.retain(|partition, _| !next.has_late(*partition));
        // Nobody has looked past the other cursors, or what was seen there has to wait.
        more |= ready.len() < own.len();
        budget.trim(&mut ready);
        for (partition, slice) in ready {
            if let Some(last) = slice.last() {
                next.advance(partition, last);
            }
            next.weigh(partition, slice.full);
            more |= slice.full;
            budget.spend(&slice);
            rows.extend(slice.rows);
        }

        let mut next_due = about.next_due.map(|time| time.since(about.now));
        let mut due_waits = false;
        if next_due == Some(Duration::ZERO) {
            let due = fetch.due(&budget, &next).await?;
            next_due = if due.slice.full { Some(Duration::ZERO) } else { due.next_due };
            due_waits = due.slice.full;
            more |= due.slice.full;
            rows.extend(due.slice.rows);
        }

        aged(&mut rows, about.now);
        rows.sort_unstable_by_key(|row| row.position);
        self.progress = next;
        self.due_waits = due_waits;
        Ok(Batch { rows, more, next_due })
    }
}

/// What is left of a fetch's limits.
#[derive(Debug)]
struct Budget {
    messages: usize,
    bytes: usize,
}

impl Budget {
    fn spend(&mut self, slice: &Slice) {
        self.messages = self.messages.saturating_sub(slice.rows.len());
        self.bytes = self.bytes.saturating_sub(slice.bytes());
    }

    /// Drops the ends of what was read where late rows have taken its room, in proportion. One row of each partition
    /// stays.
    fn trim(&self, ready: &mut BTreeMap<Partition, Slice>) {
        let messages: usize = ready.values().map(|slice| slice.rows.len()).sum();
        let bytes: usize = ready.values().map(Slice::bytes).sum();
        if messages <= self.messages && bytes <= self.bytes.saturating_mul(2) {
            return;
        }
        for slice in ready.values_mut() {
            let part = |of: usize, all: usize| {
                if all <= of { slice.rows.len() } else { slice.rows.len() * of / all }
            };
            let keep = part(self.messages, messages).min(part(self.bytes, bytes)).max(1);
            slice.keep(keep);
        }
    }
}

/// Rows of one partition, in position order.
#[derive(Debug, Default)]
struct Slice {
    rows: Vec<Fetched>,
    /// The length of each payload, as the database counted it.
    payloads: Vec<usize>,
    /// How many rows were passed because they are not ready, and how far the statement has come with them.
    passed: usize,
    reached: Option<i64>,
    /// Whether there may be more.
    full: bool,
    /// Whether a payload was left out because it was larger than expected.
    cut: bool,
}

impl Slice {
    fn push(&mut self, row: Columns<'_>, position: Position, due: bool) -> Result<()> {
        if !due && row.timestamp(Column::DeliverAt as usize)?.is_some() {
            self.passed += 1;
            self.reached = self.reached.max(Some(position.0));
            return Ok(());
        }
        match row.payload_len()? {
            Some(payload) => self.payloads.push(payload),
            None => {
                self.cut = true;
                return Ok(());
            }
        }
        self.rows.push(row.fetched(position, due)?);
        Ok(())
    }

    /// Takes out what is not past a position.
    fn take_up_to(&mut self, position: i64) -> Self {
        let count = self.rows.partition_point(|row| row.position.0 <= position);
        if count == 0 {
            return Self::default();
        }
        // What was passed lies past it.
        let (rows, payloads) = (self.rows.split_off(count), self.payloads.split_off(count));
        let past = Self { rows, payloads, ..*self };
        Self { passed: 0, reached: None, ..std::mem::replace(self, past) }
    }

    /// Drops all but the first `count` rows.
    fn keep(&mut self, count: usize) {
        if count < self.rows.len() {
            self.rows.truncate(count);
            self.payloads.truncate(count);
            (self.passed, self.reached) = (0, None);
            self.full = true;
        }
    }

    fn bytes(&self) -> usize {
        self.payloads.iter().sum()
    }

    /// How far the statement has come.
    fn last(&self) -> Option<i64> {
        self.rows.last().map(|row| row.position.0).max(self.reached)
    }

    /// The statement stops at either limit, at the latter only once it is reached.
    fn note_full(&mut self, quota: usize, bytes: usize) {
        self.full = self.rows.len() + self.passed >= quota || self.bytes() >= bytes;
    }
}

/// What a fetch reads.
struct Scans {
    each: Vec<Scan>,
    /// The snapshot of the fetch before.
    base: Option<Arc<str>>,
}

/// What a fetch says beside the rows.
struct About {
    now: Timestamp,
    next_due: Option<Timestamp>,
    snapshot: Snapshot,
    fence: Option<u64>,
}

struct Due {
    slice: Slice,
    next_due: Option<Duration>,
}

/// The statements of one fetch.
struct Fetch<'a> {
    store: &'a PostgresStore,
    own: Vec<i16>,
    in_flight: Vec<i64>,
}

impl Fetch<'_> {
    /// Reads past the cursors, and not far below.
    async fn ready(
        &self,
        scans: &Scans,
        messages: usize,
        bytes: usize,
        expected: &mut Expected,
    ) -> Result<(BTreeMap<Partition, Slice>, About)> {
        // So many of this size are within the limit.
        let small = bytes / messages.max(1);
        if expected.are_small() {
            let (slices, about) = self.scan(scans, Payloads::Small, |_| small).await?;
            if !slices.values().any(|slice| slice.cut) {
                return Ok((slices, about));
            }
        }
        let share = |scan: &Scan| (bytes.saturating_mul(scan.quota) / messages.max(1)).clamp(1, bytes);
        let (slices, about) = self.scan(scans, Payloads::Large, share).await?;
        expected.note(slices.values().flat_map(|slice| &slice.payloads).all(|payload| *payload <= small));
        Ok((slices, about))
    }

    async fn scan(
        &self,
        Scans { each: scans, base }: &Scans,
        payloads: Payloads,
        bytes: impl Fn(&Scan) -> usize,
    ) -> Result<(BTreeMap<Partition, Slice>, About)> {
        let sql = self.store.sql().await?;
        let mut lent = self.store.lend().await?;
        let statement = match payloads {
            Payloads::Small => &sql.fetch,
            Payloads::Large => &sql.fetch_large,
        };
        let query = sqlx::query(statement.on(&lent))
            .bind(partitions(scans.iter().map(|scan| scan.partition)))
            .bind(scans.iter().map(|scan| scan.after).collect::<Vec<_>>())
            .bind(scans.iter().map(|scan| number(scan.quota)).collect::<Vec<_>>())
            .bind(scans.iter().map(|scan| number(bytes(scan))).collect::<Vec<_>>())
            .bind(&self.own)
            .bind(&self.in_flight)
            .bind(false)
            .bind(number(scans.iter().map(|scan| scan.quota).sum()))
            .bind(scans.iter().map(|scan| scan.low).collect::<Vec<_>>())
            .bind(base.as_deref());
        let mut slices: BTreeMap<Partition, Slice> =
            scans.iter().map(|scan| (scan.partition, Slice::default())).collect();
        let about = read(query, &mut lent, &mut slices).await;
        let about = lent.end(about).await?.ok_or_else(incomplete)?;
        for scan in scans {
            if let Some(slice) = slices.get_mut(&scan.partition) {
                let most = if payloads == Payloads::Large { bytes(scan) } else { usize::MAX };
                slice.note_full(scan.quota, most);
            }
        }
        let row = Columns(&about);
        let snapshot = row.own_text(Column::SNAPSHOT as usize)?.ok_or_else(incomplete)?;
        let fence = row.own_text(Column::FENCE as usize)?.map(str::parse).transpose();
        let about = About {
            now: row.timestamp(Column::FETCHED_AT as usize)?.ok_or_else(incomplete)?,
            next_due: row.timestamp(Column::NEXT_DUE as usize)?,
            snapshot: Snapshot::parse(snapshot)?,
            fence: fence.map_err(|_| incomplete())?,
        };
        Ok((slices, about))
    }

    async fn late(
        &self,
        scans: &[(Partition, LateScan)],
        budget: &Budget,
    ) -> Result<BTreeMap<Partition, Slice>> {
        let sql = self.store.sql().await?;
        let end = |scan: &LateScan| scan.upto.min(scan.after.saturating_add(STRETCH));
        let quota = (budget.messages / scans.len().max(1)).max(1);
        let bytes = (budget.bytes / scans.len().max(1)).max(1);
        let texts = |of: fn(&LateScan) -> &str| scans.iter().map(|(_, scan)| of(scan)).collect::<Vec<&str>>();
        let mut lent = self.store.lend().await?;
        let query = sqlx::query(sql.fetch_late.on(&lent))
            .bind(partitions(scans.iter().map(|(partition, _)| *partition)))
            .bind(scans.iter().map(|(_, scan)| scan.after).collect::<Vec<_>>())
            .bind(scans.iter().map(|(_, scan)| end(scan)).collect::<Vec<_>>())
            .bind(vec![number(quota); scans.len()])
            .bind(vec![number(bytes); scans.len()])
            .bind(texts(|scan| &scan.base))
            .bind(texts(|scan| &scan.snapshot))
            .bind(&self.own)
            .bind(false);
        let mut slices: BTreeMap<Partition, Slice> =
            scans.iter().map(|(partition, _)| (*partition, Slice::default())).collect();
        let read = read(query, &mut lent, &mut slices).await;
        lent.end(read).await?;
        for (partition, scan) in scans {
            if let Some(slice) = slices.get_mut(partition) {
                slice.note_full(quota, bytes);
                if !slice.full && end(scan) < scan.upto {
                    slice.reached = Some(end(scan));
                    slice.full = true;
                }
            }
        }
        Ok(slices)
    }

    async fn due(&self, budget: &Budget, progress: &Progress) -> Result<Due> {
        let sql = self.store.sql().await?;
        let (quota, bytes) = (budget.messages.max(1), budget.bytes.max(1));
        let mut lent = self.store.lend().await?;
        let rows = async {
            let mut connection = lent.bounded().await?;
            let rows = sqlx::query(sql.fetch_due.clone())
                .bind(&self.own)
                .bind(number(quota))
                .bind(number(bytes))
                .bind(&self.in_flight)
                .bind(false)
                .bind(progress.read_to())
                .fetch_all(&mut *connection)
                .await
                .map_err(map_error)?;
            connection.finish().await?;
            Ok(rows)
        };
        let rows = rows.await;
        let rows = lent.end(rows).await?;
        let mut slice = Slice::default();
        let mut next_due = None;
        for row in rows.iter().map(Columns) {
            if let Some(position) = row.position()? {
                slice.push(row, position, true)?;
            } else {
                let now = row.timestamp(Column::FETCHED_AT as usize)?.ok_or_else(incomplete)?;
                next_due = row.timestamp(Column::NEXT_DUE as usize)?.map(|time| time.since(now));
            }
        }
        slice.note_full(quota, bytes);
        Ok(Due { slice, next_due })
    }
}

/// Runs a query and sorts what it brings.
async fn read(
    query: Query<'_, Postgres, PgArguments>,
    lent: &mut Lent,
    slices: &mut BTreeMap<Partition, Slice>,
) -> Result<Option<PgRow>> {
    let mut connection = lent.bounded().await?;
    let about = sort(query.fetch(&mut *connection), slices).await?;
    connection.finish().await?;
    Ok(about)
}

/// Sorts rows by partition, each as it comes in and is still in the processor's cache. Gives the one about the fetch, if
/// there is one.
async fn sort(
    mut rows: BoxStream<'_, sqlx::Result<PgRow>>,
    slices: &mut BTreeMap<Partition, Slice>,
) -> Result<Option<PgRow>> {
    let mut about = None;
    while let Some(row) = rows.try_next().await.map_err(map_error)? {
        let columns = Columns(&row);
        match columns.position()? {
            Some(position) => {
                slices.entry(columns.partition()?).or_default().push(columns, position, false)?
            }
            None => about = Some(row),
        }
    }
    Ok(about)
}

fn partitions(partitions: impl Iterator<Item = Partition>) -> Vec<i16> {
    numbers(&partitions.collect::<Vec<_>>())
}

fn raw(rows: &[RowId]) -> Vec<i64> {
    rows.iter().map(|row| row.position.0).collect()
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn incomplete() -> Error {
    Error::new(ErrorKind::Internal, "the database's answer to a fetch is incomplete")
}
