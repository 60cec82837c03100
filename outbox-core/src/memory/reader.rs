//! Reading the memory store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::identity::RowId;
use crate::store::{Batch, FetchLimit, Fetched, Partition, Position, Reader};
use crate::time::Timestamp;

use super::faults::Operation;
use super::slice::Slice;
use super::state::State;
use super::store::MemoryStore;

/// How far one partition has been read.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Ready rows up to here have been returned, except those in `behind`.
    cursor: Option<Position>,
    /// Rows that appeared behind the cursor and have not been returned.
    behind: BTreeSet<Position>,
    /// How much of the partition's log of late rows has been seen.
    late_seen: u64,
}

/// What [`MemoryStore::memory_reader`] gives. A clone goes on from the same place by itself: whoever may lose an answer
/// fetches by a clone, and keeps it once the answer is there.
#[derive(Clone, Debug)]
pub struct MemoryReader {
    store: MemoryStore,
    assigned: BTreeMap<Partition, Progress>,
}

impl MemoryReader {
    pub(super) fn new(store: MemoryStore) -> Self {
        Self { store, assigned: BTreeMap::new() }
    }
}

#[async_trait]
impl Reader for MemoryReader {
    fn assign(&mut self, partition: Partition) {
        // The log of late rows is of interest only behind the cursor, and there is nothing behind the start.
        let late_seen = self.store.lock().slice_mut(partition).map_or(0, |slice| slice.late_count());
        self.assigned.insert(partition, Progress { late_seen, ..Progress::default() });
    }

    fn revoke(&mut self, partition: Partition) {
        self.assigned.remove(&partition);
    }

    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        let Self { store, assigned } = self;
        let fetch = || read(&mut store.lock(), assigned, limit, in_flight, store.now());
        store.faults().run_answered(Operation::Fetch, fetch).await
    }
}

fn read(
    state: &mut State,
    assigned: &mut BTreeMap<Partition, Progress>,
    limit: FetchLimit,
    in_flight: &[RowId],
    now: Timestamp,
) -> Batch {
    for (partition, progress) in assigned.iter_mut() {
        let Some(slice) = state.slice_mut(*partition) else { continue };
        slice.promote(now);
        progress.notice_late_rows(slice);
    }
    let mut batch = Filling { limit, bytes: 0, rows: Vec::new(), now };
    let slices: Vec<(Partition, &Slice)> = assigned
        .keys()
        .filter_map(|partition| Some((*partition, state.slices.get(usize::from(partition.0))?)))
        .collect();

    let in_flight: HashSet<RowId> = in_flight.iter().copied().collect();
    let is_due = |slice: &Slice, position: Position| {
        let row = slice.row(position).map(|row| RowId::new(position, row.identity()));
        row.is_none_or(|row| !in_flight.contains(&row))
    };
    let mut waits_for_ready = false;
    let due: Vec<_> = slices
        .iter()
        .map(|(partition, slice)| {
            // It may be of the same key as a due row behind it.
            let first_unread = unread(assigned.get(partition), slice).next().unwrap_or(Position(i64::MAX));
            waits_for_ready |= slice.due().any(|position| position > first_unread && is_due(slice, position));
            let before = slice.due().take_while(move |position| *position < first_unread);
            before.filter(|position| is_due(slice, *position))
        })
        .collect();
    let due_left = batch.fill(&slices, due, true);

    let ready: Vec<_> =
        slices.iter().map(|(partition, slice)| unread(assigned.get(partition), slice)).collect();
    let ready_left = batch.fill(&slices, ready, false);

    let next_due = if waits_for_ready || due_left.iter().any(Option::is_some) {
        Some(Duration::ZERO)
    } else {
        slices.iter().filter_map(|(_, slice)| slice.next_due_at()).min().map(|at| at.since(now))
    };
    let more = waits_for_ready || due_left.iter().chain(&ready_left).any(Option::is_some);

    for row in batch.rows.iter().filter(|row| !row.due) {
        if let Some(progress) = assigned.get_mut(&row.partition)
            && !progress.behind.remove(&row.position)
        {
            progress.cursor = progress.cursor.max(Some(row.position));
        }
    }
    for ((partition, slice), next) in slices.iter().zip(ready_left) {
        if let Some(progress) = assigned.get_mut(partition) {
            // Rows in between are not ready and never will be, so they need not be walked over again.
            let passed = match next {
                Some(next) => Some(Position(next.0.saturating_sub(1))),
                None => slice.newest(),
            };
            progress.cursor = progress.cursor.max(passed.filter(|_| progress.behind.is_empty()));
        }
    }

    let mut rows = batch.rows;
    rows.sort_unstable_by_key(|row| row.position);
    Batch { rows, more, next_due }
}

/// The ready rows of a partition that have not been returned, in the order in which they come.
fn unread<'a>(progress: Option<&'a Progress>, slice: &'a Slice) -> impl Iterator<Item = Position> + 'a {
    let behind = progress.into_iter().flat_map(|progress| progress.behind.iter().copied());
    behind.chain(slice.ready_after(progress.and_then(|progress| progress.cursor)))
}

impl Progress {
    fn notice_late_rows(&mut self, slice: &Slice) {
        let late = slice.late_since(self.late_seen).filter(|position| Some(*position) <= self.cursor);
        self.behind.extend(late);
        self.late_seen = slice.late_count();
        self.behind.retain(|position| slice.is_ready(*position));
    }
}

/// A batch on its way to its limits.
struct Filling {
    limit: FetchLimit,
    bytes: usize,
    rows: Vec<Fetched>,
    now: Timestamp,
}

impl Filling {
    /// Takes rows in position order over all partitions while there is room. Returns what each partition would
    /// have had next.
    fn fill(
        &mut self,
        slices: &[(Partition, &Slice)],
        mut sources: Vec<impl Iterator<Item = Position>>,
        due: bool,
    ) -> Vec<Option<Position>> {
        let mut next: Vec<Option<Position>> = sources.iter_mut().map(Iterator::next).collect();
        let heads = next.iter().enumerate();
        let mut heap: BinaryHeap<_> =
            heads.filter_map(|(i, position)| position.map(|position| Reverse((position, i)))).collect();
        while let Some(Reverse((position, i))) = heap.pop() {
            let Some((partition, slice)) = slices.get(i) else { continue };
            if !self.take(*partition, slice, position, due) {
                break;
            }
            let head = sources.get_mut(i).and_then(Iterator::next);
            if let Some(next) = next.get_mut(i) {
                *next = head;
            }
            heap.extend(head.map(|position| Reverse((position, i))));
        }
        next
    }

    fn take(&mut self, partition: Partition, slice: &Slice, position: Position, due: bool) -> bool {
        let Some(row) = slice.row(position) else { return true };
        let size = row.size();
        let fits = self.rows.len() < self.limit.messages
            // A row larger than the limit comes alone, or it would never come.
            && (self.rows.is_empty() || self.bytes.saturating_add(size) <= self.limit.bytes);
        if fits {
            self.bytes = self.bytes.saturating_add(size);
            self.rows.push(Fetched {
                position,
                identity: row.identity(),
                partition,
                attempts: row.attempts,
                enqueued_at: row.enqueued_at,
                age: self.now.since(row.enqueued_at),
                due,
                blocked: !row.state.blocks() && slice.is_blocked(row.key(), position),
                content: row.content.clone(),
            });
        }
        fits
    }
}
