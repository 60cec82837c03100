//! Finding rows that commit late, where the database does not tell which transactions are open.
//!
//! Databases hand out positions before the commit, so that a row can appear behind the cursor of a reader. Where
//! transactions can be asked for, as in PostgreSQL, a reader watches them. Elsewhere it looks twice: by a *dirty read*
//! (`READ UNCOMMITTED`), which shows all rows, and then by a *committed read*. A row that only the first one shows is
//! *pending*: its transaction is open. A position below others that none of the two shows is a *gap*: it was handed
//! out and its row is about to be inserted; or it was rolled back, or its row is gone.
//!
//! Pending rows are looked at again in every fetch. They are kept by their *writer*, the connection that wrote them,
//! which has one transaction at a time: one row tells for all of them. Gaps are looked at again in every fetch for a
//! while, the *patience*, and every few seconds after that. For a gap to fill up after its patience, one `INSERT` must
//! have taken that long between drawing a number and inserting the first row with it; a gap behind a row of an open
//! transaction is waited for as long as that is open.
//!
//! # Use
//! [`look`](Sightings::look) says what the dirty read is to bring, [`sight`](Sightings::sight) takes that in and says
//! what the committed read is to bring, [`confirm`](Sightings::confirm) takes that in and says which rows to hand on.
//! Work on a clone, and keep it once the rows are handed on: then an error in between changes nothing.

mod gaps;
#[cfg(test)]
mod model;
mod pending;
mod ranges;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use outbox_core::Partition;

use gaps::Gaps;
use pending::{Entry, Pending, State};
use ranges::coalesce;

/// Below all positions.
const START: i64 = i64::MIN;
/// How many ranges a statement gets at most.
const MOST_RANGES: usize = 256;
/// What counts of the time between two looks. While nobody looks, neither may a server that was stopped have worked.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// What a reader has seen, over all its partitions. See the [module](self).
#[derive(Clone, Debug)]
pub struct Sightings {
    patience: Duration,
    /// All positions up to here were looked at.
    cursor: i64,
    /// Partitions that were read up to the cursor.
    level: BTreeSet<Partition>,
    /// Partitions that came later, and are read up to the cursor one group after the other.
    backfills: VecDeque<Backfill>,
    backfilled_last: bool,
    gaps: Gaps,
    pending: Pending,
    /// The time that has passed while somebody looked.
    watched: Duration,
    looked_at: Option<Instant>,
    stage: Stage,
    more: bool,
}

#[derive(Clone, Debug)]
struct Backfill {
    partitions: BTreeSet<Partition>,
    cursor: i64,
}

/// What is known between the calls of one fetch.
#[derive(Clone, Debug, Default)]
struct Stage {
    backfill: bool,
    gap_witnesses: Vec<i64>,
    sighted: BTreeMap<i64, Sighted>,
    /// The positions that the scan went over, and whether it was cut.
    scanned: Option<RangeInclusive<i64>>,
    cut: bool,
}

/// A row as the dirty read shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighted {
    /// Where it stands.
    pub position: i64,
    /// Its partition.
    pub partition: Partition,
    /// The connection that wrote it.
    pub writer: i64,
    /// Whether it is ready: neither scheduled nor retrying nor held.
    pub ready: bool,
}

/// A row as the committed read shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it stands.
    pub position: i64,
    /// Its partition.
    pub partition: Partition,
    /// The connection that wrote it.
    pub writer: i64,
}

/// What the dirty read is to bring: the rows of a scan, and, read *after* them, those in some ranges. If it were the
/// other way round, a row could appear in a range, and one that was enqueued after it in the scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The scan: the first rows, by position, with positions above this,
    pub after: i64,
    /// and in some partitions up to some position only, if this is there. Otherwise the rows of all partitions.
    pub backfill: Option<(Vec<Partition>, i64)>,
    /// All rows of all partitions in these ranges, which are in order and do not touch.
    pub again: Vec<RangeInclusive<i64>>,
}

/// What the committed read is to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The ready rows, by position, in these ranges, which are in order and do not touch,
    pub ranges: Vec<RangeInclusive<i64>>,
    /// and in these partitions.
    pub partitions: Vec<Partition>,
    /// Which of these positions have a row, of whatever partition and state.
    pub witnesses: Vec<i64>,
}

impl Read {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        (self.ranges.is_empty() || self.partitions.is_empty()) && self.witnesses.is_empty()
    }
}

impl Sightings {
    /// Nothing seen. `patience` is how long a gap is looked at in every fetch: longer than an `INSERT` takes between
    /// drawing a number and inserting a row with it, even if it has to wait. Where there is no dirty read, as long as
    /// a transaction may last.
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            cursor: START,
            level: BTreeSet::new(),
            backfills: VecDeque::new(),
            backfilled_last: false,
            gaps: Gaps::default(),
            pending: Pending::default(),
            watched: Duration::ZERO,
            looked_at: None,
            stage: Stage::default(),
            more: false,
        }
    }

    /// Begins to read a partition from its start.
    pub fn assign(&mut self, partition: Partition) {
        self.revoke(partition);
        if self.cursor == START {
            self.level.insert(partition);
            return;
        }
        match self.backfills.back_mut() {
            Some(backfill) if backfill.cursor == START => {
                backfill.partitions.insert(partition);
            }
            _ => {
                self.backfills.push_back(Backfill { partitions: BTreeSet::from([partition]), cursor: START })
            }
        }
    }

    /// Stops reading a partition.
    pub fn revoke(&mut self, partition: Partition) {
        self.level.remove(&partition);
        self.pending.revoke(partition);
        for backfill in &mut self.backfills {
            backfill.partitions.remove(&partition);
        }
        self.backfills.retain(|backfill| !backfill.partitions.is_empty());
    }

    /// All partitions that are read.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        let behind = self.backfills.iter().flat_map(|backfill| &backfill.partitions);
        self.level.iter().chain(behind).copied()
    }

    /// Up to where the rows of a partition were handed on, those apart that were or are pending.
    pub fn read_to(&self, partition: Partition) -> i64 {
        self.backfill_of(partition).map_or(self.cursor, |backfill| backfill.cursor)
    }

    /// The first row of a partition that is pending or is being read late, if there is one.
    pub fn first_pending(&self, partition: Partition) -> Option<i64> {
        let one = BTreeSet::from([partition]);
        self.pending.of(&one).map(|(_, entry)| entry.first).min()
    }

    /// Whether another fetch would probably bring more right now.
    pub fn more(&self) -> bool {
        self.more
    }

    /// Begins a fetch.
    pub fn look(&mut self, now: Instant) -> Look {
        let before = self.looked_at.replace(now).unwrap_or(now);
        self.watched += now.saturating_duration_since(before).min(LONGEST_STEP);

        let backfill = !self.backfills.is_empty() && (!self.backfilled_last || self.level.is_empty());
        self.backfilled_last = backfill;
        let gaps = self.gaps.look(self.watched, self.patience);
        let mut again = gaps.ranges;
        again.extend(gaps.witnesses.iter().map(|witness| *witness..=*witness));
        self.stage = Stage { backfill, gap_witnesses: gaps.witnesses, ..Stage::default() };
        again.extend(self.pending.of(self.reading()).filter_map(|(_, entry)| entry.look()));
        let (after, limits) = match self.backfills.front() {
            Some(front) if backfill => {
                (front.cursor, Some((front.partitions.iter().copied().collect(), self.cursor)))
            }
            _ => (self.cursor, None),
        };
        Look { after, backfill: limits, again: coalesce(again, MOST_RANGES) }
    }

    /// Takes in what the dirty read brought, in any order. `cut_at` is the position of the scan's last row, if there
    /// may be more behind it.
    pub fn sight(&mut self, rows: &[Sighted], cut_at: Option<i64>) -> Read {
        self.stage.sighted = rows.iter().map(|row| (row.position, *row)).collect();
        self.stage.cut = cut_at.is_some();
        let (after, end) = match self.backfills.front() {
            Some(front) if self.stage.backfill => (front.cursor, self.cursor),
            _ => {
                let last = self.stage.sighted.last_key_value().map(|(position, _)| *position);
                (self.cursor, last.unwrap_or(self.cursor).max(self.cursor))
            }
        };
        let end = cut_at.unwrap_or(end).max(after);
        self.stage.scanned = (after < end).then(|| after.saturating_add(1)..=end);

        let mut ranges: Vec<_> = self.stage.scanned.iter().cloned().collect();
        let shown_up = self.stage.sighted.values().filter(|row| {
            row.ready && self.gaps.contains(row.position) && self.reading().contains(&row.partition)
        });
        ranges.extend(shown_up.map(|row| row.position..=row.position));
        let mut witnesses = self.stage.gap_witnesses.clone();
        let entries: Vec<_> = self.pending.of(self.reading()).collect();
        for (key, entry) in entries {
            let entry = match entry.state {
                State::Unclear => {
                    // What is left of it, if anything.
                    let left = self.seen_of(key, &entry);
                    let left = left.first().zip(left.last());
                    let left =
                        left.map(|(first, last)| Entry { first: *first, last: *last, state: State::Open });
                    self.pending.set(key, left);
                    let Some(left) = left else { continue };
                    left
                }
                State::Open | State::Ended => entry,
            };
            if entry.by_its_last() {
                witnesses.push(entry.last);
            } else {
                ranges.push(entry.range());
            }
        }
        witnesses.sort_unstable();
        witnesses.dedup();
        Read {
            ranges: coalesce(ranges, MOST_RANGES),
            partitions: self.reading().iter().copied().collect(),
            witnesses,
        }
    }

    /// Takes in what the committed read brought: rows by position, whether these were all (`complete`), or the first
    /// ones up to some limit; and which of the witnesses have a row. Says of each row whether to hand it on.
    pub fn confirm(&mut self, rows: &[Committed], complete: bool, witnesses: &[i64]) -> Vec<bool> {
        // Nothing above this was looked at, as far as this fetch is concerned.
        let mut bound = match rows.last() {
            _ if complete => i64::MAX,
            Some(last) => last.position,
            None => START,
        };
        let entries: Vec<_> = self.pending.of(self.reading()).collect();
        for (key, entry) in &entries {
            if !entry.by_its_last() {
                continue;
            }
            let state = if witnesses.contains(&entry.last) {
                State::Ended
            } else if self.stage.sighted.contains_key(&entry.last) {
                continue;
            } else {
                State::Unclear
            };
            // Its rows come first, with the next fetch.
            bound = bound.min(entry.first.saturating_sub(1));
            self.pending.set(*key, Some(Entry { state, ..*entry }));
        }

        let mut handed_on = BTreeSet::new();
        let accepted: Vec<bool> = rows
            .iter()
            .map(|row| {
                let accepted = row.position <= bound && self.is_news(row);
                if accepted {
                    handed_on.insert(row.position);
                }
                accepted
            })
            .collect();

        for (key, entry) in entries {
            if !entry.by_its_last() && entry.first <= bound {
                self.follow(key, entry, &handed_on, bound);
            }
        }
        self.fill_gaps(&handed_on);
        self.gaps.looked();
        self.move_on(&handed_on, bound);
        for witness in std::mem::take(&mut self.stage.gap_witnesses) {
            let open = self.stage.sighted.contains_key(&witness) && !witnesses.contains(&witness);
            self.gaps.judge(witness, open, self.watched);
        }
        self.more = self.stage.cut
            || !complete
            || bound < i64::MAX
            || !self.backfills.is_empty()
            || self.pending.anything_ended();
        self.stage = Stage::default();
        accepted
    }

    /// The partitions whose rows this fetch hands on.
    fn reading(&self) -> &BTreeSet<Partition> {
        match self.backfills.front() {
            Some(front) if self.stage.backfill => &front.partitions,
            _ => &self.level,
        }
    }

    fn backfill_of(&self, partition: Partition) -> Option<&Backfill> {
        self.backfills.iter().find(|backfill| backfill.partitions.contains(&partition))
    }

    /// Whether a row below the cursor is ours, and not left to a backfill.
    fn is_ours(&self, partition: Partition, position: i64) -> bool {
        match self.backfill_of(partition) {
            Some(backfill) => position <= backfill.cursor,
            None => self.level.contains(&partition),
        }
    }

    fn was_scanned(&self, position: i64) -> bool {
        self.stage.scanned.as_ref().is_some_and(|scanned| scanned.contains(&position))
    }

    /// Whether a committed row is to be handed on, rather than one that was.
    fn is_news(&self, row: &Committed) -> bool {
        if !self.reading().contains(&row.partition) {
            return false;
        }
        self.was_scanned(row.position)
            || (self.is_ours(row.partition, row.position)
                && (self.gaps.contains(row.position)
                    || self.pending.covers(row.writer, row.partition, row.position)))
    }

    /// The rows of an entry that the dirty read showed.
    fn seen_of(&self, (writer, partition): (i64, Partition), entry: &Entry) -> Vec<i64> {
        let rows = self.stage.sighted.range(entry.range());
        rows.filter(|(_, row)| row.writer == writer && row.partition == partition && row.ready)
            .map(|(position, _)| *position)
            .collect()
    }

    /// What has become of an entry all of whose rows were looked at.
    fn follow(&mut self, key: (i64, Partition), entry: Entry, handed_on: &BTreeSet<i64>, bound: i64) {
        if entry.state == State::Ended {
            // Read up to its last row, which was committed when this was found out, or in part.
            let rest = Entry { first: bound.saturating_add(1), ..entry };
            self.pending.set(key, (entry.last > bound).then_some(rest));
            return;
        }
        let left: Vec<i64> =
            self.seen_of(key, &entry).into_iter().filter(|position| !handed_on.contains(position)).collect();
        let left = left.first().zip(left.last());
        self.pending.set(key, left.map(|(first, last)| Entry { first: *first, last: *last, ..entry }));
    }

    /// Takes what has shown up out of the gaps. What is not committed is pending.
    fn fill_gaps(&mut self, handed_on: &BTreeSet<i64>) {
        for position in handed_on {
            self.gaps.remove(*position);
        }
        let seen: Vec<Sighted> = self.stage.sighted.values().copied().collect();
        for row in seen {
            if self.gaps.remove(row.position) && row.ready && self.is_ours(row.partition, row.position) {
                self.pending.add(row.writer, row.partition, row.position);
            }
        }
    }

    /// Moves the cursor of the scan.
    fn move_on(&mut self, handed_on: &BTreeSet<i64>, bound: i64) {
        let Some(scanned) = self.stage.scanned.clone() else {
            self.end_backfill(bound);
            return;
        };
        let end = *scanned.end().min(&bound);
        if end < *scanned.start() {
            return;
        }
        let scanned = *scanned.start()..=end;
        let seen: Vec<Sighted> = self.stage.sighted.range(scanned.clone()).map(|(_, row)| *row).collect();
        for row in &seen {
            if row.ready && self.reading().contains(&row.partition) && !handed_on.contains(&row.position) {
                self.pending.add(row.writer, row.partition, row.position);
            }
        }
        if self.stage.backfill {
            if let Some(front) = self.backfills.front_mut() {
                front.cursor = end;
            }
            self.end_backfill(bound);
            return;
        }
        let mut next = *scanned.start();
        let committed = handed_on.range(scanned.clone()).copied();
        let mut shown: Vec<i64> = seen.iter().map(|row| row.position).chain(committed).collect();
        shown.sort_unstable();
        for position in shown {
            // Of those that both reads have shown there are two.
            if position >= next {
                self.gaps.add(next..=position.saturating_sub(1), self.watched);
                next = position.saturating_add(1);
            }
        }
        self.gaps.add(next..=end, self.watched);
        self.cursor = end;
    }

    fn end_backfill(&mut self, bound: i64) {
        let cut = self.stage.cut || bound < self.cursor;
        if self.stage.backfill
            && !cut
            && let Some(done) = self.backfills.pop_front()
        {
            self.level.extend(done.partitions);
        }
    }
}
