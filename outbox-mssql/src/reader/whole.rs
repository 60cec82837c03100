//! What a read shows that is not of one moment.
//!
//! Without versions of rows, a statement takes the rows as it comes to them, and passes by those that others have locked.
//! If a transaction commits meanwhile, it shows the end of what was written there and not the beginning: of two
//! messages of a key, the second one.
//!
//! So everything is read twice, one statement after the other. If the first one shows any row of a transaction, then that
//! was committed before the second one began, which shows all of it. Of the second read, what may be of a transaction
//! of which the first one shows nothing is left for the next fetch.
//!
//! Which transactions there are nobody tells. But a connection has one at a time, and its positions grow: its rows in
//! the second read, up to its last one in the first read, are of transactions that had ended. Likewise, what settling
//! makes due of a key is due in the order of positions, so that the same holds for the due rows of a key.

use std::collections::BTreeMap;

/// Those rows of the second read that are whole. `of` says to what a row belongs, and where it stands there; a row that
/// belongs to nothing is whole by itself.
pub(crate) fn whole<T, K: Ord>(first: &[T], second: Vec<T>, of: impl Fn(&T) -> (Option<K>, i64)) -> Vec<T> {
    let mut ends = BTreeMap::<K, i64>::new();
    for (owner, position) in first.iter().map(&of) {
        if let Some(owner) = owner {
            let end = ends.entry(owner).or_insert(position);
            *end = (*end).max(position);
        }
    }
    let is_whole = |row: &T| match of(row) {
        (Some(owner), position) => ends.get(&owner).is_some_and(|end| position <= *end),
        (None, _) => true,
    };
    second.into_iter().filter(is_whole).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Row {
        position: i64,
        writer: i64,
        transaction: usize,
    }

    /// When a transaction committed, and which positions it has. Connection `writer` has them one after the other.
    #[derive(Clone, Debug)]
    struct Transaction {
        writer: i64,
        committed: u32,
        positions: Vec<i64>,
    }

    /// Connections that insert and commit, one step after the other. In the end all have committed.
    fn history() -> impl Strategy<Value = Vec<Transaction>> {
        prop::collection::vec((0..3_i64, prop::bool::weighted(0.3)), 0..40).prop_map(|steps| {
            let mut open = BTreeMap::<i64, Vec<i64>>::new();
            let mut history = Vec::new();
            let ends = (0..3).map(|writer| (writer, true));
            for (time, (writer, commits)) in (0_u32..).zip(steps.into_iter().chain(ends)) {
                if !commits {
                    open.entry(writer).or_default().push(i64::from(time));
                } else if let Some(positions) = open.remove(&writer) {
                    history.push(Transaction { writer, committed: time, positions });
                }
            }
            history
        })
    }

    /// A read that comes to each position at some time, later and later.
    fn read(history: &[Transaction], begun: u32, steps: &[u32]) -> (Vec<Row>, u32) {
        let mut rows: Vec<Row> = history
            .iter()
            .enumerate()
            .flat_map(|(transaction, of)| {
                of.positions.iter().map(move |position| Row {
                    position: *position,
                    writer: of.writer,
                    transaction,
                })
            })
            .collect();
        rows.sort_unstable_by_key(|row| row.position);
        let mut now = begun;
        let mut shown = Vec::new();
        for (index, row) in rows.into_iter().enumerate() {
            now += steps[index % steps.len()];
            if history[row.transaction].committed < now {
                shown.push(row);
            }
        }
        (shown, now + 1)
    }

    proptest! {
        #[test]
        fn every_transaction_comes_as_a_whole_or_not_at_all(
            history in history(), begun in 0..60_u32, steps in prop::collection::vec(0..6_u32, 1..12),
        ) {
            let (first, ended) = read(&history, begun, &steps);
            let (second, _) = read(&history, ended, &steps);
            let kept = whole(&first, second, |row| (Some(row.writer), row.position));
            let transactions: BTreeSet<usize> = kept.iter().map(|row| row.transaction).collect();
            for transaction in transactions {
                let count = kept.iter().filter(|row| row.transaction == transaction).count();
                prop_assert_eq!(count, history[transaction].positions.len(), "{:?} of {:?}", kept, history);
            }
            // And whatever was there at the beginning comes.
            for row in &first {
                if history[row.transaction].committed < begun {
                    prop_assert!(kept.contains(row));
                }
            }
        }
    }

    #[test]
    fn one_read_alone_would_show_the_end_without_the_beginning() {
        let history = [Transaction { writer: 1, committed: 5, positions: vec![1, 2] }];
        let (torn, _) = read(&history, 4, &[1, 2]);
        assert_eq!(torn.iter().map(|row| row.position).collect::<Vec<_>>(), [2]);
        assert!(whole(&[], torn, |row| (Some(row.writer), row.position)).is_empty());
    }

    #[test]
    fn what_belongs_to_nothing_is_whole() {
        assert_eq!(whole(&[], vec![7], |row| (None::<i64>, *row)), [7]);
    }
}
