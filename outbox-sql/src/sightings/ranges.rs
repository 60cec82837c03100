//! Ranges of positions, as statements take them.

use std::ops::RangeInclusive;

/// Sorts ranges, joins those that touch, and joins the nearest ones until there are at most `most`. What comes out
/// covers what went in, and perhaps more.
pub(super) fn coalesce(mut ranges: Vec<RangeInclusive<i64>>, most: usize) -> Vec<RangeInclusive<i64>> {
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut joined = join_nearer_than(ranges, 1);
    if joined.len() > most.max(1) {
        let mut distances: Vec<i64> = joined.windows(2).map(|pair| distance(&pair[0], &pair[1])).collect();
        // As many of the nearest pairs are joined as there are ranges too many.
        let surplus = joined.len() - most.max(1);
        let (_, widest, _) = distances.select_nth_unstable(surplus - 1);
        let widest = *widest;
        joined = join_nearer_than(joined, widest);
    }
    joined
}

fn distance(before: &RangeInclusive<i64>, after: &RangeInclusive<i64>) -> i64 {
    after.start().saturating_sub(*before.end())
}

fn join_nearer_than(sorted: Vec<RangeInclusive<i64>>, nearest: i64) -> Vec<RangeInclusive<i64>> {
    let mut joined: Vec<RangeInclusive<i64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if distance(last, &range) <= nearest => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one() {
        assert_eq!(coalesce(vec![5..=7, 1..=2, 3..=3], 64), [1..=3, 5..=7]);
        assert_eq!(coalesce(vec![1..=9, 2..=3], 64), [1..=9]);
        assert_eq!(coalesce(vec![1..=1, 10..=10, 12..=12, 50..=50], 3), [1..=1, 10..=12, 50..=50]);
        assert_eq!(coalesce(vec![], 3), []);
    }

    proptest! {
        #[test]
        fn nothing_is_left_out_and_the_number_is_kept(
            starts in prop::collection::vec((0..1000_i64, 0..20_i64), 0..60),
            most in 1..10_usize,
        ) {
            let ranges: Vec<_> = starts.iter().map(|(start, length)| *start..=start + length).collect();
            let joined = coalesce(ranges.clone(), most);
            prop_assert!(joined.len() <= most);
            for range in &ranges {
                prop_assert!(joined.iter().any(|j| j.contains(range.start()) && j.contains(range.end())));
            }
            prop_assert!(joined.windows(2).all(|pair| pair[0].end() < pair[1].start()));
        }
    }
}
