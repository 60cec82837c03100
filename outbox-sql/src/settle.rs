//! What is to be settled, sorted by what happens to it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use outbox_core::{Identity, Partition, Settle, Settlement};

use crate::text::{micros, storable};

/// A batch, sorted by what happens to the rows.
#[derive(Clone, Debug, Default)]
pub struct Groups<'a> {
    /// Rows that the broker has confirmed.
    pub delivered: Vec<Target>,
    /// Rows to be tried again.
    pub retries: Vec<Failure<'a>>,
    /// Rows behind one that blocks their key.
    pub held: Vec<Target>,
    /// Rows to be moved to the dead letters.
    pub dead: Vec<Failure<'a>>,
}

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its partition.
    pub partition: Partition,
    /// Its position.
    pub position: i64,
}

/// A row to settle: where it is, and which message it is. Another message at its place is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Where it is.
    pub place: Place,
    /// Which message it is.
    pub identity: Identity,
}

impl Target {
    /// Its position.
    pub fn position(&self) -> i64 {
        self.place.position
    }
}

/// What to write about a row that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// Which row it is.
    pub target: Target,
    /// In how many microseconds it is tried again. Zero for a dead letter.
    pub after: i64,
    /// The count of attempts to store.
    pub attempts: u32,
    /// The error to store, as databases take it.
    pub error: Cow<'a, str>,
    /// Whether it blocks its key, if it has one.
    pub block: bool,
}

impl<'a> Groups<'a> {
    /// Sorts a batch.
    pub fn of(batch: &'a [Settle]) -> Self {
        let mut groups = Self::default();
        for settle in batch {
            let place = Place { partition: settle.partition, position: settle.position.0 };
            let target = Target { place, identity: settle.identity };
            let failure = |after, attempts: u32, error: &'a str, block| Failure {
                target,
                after,
                attempts,
                error: storable(error),
                block,
            };
            match &settle.settlement {
                Settlement::Delivered => groups.delivered.push(target),
                Settlement::Retry { after, attempts, error, block_key } => {
                    groups.retries.push(failure(micros(*after), *attempts, error, *block_key));
                }
                Settlement::Held => groups.held.push(target),
                Settlement::Dead { attempts, error, block_key } => {
                    groups.dead.push(failure(0, *attempts, error, *block_key));
                }
            }
        }
        groups
    }

    /// Whether there is nothing but deliveries, which need no ownership and disturb nobody.
    pub fn only_delivered(&self) -> bool {
        self.retries.is_empty() && self.held.is_empty() && self.dead.is_empty()
    }

    /// The partitions of everything but the deliveries: those that must be owned.
    pub fn partitions(&self) -> BTreeSet<Partition> {
        let failures = self.retries.iter().chain(&self.dead).map(|failure| failure.target.place.partition);
        failures.chain(self.held.iter().map(|target| target.place.partition)).collect()
    }

    /// Leaves out the rows for which `keep` is false.
    pub fn retain_rows(&mut self, keep: impl Fn(&Target) -> bool) {
        self.retries.retain(|failure| keep(&failure.target));
        self.dead.retain(|failure| keep(&failure.target));
        self.held.retain(&keep);
        self.delivered.retain(&keep);
    }

    /// Leaves out what is in partitions of others, deliveries excepted.
    pub fn retain(&mut self, owned: &BTreeSet<Partition>) {
        self.retries.retain(|failure| owned.contains(&failure.target.place.partition));
        self.dead.retain(|failure| owned.contains(&failure.target.place.partition));
        self.held.retain(|target| owned.contains(&target.place.partition));
    }
}

/// Keys whose messages have to wait from some position on, and keys that may go on.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// The lowest position from which on a key waits.
    pub blocked: BTreeMap<(Partition, String), i64>,
    /// Keys in front of which something has gone.
    pub freed: BTreeSet<(Partition, String)>,
}

impl Keys {
    /// Takes note of a row that was written: whether it blocks its key now, and whether it did.
    pub fn note(&mut self, place: Place, key: Option<String>, blocks: bool, did_block: bool) {
        let Some(key) = key else { return };
        if blocks {
            self.block(place, key);
        } else if did_block {
            self.free(place.partition, key);
        }
    }

    /// Takes note of a row that blocks its key.
    pub fn block(&mut self, place: Place, key: String) {
        let from = self.blocked.entry((place.partition, key)).or_insert(place.position);
        *from = (*from).min(place.position);
    }

    /// Takes note of a key that may go on.
    pub fn free(&mut self, partition: Partition, key: String) {
        self.freed.insert((partition, key));
    }
}

/// A row that blocks its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Its position.
    pub position: i64,
    /// Whether it waits for its turn, without a time.
    pub waits: bool,
    /// Whether its time is to come. Of one that waits for its turn it does not matter.
    pub retries: bool,
}

/// Which of a key's blocking rows become due: the waiting ones, from the first on, up to one that retries or is behind
/// the key's first dead letter.
pub fn released(mut rows: Vec<Blocking>, first_dead: Option<i64>) -> impl Iterator<Item = i64> {
    rows.sort_unstable_by_key(|row| row.position);
    let end = first_dead.unwrap_or(i64::MAX);
    rows.into_iter()
        .take_while(move |row| (row.waits || !row.retries) && row.position < end)
        .filter(|row| row.waits)
        .map(|row| row.position)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::Position;

    use super::*;

    fn identity(number: i64) -> Identity {
        Identity::new([7; 16], number)
    }

    #[test]
    fn a_batch_is_sorted_and_what_is_not_ours_is_left_out() {
        let settle = |position, partition, settlement| Settle {
            position: Position(position),
            identity: identity(position),
            partition: Partition(partition),
            settlement,
        };
        let error = "no\0".to_owned();
        let after = Duration::from_millis(2);
        let batch = [
            settle(1, 0, Settlement::Delivered),
            settle(2, 1, Settlement::Delivered),
            settle(3, 0, Settlement::Held),
            settle(4, 1, Settlement::Held),
            settle(5, 0, Settlement::Retry { after, attempts: 3, error: error.clone(), block_key: true }),
            settle(6, 1, Settlement::Dead { attempts: 9, error, block_key: false }),
        ];
        let mut groups = Groups::of(&batch);
        assert!(!groups.only_delivered() && Groups::of(&batch[..2]).only_delivered());
        assert_eq!(groups.partitions(), BTreeSet::from([Partition(0), Partition(1)]));
        groups.retain(&BTreeSet::from([Partition(0)]));
        assert_eq!(groups.delivered.len(), 2);
        let place = Place { partition: Partition(0), position: 3 };
        assert_eq!(groups.held, [Target { place, identity: identity(3) }]);
        let retry = &groups.retries[0];
        assert_eq!((retry.after, retry.attempts, retry.block), (2000, 3, true));
        assert_eq!(retry.error, "no\u{fffd}");
        assert!(groups.dead.is_empty());
    }

    #[test]
    fn a_key_waits_from_its_lowest_position_on() {
        let mut keys = Keys::default();
        let place = |position| Place { partition: Partition(1), position };
        keys.note(place(7), Some("k".to_owned()), true, false);
        keys.note(place(5), Some("k".to_owned()), true, true);
        keys.note(place(6), Some("gone".to_owned()), false, true);
        keys.note(place(6), Some("never".to_owned()), false, false);
        keys.note(place(1), None, true, true);
        assert_eq!(keys.blocked, BTreeMap::from([((Partition(1), "k".to_owned()), 5)]));
        assert_eq!(keys.freed, BTreeSet::from([(Partition(1), "gone".to_owned())]));
    }

    #[test]
    fn rows_are_released_up_to_what_retries_or_is_dead() {
        let row = |position, waits, retries| Blocking { position, waits, retries };
        let released = |rows: &[Blocking], dead| released(rows.to_vec(), dead).collect::<Vec<_>>();
        // Not in order, and one that is due already.
        let rows = [row(4, true, true), row(2, false, false), row(1, true, false), row(6, true, false)];
        assert_eq!(released(&rows, None), [1, 4, 6]);
        assert_eq!(released(&rows, Some(4)), [1]);
        assert_eq!(released(&[row(1, true, false), row(2, false, true), row(3, true, false)], None), [1]);
        assert!(released(&[], None).is_empty());
    }
}
