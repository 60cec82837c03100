//! Ranges of positions, marks of partitions and lists of numbers as parameters.

use std::ops::RangeInclusive;

use outbox_core::Partition;

/// All positions of both, as ranges that do not overlap.
pub(super) fn union(one: &[RangeInclusive<i64>], other: &[RangeInclusive<i64>]) -> Vec<RangeInclusive<i64>> {
    let mut all: Vec<_> = one.iter().chain(other).filter(|range| !range.is_empty()).cloned().collect();
    all.sort_unstable_by_key(|range| *range.start());
    let mut joined: Vec<RangeInclusive<i64>> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(last) if range.start() <= last.end() => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

pub(super) fn json_ranges(ranges: &[RangeInclusive<i64>]) -> String {
    let ranges: Vec<String> =
        ranges.iter().map(|range| format!("[{},{}]", range.start(), range.end())).collect();
    format!("[{}]", ranges.join(","))
}

/// A character for each partition of `count`: `1` for those that are meant.
pub(super) fn marks(count: usize, partitions: impl IntoIterator<Item = Partition>) -> String {
    let mut marks = vec![b'0'; count];
    for partition in partitions {
        if let Some(mark) = marks.get_mut(usize::from(partition.0)) {
            *mark = b'1';
        }
    }
    marks.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_union_has_every_position_once(
            one in prop::collection::vec((0..60_i64, 0..8_i64), 0..8),
            other in prop::collection::vec((0..60_i64, 0..8_i64), 0..8),
        ) {
            let ranges = |list: Vec<(i64, i64)>| list.into_iter().map(|(low, more)| low..=low + more).collect::<Vec<_>>();
            let (one, other) = (ranges(one), ranges(other));
            let joined = union(&one, &other);
            for position in 0..80 {
                let expected = one.iter().chain(&other).any(|range| range.contains(&position));
                let times = joined.iter().filter(|range| range.contains(&position)).count();
                prop_assert_eq!(times, usize::from(expected));
            }
        }
    }

    #[test]
    fn parameters_are_what_the_statements_take() {
        assert_eq!(json_ranges(&[1..=2, 5..=9]), "[[1,2],[5,9]]");
        assert_eq!(json_ranges(&[]), "[]");
        assert_eq!(marks(4, [Partition(1), Partition(3), Partition(9)]), "0101");
    }
}
