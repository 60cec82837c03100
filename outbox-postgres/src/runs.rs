//! Sets of positions as runs: a stretch of positions of one partition, and which of them are meant.
//!
//! What a relay has delivered lies close together, between few others. A statement that walks along the index once for each
//! run takes half the time of one that looks up each row.

use outbox_core::Partition;
use outbox_sql::settle::Place;

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
    /// How many positions are meant in all.
    pub(crate) count: u64,
}

impl Runs {
    /// Sorts the places.
    pub(crate) fn of(places: &mut Vec<Place>) -> Self {
        places.sort_unstable();
        places.dedup();
        let mut runs = Self::default();
        let near = |one: &Place, next: &Place| {
            one.partition == next.partition
                && next.position.checked_sub(one.position).is_some_and(|gap| gap <= GAP)
        };
        for run in places.chunk_by(near) {
            if let [first, ..] = run {
                runs.push(first.partition, run);
            }
        }
        runs
    }

    fn push(&mut self, partition: Partition, run: &[Place]) {
        // There are no partitions beyond those that the column takes.
        let (Ok(partition), Some(first), Some(last)) = (i16::try_from(partition.0), run.first(), run.last())
        else {
            return;
        };
        let mut taken = Vec::new();
        for place in run {
            // No gap is too large for this, and so no run.
            let offset = usize::try_from(place.position.wrapping_sub(first.position)).unwrap_or_default();
            taken.resize(offset / 8 + 1, 0);
            if let Some(byte) = taken.last_mut() {
                *byte |= 1 << (offset % 8);
            }
        }
        self.partitions.push(partition);
        self.first.push(first.position);
        self.last.push(last.position);
        self.taken.push(taken);
        self.count += run.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(partition: u16, position: i64) -> Place {
        Place { partition: Partition(partition), position }
    }

    impl Runs {
        /// As the statement reads them.
        fn places(&self) -> Vec<Place> {
            let mut places = Vec::new();
            for (run, partition) in self.partitions.iter().enumerate() {
                for position in self.first[run]..=self.last[run] {
                    let bit = usize::try_from(position - self.first[run]).unwrap();
                    if self.taken[run][bit / 8] >> (bit % 8) & 1 == 1 {
                        places.push(place(u16::try_from(*partition).unwrap(), position));
                    }
                }
            }
            places
        }
    }

    #[test]
    fn neighbours_are_a_run() {
        let runs = Runs::of(&mut vec![place(1, 7), place(0, 9), place(0, 1), place(0, 200), place(0, 65)]);
        assert_eq!(runs.partitions, [0, 0, 1]);
        assert_eq!((runs.first.as_slice(), runs.last.as_slice()), (&[1, 200, 7][..], &[65, 200, 7][..]));
        assert_eq!(runs.taken, [vec![1, 1, 0, 0, 0, 0, 0, 0, 1], vec![1], vec![1]]);
        assert_eq!(runs.count, 5);
    }

    #[test]
    fn the_ends_of_all_positions_are_no_run() {
        let runs = Runs::of(&mut vec![place(0, i64::MIN), place(0, i64::MAX), place(0, i64::MAX - 1)]);
        assert_eq!(runs.first, [i64::MIN, i64::MAX - 1]);
        assert_eq!(runs.taken, [vec![1], vec![3]]);
    }

    proptest! {
        #[test]
        fn runs_hold_what_they_were_made_of(places in prop::collection::vec((0..3_u16, 0..2_000_i64), 0..200)) {
            let mut places: Vec<Place> = places.into_iter().map(|(partition, position)| place(partition, position)).collect();
            let runs = Runs::of(&mut places.clone());
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(runs.count, places.len() as u64);
            prop_assert_eq!(runs.places(), places);
        }
    }
}
