//! Rows of transactions that are still open.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use outbox_core::Partition;

/// Of up to this many positions all are looked at in each fetch. Of more only the last, which tells whether the
/// transaction is open.
const FEW: i64 = 256;

/// Rows that a dirty read has shown and a committed one has not.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    entries: BTreeMap<(i64, Partition), Entry>,
}

/// Rows of one writer in one partition. A connection has one transaction at a time, so those that are uncommitted at
/// the same moment appear at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The transaction is open, as far as is known.
    Open,
    /// Its last row is gone, and it is to be seen whether others of its rows are left.
    Unclear,
    /// It was committed. Its rows are being read.
    Ended,
}

impl Entry {
    pub(super) fn range(&self) -> RangeInclusive<i64> {
        self.first..=self.last
    }

    fn has_few(&self) -> bool {
        self.last - self.first < FEW
    }

    /// Whether only the last row is looked at.
    pub(super) fn by_its_last(&self) -> bool {
        self.state == State::Open && !self.has_few()
    }

    /// What a dirty read is to look at.
    pub(super) fn look(&self) -> Option<RangeInclusive<i64>> {
        match self.state {
            State::Ended => None,
            State::Open if self.by_its_last() => Some(self.last..=self.last),
            State::Open | State::Unclear => Some(self.range()),
        }
    }
}

impl Pending {
    pub(super) fn add(&mut self, writer: i64, partition: Partition, position: i64) {
        let entry = self.entries.entry((writer, partition)).or_insert(Entry {
            first: position,
            last: position,
            state: State::Open,
        });
        entry.first = entry.first.min(position);
        entry.last = entry.last.max(position);
        // Whatever was known about it, there is an open transaction in it now.
        if entry.state == State::Ended {
            entry.state = State::Unclear;
        }
    }

    pub(super) fn revoke(&mut self, partition: Partition) {
        self.entries.retain(|(_, of), _| *of != partition);
    }

    /// The entries of these partitions.
    pub(super) fn of<'a>(
        &'a self,
        partitions: &'a BTreeSet<Partition>,
    ) -> impl Iterator<Item = ((i64, Partition), Entry)> + 'a {
        self.entries
            .iter()
            .filter(|((_, partition), _)| partitions.contains(partition))
            .map(|(key, entry)| (*key, *entry))
    }

    pub(super) fn covers(&self, writer: i64, partition: Partition, position: i64) -> bool {
        self.entries.get(&(writer, partition)).is_some_and(|entry| entry.range().contains(&position))
    }

    pub(super) fn set(&mut self, key: (i64, Partition), entry: Option<Entry>) {
        match entry.filter(|entry| entry.first <= entry.last) {
            Some(entry) => {
                self.entries.insert(key, entry);
            }
            None => {
                self.entries.remove(&key);
            }
        }
    }

    /// Whether there are rows that could be read at once.
    pub(super) fn anything_ended(&self) -> bool {
        self.entries.values().any(|entry| entry.state != State::Open)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
