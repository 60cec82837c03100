//! Which transactions may still bring rows to light below what has been read.
//!
//! A transaction draws positions while it runs and shows its rows when it commits. By then a cursor may have moved
//! past them, over the rows of transactions that drew later and committed earlier.
//!
//! A transaction has its id before it draws its first position. So when a cursor moves, every transaction that had no
//! id at the time of the snapshot will only draw positions above everything that the snapshot shows. What is left are
//! those that had an id and had not ended: some the snapshot lists, and those from its end up to an id that was given
//! out right after it was taken. Nothing else has to be watched, and only until it ends.

use std::collections::BTreeMap;
use std::ops::Range;

use super::snapshot::Snapshot;

/// The transactions to watch.
///
/// With each goes a *floor*: all its positions are above it. It is the highest position read, in whichever partition,
/// when the transaction had no id yet. Positions are drawn from one sequence for all partitions, so one number does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    highest: i64,
    running: BTreeMap<u64, i64>,
    /// Ids at and beyond the end of the latest snapshot with which a cursor moved. It is not known which of them are
    /// transactions; the next snapshot tells.
    begun: Option<(Range<u64>, i64)>,
}

impl Watch {
    /// Looks at the snapshot of the next fetch. Returns a floor of all the rows that may have appeared below the
    /// cursors since the fetch before, if any may have.
    ///
    /// `fence` is there if cursors are going to move with this snapshot: an id that was given out after it was taken.
    pub(crate) fn observe(&mut self, snapshot: &Snapshot, fence: Option<u64>) -> Option<i64> {
        let mut ended: Option<i64> = None;
        let mut note = |floor: i64| ended = Some(ended.map_or(floor, |known| known.min(floor)));

        let mut begun = None;
        if let Some((range, floor)) = self.begun.take() {
            let known = range.start..range.end.min(snapshot.end());
            let mut others = known.end.saturating_sub(known.start);
            for xid in snapshot.running().iter().filter(|xid| known.contains(xid)) {
                self.running.entry(*xid).or_insert(floor);
                others -= 1;
            }
            if others > 0 {
                note(floor);
            }
            // A crash of the server can take ids back that it had given out.
            if known.end < range.end {
                begun = Some((known.end.max(range.start)..range.end, floor));
            }
        }
        self.running.retain(|xid, floor| {
            let ended = snapshot.has_ended(*xid);
            if ended {
                note(*floor);
            }
            !ended
        });
        if let Some(fence) = fence {
            for xid in snapshot.running() {
                self.running.entry(*xid).or_insert(self.highest);
            }
            if snapshot.end() < fence {
                begun = Some(match begun {
                    Some((old, floor)) => {
                        (old.start.min(snapshot.end())..old.end.max(fence), floor.min(self.highest))
                    }
                    None => (snapshot.end()..fence, self.highest),
                });
            }
        }
        self.begun = begun;
        ended
    }

    /// A floor of all that may appear below the cursors, but for what is further back than `reach` positions: transactions
    /// that take long are few, and looking that far back for each fetch would cost more than they do.
    pub(crate) fn floor(&self, reach: i64) -> Option<i64> {
        let floors = self.running.values().chain(self.begun.as_ref().map(|(_, floor)| floor));
        floors.copied().filter(|floor| self.highest.saturating_sub(*floor) <= reach).min()
    }

    /// Notes that a cursor has moved to this position.
    pub(crate) fn read_to(&mut self, position: i64) {
        self.highest = self.highest.max(position);
    }

    /// Whether nothing is watched.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.begun.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot::parse(text).unwrap()
    }

    #[test]
    fn a_listed_transaction_is_watched_until_it_ends() {
        let mut watch = Watch::default();
        assert_eq!(watch.observe(&snapshot("10:12:"), Some(12)), None);
        watch.read_to(5);
        // 13 is running; it had no id when everything up to 5 was read.
        assert_eq!(watch.observe(&snapshot("13:15:13"), Some(15)), None);
        watch.read_to(9);
        assert_eq!(watch.observe(&snapshot("13:17:13"), None), None);
        assert_eq!(watch.observe(&snapshot("17:17:"), None), Some(5));
        assert!(watch.is_empty());
    }

    #[test]
    fn one_that_the_snapshot_does_not_list_is_watched_too() {
        let mut watch = Watch::default();
        watch.observe(&snapshot("10:10:"), Some(10));
        watch.read_to(5);
        // 11 had begun, but nothing that began after it had ended, so the snapshot ends before it.
        assert_eq!(watch.observe(&snapshot("11:11:"), Some(12)), None);
        watch.read_to(8);
        assert_eq!(watch.observe(&snapshot("11:14:11"), Some(14)), None, "12 is the fetch's own");
        watch.read_to(9);
        assert_eq!(watch.observe(&snapshot("15:15:"), None), Some(5));
    }

    #[test]
    fn without_others_nothing_is_watched() {
        let mut watch = Watch::default();
        for xid in 10..20 {
            assert_eq!(watch.observe(&snapshot(&format!("{xid}:{xid}:")), Some(xid)), None);
            watch.read_to(i64::try_from(xid).unwrap());
            assert!(watch.is_empty());
        }
    }

    #[test]
    fn ids_that_a_crash_took_back_are_watched_until_they_are_past() {
        let mut watch = Watch::default();
        watch.observe(&snapshot("10:10:"), Some(15));
        watch.read_to(3);
        assert_eq!(watch.observe(&snapshot("9:9:"), None), None);
        assert_eq!(watch.observe(&snapshot("12:12:"), None), Some(0));
        assert_eq!(watch.observe(&snapshot("16:16:"), None), Some(0));
        assert!(watch.is_empty());
    }
}
