//! Sets of positions as runs: a stretch of positions of one partition, and which of them are meant.
//!
//! What a relay has delivered lies close together, between few others. A statement that walks along the index once for each
//! run takes half the time of one that looks up each row.

use outbox_core::Partition;
use outbox_sql::settle::Target;

/// The most positions between two of a run. Whatever lies between them is walked over, which for so many costs about as much
/// as looking a row up.
const GAP: i64 = 64;

/// Runs, as parallel arrays.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) partitions: Vec<i16>,
    pub(crate) first: Vec<i64>,
    pub(crate) last: Vec<i64>,
    /// A bit for each position from the first one on, in the order of PostgreSQL's `get_bit`.
    pub(crate) taken: Vec<Vec<u8>>,
    /// How many rows are meant in all.
    pub(crate) count: u64,
}

impl Runs {
    /// Sorts the rows.
    pub(crate) fn of(rows: &mut Vec<Target>) -> Self {
        rows.sort_unstable();
        rows.dedup();
        let mut runs = Self::default();
        let near = |one: &Target, next: &Target| {
            one.place.partition == next.place.partition
                && next.position().checked_sub(one.position()).is_some_and(|gap| gap <= GAP)
        };
        for run in rows.chunk_by(near) {
            if let [first, ..] = run {
                runs.push(first.place.partition, run);
            }
        }
        runs
    }

    fn push(&mut self, partition: Partition, run: &[Target]) {
        // There are no partitions beyond those that the column takes.
        let (Ok(partition), Some(first), Some(last)) = (i16::try_from(partition.0), run.first(), run.last())
        else {
            return;
        };
        let mut taken = Vec::new();
        for row in run {
            // No gap is too large for this, and so no run.
            let offset = usize::try_from(row.position().wrapping_sub(first.position())).unwrap_or_default();
            taken.resize(offset / 8 + 1, 0);
            if let Some(byte) = taken.last_mut() {
                *byte |= 1 << (offset % 8);
            }
        }
        self.partitions.push(partition);
        self.first.push(first.position());
        self.last.push(last.position());
        self.taken.push(taken);
        self.count += run.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::Identity;
    use outbox_sql::settle::Place;
    use proptest::prelude::*;

    use super::*;

    fn row(partition: u16, position: i64) -> Target {
        let place = Place { partition: Partition(partition), position };
        Target { place, identity: Identity::new([0; 16], position) }
    }

    impl Runs {
        /// As the statement reads them.
        fn rows(&self) -> Vec<Target> {
            let mut rows = Vec::new();
            for (run, partition) in self.partitions.iter().enumerate() {
                for position in self.first[run]..=self.last[run] {
                    let bit = usize::try_from(position - self.first[run]).unwrap();
                    if self.taken[run][bit / 8] >> (bit % 8) & 1 == 1 {
                        rows.push(row(u16::try_from(*partition).unwrap(), position));
                    }
                }
            }
            rows
        }
    }

    #[test]
    fn neighbours_are_a_run() {
        let runs = Runs::of(&mut vec![row(1, 7), row(0, 9), row(0, 1), row(0, 200), row(0, 65)]);
        assert_eq!(runs.partitions, [0, 0, 1]);
        assert_eq!((runs.first.as_slice(), runs.last.as_slice()), (&[1, 200, 7][..], &[65, 200, 7][..]));
        assert_eq!(runs.taken, [vec![1, 1, 0, 0, 0, 0, 0, 0, 1], vec![1], vec![1]]);
        assert_eq!(runs.count, 5);
    }

    #[test]
    fn the_ends_of_all_positions_are_no_run() {
        let runs = Runs::of(&mut vec![row(0, i64::MIN), row(0, i64::MAX), row(0, i64::MAX - 1)]);
        assert_eq!(runs.first, [i64::MIN, i64::MAX - 1]);
        assert_eq!(runs.taken, [vec![1], vec![3]]);
    }

    proptest! {
        #[test]
        fn runs_hold_what_they_were_made_of(places in prop::collection::vec((0..3_u16, 0..2_000_i64), 0..200)) {
            let mut rows: Vec<Target> = places.into_iter().map(|(partition, position)| row(partition, position)).collect();
            let runs = Runs::of(&mut rows.clone());
            rows.sort_unstable();
            rows.dedup();
            prop_assert_eq!(runs.count, rows.len() as u64);
            prop_assert_eq!(runs.rows(), rows);
        }
    }
}
