//! How far each partition has been read, and what is read next.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox_core::Partition;

use super::late::Watch;
use super::quota::{self, Weight};
use super::snapshot::Snapshot;

/// What to read of one partition past its cursor, and along with it what has appeared not far below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) partition: Partition,
    /// From here to the cursor, rows count that were not visible in the snapshot before. It is the cursor where there are none.
    pub(crate) low: i64,
    /// The cursor.
    pub(crate) after: i64,
    pub(crate) quota: usize,
}

/// What to read of one partition below its cursor: the rows of transactions that had not ended in `base` and had in
/// `snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LateScan {
    pub(crate) after: i64,
    pub(crate) upto: i64,
    pub(crate) base: Arc<str>,
    pub(crate) snapshot: Arc<str>,
}

#[derive(Clone, Debug, Default)]
struct Slice {
    cursor: i64,
    weight: Weight,
    /// To be read before anything past the cursor.
    late: Option<Late>,
    /// To be read after that. Only while `late` has been read in part.
    then: Option<Late>,
}

#[derive(Clone, Debug)]
struct Late {
    scan: LateScan,
    /// Whether a part of it was returned. What came after must not be mixed into it then.
    begun: bool,
}

/// The state of a reader. It is worked on as a copy, which replaces the original once everything has been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    slices: BTreeMap<Partition, Slice>,
    watch: Watch,
    /// Of the latest fetch.
    snapshot: Option<Arc<str>>,
}

impl Progress {
    pub(crate) fn assign(&mut self, partition: Partition) {
        self.slices.insert(partition, Slice::default());
    }

    pub(crate) fn revoke(&mut self, partition: Partition) {
        self.slices.remove(&partition);
    }

    pub(crate) fn partitions(&self) -> Vec<Partition> {
        self.slices.keys().copied().collect()
    }

    /// What to read past the cursors, about `limit` rows in all and at least one of each partition, and up to `reach`
    /// positions below. Partitions in which late rows are left over are not among them.
    pub(crate) fn scans(&self, limit: usize, reach: i64) -> Vec<Scan> {
        let floor = self.watch.floor(reach).unwrap_or(i64::MAX);
        let open: Vec<_> = self.slices.iter().filter(|(_, slice)| slice.late.is_none()).collect();
        let weights: Vec<_> = open.iter().map(|(_, slice)| slice.weight).collect();
        let quotas = quota::share(limit, &weights);
        open.into_iter()
            .zip(quotas)
            .map(|((partition, slice), quota)| Scan {
                partition: *partition,
                low: floor.min(slice.cursor),
                after: slice.cursor,
                quota,
            })
            .collect()
    }

    /// For each partition, the position up to which all ready rows were returned that are visible.
    pub(crate) fn read_to(&self) -> Vec<i64> {
        self.slices.values().map(Slice::read_to).collect()
    }

    /// The snapshot of the fetch before.
    pub(crate) fn base(&self) -> Option<Arc<str>> {
        self.snapshot.clone()
    }

    /// Takes note of the snapshot with which rows past the cursors were read. To be called before
    /// [`advance`](Self::advance).
    pub(crate) fn observe(&mut self, snapshot: &Snapshot, fence: Option<u64>) {
        let floor = self.watch.observe(snapshot, fence);
        let base = self.snapshot.replace(snapshot.text().clone());
        let (Some(floor), Some(base)) = (floor, base) else { return };
        for slice in self.slices.values_mut().filter(|slice| floor < slice.cursor) {
            slice.add_late(LateScan {
                after: floor,
                upto: slice.cursor,
                base: base.clone(),
                snapshot: snapshot.text().clone(),
            });
        }
    }

    /// Takes note of how far a scan has come, `last` being the last row of it. To be called after
    /// [`observe`](Self::observe). Says whether what it brought from below the cursor is all that is to come from there,
    /// or the beginning of it. If not, it comes again with what [`late_scans`](Self::late_scans) says.
    pub(crate) fn read_along(&mut self, scan: &Scan, last: Option<i64>, full: bool) -> bool {
        let Some(slice) = self.slices.get_mut(&scan.partition) else { return false };
        let Some(late) = &mut slice.late else { return true };
        if late.scan.after < scan.low {
            return false;
        }
        match last {
            Some(last) if full && last <= late.scan.upto => {
                late.scan.after = last;
                late.begun = true;
            }
            _ => slice.late = None,
        }
        true
    }

    /// What is left to read below the cursors, before anything past the cursor is returned.
    pub(crate) fn late_scans(&self) -> Vec<(Partition, LateScan)> {
        let late = |slice: &Slice| slice.late.as_ref().map(|late| late.scan.clone());
        self.slices.iter().filter_map(|(partition, slice)| Some((*partition, late(slice)?))).collect()
    }

    /// Takes note that a partition's late rows were read, all of them or up to `last`.
    pub(crate) fn late_done(&mut self, partition: Partition, last: Option<i64>, all: bool) {
        let Some(slice) = self.slices.get_mut(&partition) else { return };
        if all {
            slice.late = slice.then.take();
        } else if let (Some(late), Some(last)) = (&mut slice.late, last) {
            late.scan.after = last;
            late.begun = true;
        }
    }

    /// Whether late rows of the partition are left over, so that nothing past its cursor may be returned.
    pub(crate) fn has_late(&self, partition: Partition) -> bool {
        self.slices.get(&partition).is_none_or(|slice| slice.late.is_some())
    }

    /// Moves a cursor.
    pub(crate) fn advance(&mut self, partition: Partition, position: i64) {
        if let Some(slice) = self.slices.get_mut(&partition) {
            slice.cursor = slice.cursor.max(position);
            self.watch.read_to(position);
        }
    }

    /// Takes note whether a partition had as much as was asked for.
    pub(crate) fn weigh(&mut self, partition: Partition, full: bool) {
        if let Some(slice) = self.slices.get_mut(&partition) {
            slice.weight.note(full);
        }
    }
}

impl Slice {
    fn read_to(&self) -> i64 {
        let late = self.late.iter().chain(&self.then).map(|late| late.scan.after);
        late.fold(self.cursor, i64::min)
    }

    fn add_late(&mut self, scan: LateScan) {
        let new = Late { scan, begun: false };
        match &mut self.late {
            None => self.late = Some(new),
            Some(late) if !late.begun => late.join(new),
            Some(_) => match &mut self.then {
                None => self.then = Some(new),
                Some(then) => then.join(new),
            },
        }
    }
}

impl Late {
    /// Both lie side by side in time, and neither has been begun.
    fn join(&mut self, newer: Self) {
        self.scan.after = self.scan.after.min(newer.scan.after);
        self.scan.upto = self.scan.upto.max(newer.scan.upto);
        self.scan.snapshot = newer.scan.snapshot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(after: i64, base: &str, snapshot: &str) -> LateScan {
        LateScan { after, upto: 100, base: base.into(), snapshot: snapshot.into() }
    }

    #[test]
    fn late_rows_are_read_together_until_some_of_them_were_returned() {
        let partition = Partition(0);
        let mut progress = Progress::default();
        progress.assign(partition);
        let add = |progress: &mut Progress, scan| {
            progress.slices.get_mut(&partition).unwrap().add_late(scan);
        };
        add(&mut progress, scan(50, "a", "b"));
        add(&mut progress, scan(20, "b", "c"));
        assert_eq!(progress.late_scans(), [(partition, scan(20, "a", "c"))]);

        progress.late_done(partition, Some(60), false);
        // Its rows may lie below those that were returned.
        add(&mut progress, scan(40, "c", "d"));
        add(&mut progress, scan(30, "d", "e"));
        assert_eq!(progress.late_scans(), [(partition, scan(60, "a", "c"))]);
        assert!(progress.scans(10, 0).is_empty());
        assert_eq!(progress.read_to(), [0], "the cursor itself");
        progress.advance(partition, 100);
        assert_eq!(progress.read_to(), [30], "the late rows that come next start there");

        progress.late_done(partition, None, true);
        assert_eq!(progress.late_scans(), [(partition, scan(30, "c", "e"))]);
        progress.late_done(partition, None, true);
        assert!(!progress.has_late(partition));
        assert_eq!(progress.read_to(), [100]);
        assert_eq!(progress.scans(10, 0).len(), 1);
    }
}
