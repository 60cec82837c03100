//! Cutting a batch into requests.

use std::ops::Range;

/// What one request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most entries. 0 counts as 1.
    pub entries: usize,
    /// The most bytes of all entries together.
    pub bytes: usize,
}

/// Cuts entries of the given sizes into requests, each one a range of indices.
///
/// The order stays, nothing is left out, and each request but the last is full: the entry after it would have made it
/// larger than the limits allow. An entry that is larger than the limit by itself becomes a request of its own, which
/// the service will refuse; check for such entries before.
///
/// ```
/// use outbox_aws::{Limits, pack};
///
/// let limits = Limits { entries: 3, bytes: 100 };
/// assert_eq!(pack([10, 10, 10, 10, 90, 1], limits), [0..3, 3..5, 5..6]);
/// ```
pub fn pack(sizes: impl IntoIterator<Item = usize>, limits: Limits) -> Vec<Range<usize>> {
    let mut requests = Vec::new();
    let (mut start, mut bytes, mut len) = (0, 0_usize, 0);
    for (index, size) in sizes.into_iter().enumerate() {
        let full = index - start >= limits.entries || bytes.saturating_add(size) > limits.bytes;
        if index > start && full {
            requests.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(size);
        len = index + 1;
    }
    if len > start {
        requests.push(start..len);
    }
    requests
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes_and_limits() -> impl Strategy<Value = (Vec<usize>, Limits)> {
        let entries = prop_oneof![Just(0), 1..12_usize, Just(500), Just(usize::MAX)];
        (prop::collection::vec(0..60_usize, 0..200), entries, 0..200_usize)
            .prop_map(|(sizes, entries, bytes)| (sizes, Limits { entries, bytes }))
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_changes_places((sizes, limits) in sizes_and_limits()) {
            let packed: Vec<usize> = pack(sizes.iter().copied(), limits).into_iter().flatten().collect();
            prop_assert_eq!(packed, (0..sizes.len()).collect::<Vec<_>>());
        }

        #[test]
        fn no_request_is_over_a_limit_unless_it_is_one_entry((sizes, limits) in sizes_and_limits()) {
            for request in pack(sizes.iter().copied(), limits) {
                prop_assert!(!request.is_empty());
                if request.len() > 1 {
                    prop_assert!(request.len() <= limits.entries);
                    prop_assert!(sizes[request].iter().sum::<usize>() <= limits.bytes);
                }
            }
        }

        #[test]
        fn every_request_but_the_last_is_full((sizes, limits) in sizes_and_limits()) {
            let requests = pack(sizes.iter().copied(), limits);
            for request in requests.iter().take(requests.len().saturating_sub(1)) {
                let bytes: usize = sizes[request.clone()].iter().sum();
                let full = request.len() >= limits.entries || bytes + sizes[request.end] > limits.bytes;
                prop_assert!(full, "{request:?} had room for one more");
            }
        }
    }

    #[test]
    fn absurd_sizes_do_no_harm() {
        let limits = Limits { entries: 10, bytes: usize::MAX };
        assert!(pack([usize::MAX, usize::MAX, 1], limits).into_iter().eq(std::iter::once(0..3)));
        let limits = Limits { entries: 10, bytes: usize::MAX - 1 };
        assert_eq!(pack([usize::MAX, usize::MAX, 1], limits), [0..1, 1..2, 2..3]);
        assert!(pack([], limits).is_empty());
    }
}
