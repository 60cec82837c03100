//! The reader's bookkeeping against a model of PostgreSQL's transactions, in random interleavings.
//!
//! Whatever the order in which transactions take their ids, draw positions, commit and roll back, also in the middle
//! of a fetch, every committed row must come once, and the rows of a key in the order of their positions where the
//! writers of the key took turns.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::Partition;
use proptest::prelude::*;

use super::progress::{Progress, Scan};
use super::snapshot::Snapshot;

const PARTITIONS: u16 = 2;
const SLOTS: usize = 4;
const KEYS: u8 = 6;
/// How many positions are looked through at a time for late rows.
const STRETCH: i64 = 4;

/// A step of one of the writers, each of which has a slot.
#[derive(Clone, Copy, Debug)]
enum Step {
    TakeId(usize),
    Draw(usize, u8),
    /// Draws a position for a row that is not ready.
    Schedule(usize, u8),
    Commit(usize),
    RollBack(usize),
}

#[derive(Clone, Debug)]
enum Action {
    Write(Step),
    Fetch {
        limit: usize,
        /// How far it looks below the cursors.
        reach: i64,
        /// What happens after the snapshot and before the fence is drawn.
        within: Vec<Step>,
        /// What happens before the late rows are read.
        between: Vec<Step>,
        fails: bool,
    },
    /// Settles some of what was returned.
    Settle(usize),
    Assign(u16),
    Revoke(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..SLOTS).prop_map(Step::TakeId),
        5 => (0..SLOTS, 0..KEYS).prop_map(|(slot, key)| Step::Draw(slot, key)),
        2 => (0..SLOTS, 0..KEYS).prop_map(|(slot, key)| Step::Schedule(slot, key)),
        3 => (0..SLOTS).prop_map(Step::Commit),
        1 => (0..SLOTS).prop_map(Step::RollBack),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let steps = || prop::collection::vec(step(), 0..5);
    let fetch = (1..5_usize, 0..8_i64, steps(), steps(), prop::bool::weighted(0.1)).prop_map(
        |(limit, reach, within, between, fails)| Action::Fetch { limit, reach, within, between, fails },
    );
    prop_oneof![
        12 => step().prop_map(Action::Write),
        6 => fetch,
        2 => (0..10_usize).prop_map(Action::Settle),
        1 => (0..PARTITIONS).prop_map(Action::Assign),
        1 => (0..PARTITIONS).prop_map(Action::Revoke),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Row {
    position: i64,
    key: u8,
    xid: u64,
    ready: bool,
}

impl Row {
    fn partition(self) -> Partition {
        Partition(u16::from(self.key) % PARTITIONS)
    }
}

#[derive(Debug, Default)]
struct Database {
    last_xid: u64,
    last_ended: u64,
    last_position: i64,
    /// The id of the transaction in each slot, once it has one.
    open: [Option<u64>; SLOTS],
    /// Which slot writes a key. Writers of a key wait for each other.
    locks: BTreeMap<u8, usize>,
    rows: Vec<Row>,
    rolled_back: BTreeSet<u64>,
}

impl Database {
    fn take_id(&mut self) -> u64 {
        self.last_xid += 1;
        self.last_xid
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::TakeId(slot) => {
                if self.open[slot].is_none() {
                    self.open[slot] = Some(self.take_id());
                }
            }
            Step::Draw(slot, key) | Step::Schedule(slot, key) => {
                if *self.locks.entry(key).or_insert(slot) != slot {
                    return;
                }
                self.run(Step::TakeId(slot));
                self.last_position += 1;
                let xid = self.open[slot].unwrap();
                let ready = matches!(step, Step::Draw(..));
                self.rows.push(Row { position: self.last_position, key, xid, ready });
            }
            Step::Commit(slot) | Step::RollBack(slot) => {
                self.locks.retain(|_, holder| *holder != slot);
                let Some(xid) = self.open[slot].take() else { return };
                if matches!(step, Step::RollBack(_)) {
                    self.rolled_back.insert(xid);
                }
                self.end(xid);
            }
        }
    }

    fn end(&mut self, xid: u64) {
        self.last_ended = self.last_ended.max(xid);
    }

    /// As PostgreSQL takes it: it ends behind the latest transaction that has ended, not behind the latest one.
    fn snapshot(&self) -> Snapshot {
        let end = self.last_ended + 1;
        let mut running: Vec<_> = self.open.iter().flatten().filter(|xid| **xid < end).collect();
        running.sort_unstable();
        let oldest = running.first().map_or(end, |xid| **xid);
        let running: Vec<_> = running.iter().map(ToString::to_string).collect();
        Snapshot::parse(&format!("{oldest}:{end}:{}", running.join(","))).unwrap()
    }

    /// What a statement with this snapshot sees, in position order.
    fn visible(&self, snapshot: &Snapshot) -> Vec<Row> {
        let seen = |row: &&Row| snapshot.has_ended(row.xid) && !self.rolled_back.contains(&row.xid);
        self.rows.iter().filter(seen).copied().collect()
    }
}

#[derive(Debug, Default)]
struct World {
    database: Database,
    progress: Progress,
    assigned: BTreeSet<Partition>,
    /// What came since its partition was assigned.
    returned: BTreeSet<i64>,
    latest: BTreeMap<u8, i64>,
}

impl World {
    fn run(&mut self, action: Action) {
        match action {
            Action::Write(step) => self.database.run(step),
            Action::Settle(number) => {
                let settled: Vec<_> = self.returned.iter().copied().take(number).collect();
                self.database.rows.retain(|row| !settled.contains(&row.position));
                self.returned.retain(|position| !settled.contains(position));
            }
            Action::Assign(partition) => {
                self.forget(Partition(partition));
                self.assigned.insert(Partition(partition));
                self.progress.assign(Partition(partition));
            }
            Action::Revoke(partition) => {
                self.forget(Partition(partition));
                self.assigned.remove(&Partition(partition));
                self.progress.revoke(Partition(partition));
            }
            Action::Fetch { limit, reach, within, between, fails } => {
                self.fetch(limit, reach, &within, &between, fails);
            }
        }
    }

    fn forget(&mut self, partition: Partition) {
        let rows = self.database.rows.iter().filter(|row| row.partition() == partition);
        for row in rows {
            self.returned.remove(&row.position);
        }
        self.latest.retain(|key, _| u16::from(*key) % PARTITIONS != partition.0);
    }

    /// The steps of the reader's fetch, with the database's part played by the model. Says whether there is more.
    fn fetch(&mut self, limit: usize, reach: i64, within: &[Step], between: &[Step], fails: bool) -> bool {
        let mut next = self.progress.clone();
        let snapshot = self.database.snapshot();
        let visible = self.database.visible(&snapshot);
        within.iter().for_each(|step| self.database.run(*step));

        let scans = next.scans(limit, reach);
        let base = next.base().map(|base| snapshot_of(&base));
        let mut ready: BTreeMap<Partition, (Vec<Row>, bool)> = BTreeMap::new();
        for scan in &scans {
            let fits = |row: &&Row| {
                let appeared = base.as_ref().is_some_and(|base| !base.has_ended(row.xid));
                row.partition() == scan.partition
                    && row.position > scan.low
                    && (row.position > scan.after || row.ready && appeared)
            };
            let rows: Vec<Row> = visible.iter().filter(fits).take(scan.quota).copied().collect();
            let full = rows.len() == scan.quota;
            ready.insert(scan.partition, (rows, full));
        }
        let past = |scan: &Scan| {
            visible.iter().any(|row| row.partition() == scan.partition && row.position > scan.after)
        };
        let fence = scans.iter().any(past).then(|| self.database.take_id());
        fence.into_iter().for_each(|xid| self.database.end(xid));
        next.observe(&snapshot, fence);
        between.iter().for_each(|step| self.database.run(*step));

        let mut rows = Vec::new();
        for scan in &scans {
            let (found, full) = ready.get_mut(&scan.partition).unwrap();
            let last = found.last().map(|row| row.position);
            let late = found.partition_point(|row| row.position <= scan.after);
            let late = found.drain(..late);
            if next.read_along(scan, last, *full) {
                rows.extend(late);
            }
        }
        let visible = self.database.visible(&self.database.snapshot());
        for (partition, scan) in next.late_scans() {
            let (base, after) = (snapshot_of(&scan.base), snapshot_of(&scan.snapshot));
            let end = scan.upto.min(scan.after + STRETCH);
            let late = |row: &&Row| {
                row.partition() == partition
                    && row.ready
                    && row.position > scan.after
                    && row.position <= end
                    && after.has_ended(row.xid)
                    && !base.has_ended(row.xid)
            };
            let found: Vec<Row> = visible.iter().filter(late).take(limit).copied().collect();
            let last = found.last().map(|row| row.position);
            match found.len() < limit {
                true if end < scan.upto => next.late_done(partition, Some(end), false),
                all => next.late_done(partition, last, all),
            }
            rows.extend(found);
        }
        if fails {
            return true;
        }
        ready.retain(|partition, _| !next.has_late(*partition));
        let mut more = ready.len() < self.assigned.len();
        for (partition, (found, full)) in ready {
            more |= full;
            if let Some(last) = found.last() {
                next.advance(partition, last.position);
            }
            next.weigh(partition, full);
            rows.extend(found);
        }
        self.progress = next;
        rows.retain(|row| row.ready);
        rows.sort_unstable_by_key(|row| row.position);
        rows.into_iter().for_each(|row| self.check(row));
        more
    }

    fn check(&mut self, row: Row) {
        assert!(self.returned.insert(row.position), "{row:?} came twice");
        let before = self.latest.insert(row.key, row.position);
        assert!(before < Some(row.position), "{row:?} came after {before:?}");
    }

    fn finish(mut self) {
        for slot in 0..SLOTS {
            self.database.run(Step::Commit(slot));
        }
        while self.fetch(5, 3, &[], &[], false) {}
        let committed = self.database.visible(&self.database.snapshot());
        for row in committed.iter().filter(|row| row.ready && self.assigned.contains(&row.partition())) {
            assert!(self.returned.contains(&row.position), "{row:?} never came");
        }
    }
}

fn snapshot_of(text: &str) -> Snapshot {
    Snapshot::parse(text).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_committed_row_comes_once_and_in_the_order_of_its_key(
        actions in prop::collection::vec(action(), 0..120),
    ) {
        let mut world = World::default();
        (0..PARTITIONS).for_each(|partition| world.run(Action::Assign(partition)));
        actions.into_iter().for_each(|action| world.run(action));
        world.finish();
    }
}
