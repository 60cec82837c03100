//! Which partitions are ours, and until when we may rely on it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{Membership, Partition};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Read and published. Rows of fetches that began before this one (by number) belong to an earlier lease.
    Active { since_fetch: u64 },
    /// Surplus: nothing new is started, and it is released once nothing of it is in memory.
    Draining,
}

/// What a heartbeat changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Ours from now on.
    pub(crate) gained: Vec<Partition>,
    /// No longer read: lost to another relay, or to be handed over.
    pub(crate) stopped: Vec<Partition>,
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    phases: BTreeMap<Partition, Phase>,
    /// Partitions whose release is under way (`None`), or the first heartbeat that was sent after it had ended. An earlier
    /// heartbeat may say that they are ours although they were released after it.
    released: BTreeMap<Partition, Option<u64>>,
    valid_until: Option<Instant>,
    relays: usize,
}

impl Leases {
    /// Takes in the answer to a heartbeat of this number. The lease runs from when the call was *sent*, on our own clock, less a
    /// margin: the database counts from a later moment, so we always stop first.
    pub(crate) fn renew(
        &mut self,
        answer: &Membership,
        sent: Instant,
        valid: Duration,
        heartbeat: u64,
        next_fetch: u64,
    ) -> Changes {
        let mut changes = Changes::default();
        self.valid_until = Some(sent + valid);
        self.relays = answer.relays;
        self.phases.retain(|partition, phase| {
            let kept = answer.owned.contains(partition);
            if !kept && matches!(phase, Phase::Active { .. }) {
                changes.stopped.push(*partition);
            }
            kept
        });
        self.released.retain(|_, ended| ended.is_none_or(|first| heartbeat < first));
        for partition in answer.owned.iter().filter(|partition| !self.released.contains_key(partition)) {
            self.phases.entry(*partition).or_insert_with(|| {
                changes.gained.push(*partition);
                Phase::Active { since_fetch: next_fetch }
            });
        }
        let surplus = self.active().count().saturating_sub(answer.share);
        let handed_over: Vec<Partition> = self.active().rev().take(surplus).collect();
        for partition in handed_over {
            self.phases.insert(partition, Phase::Draining);
            match changes.gained.iter().position(|gained| *gained == partition) {
                Some(index) => drop(changes.gained.swap_remove(index)),
                None => changes.stopped.push(partition),
            }
        }
        changes
    }

    /// Gives up everything if the lease has run out on our own clock. Returns the partitions that were being read.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Vec<Partition>> {
        self.valid_until.filter(|until| now >= *until)?;
        Some(self.end())
    }

    /// Gives up everything. Returns the partitions that were being read.
    pub(crate) fn end(&mut self) -> Vec<Partition> {
        let stopped = self.active().collect();
        self.phases.clear();
        self.valid_until = None;
        stopped
    }

    /// A release of these draining partitions begins. It may take effect at any time until it has ended.
    pub(crate) fn release_started(&mut self, partitions: &[Partition]) {
        self.released.extend(partitions.iter().map(|partition| (*partition, None)));
    }

    /// The release has ended, before the heartbeat of this number was sent.
    pub(crate) fn release_ended(&mut self, partitions: &[Partition], succeeded: bool, next_heartbeat: u64) {
        for partition in partitions {
            self.released.insert(*partition, Some(next_heartbeat));
            if succeeded {
                self.phases.remove(partition);
            }
        }
    }

    fn active(&self) -> impl DoubleEndedIterator<Item = Partition> + '_ {
        self.phases
            .iter()
            .filter(|(_, phase)| matches!(phase, Phase::Active { .. }))
            .map(|(partition, _)| *partition)
    }

    pub(crate) fn owned(&self) -> Vec<Partition> {
        self.active().collect()
    }

    pub(crate) fn draining(&self) -> impl Iterator<Item = Partition> + '_ {
        self.phases.iter().filter(|(_, phase)| **phase == Phase::Draining).map(|(partition, _)| *partition)
    }

    pub(crate) fn is_active(&self, partition: Partition) -> bool {
        matches!(self.phases.get(&partition), Some(Phase::Active { .. }))
    }

    /// Whether a row that this fetch brought is ours under the present lease.
    pub(crate) fn accepts(&self, partition: Partition, fetch: u64) -> bool {
        matches!(self.phases.get(&partition), Some(Phase::Active { since_fetch }) if fetch >= *since_fetch)
    }

    pub(crate) fn any_active(&self) -> bool {
        self.active().next().is_some()
    }

    /// Whether a call that may take so long would end within the lease.
    pub(crate) fn outlasts(&self, now: Instant, call: Duration) -> bool {
        self.valid_until.is_some_and(|until| now + call <= until)
    }

    pub(crate) fn valid_until(&self) -> Option<Instant> {
        self.valid_until
    }

    pub(crate) fn relays(&self) -> usize {
        self.relays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(owned: &[u16], share: usize) -> Membership {
        let owned = owned.iter().copied().map(Partition).collect();
        Membership { owned, share, relays: 1, partitions: 4, joined: false }
    }

    const VALID: Duration = Duration::from_secs(9);

    #[test]
    fn a_growing_group_makes_us_hand_over_the_surplus() {
        let mut leases = Leases::default();
        let now = Instant::now();
        let changes = leases.renew(&answer(&[0, 1, 2, 3], 4), now, VALID, 1, 1);
        assert_eq!(changes.gained.len(), 4);
        let changes = leases.renew(&answer(&[0, 1, 2, 3], 2), now, VALID, 2, 2);
        assert_eq!(changes, Changes { gained: vec![], stopped: vec![Partition(3), Partition(2)] });
        assert_eq!(leases.draining().collect::<Vec<_>>(), [Partition(2), Partition(3)]);
        leases.release_started(&[Partition(2), Partition(3)]);
        leases.release_ended(&[Partition(2), Partition(3)], true, 3);
        assert_eq!(leases.owned(), [Partition(0), Partition(1)]);
    }

    #[test]
    fn rows_of_an_earlier_lease_are_refused() {
        let mut leases = Leases::default();
        let now = Instant::now();
        leases.renew(&answer(&[0], 1), now, VALID, 1, 1);
        leases.renew(&answer(&[], 1), now, VALID, 2, 5);
        assert!(!leases.accepts(Partition(0), 5));
        leases.renew(&answer(&[0], 1), now, VALID, 3, 6);
        assert!(!leases.accepts(Partition(0), 5), "this fetch began under the earlier lease");
        assert!(leases.accepts(Partition(0), 6));
    }

    #[test]
    fn an_unrenewed_lease_ends_on_our_own_clock() {
        let mut leases = Leases::default();
        let now = Instant::now();
        leases.renew(&answer(&[0], 1), now, VALID, 1, 1);
        assert!(leases.outlasts(now, VALID));
        assert!(!leases.outlasts(now + Duration::from_secs(1), VALID));
        assert_eq!(leases.expire(now + Duration::from_secs(8)), None);
        assert_eq!(leases.expire(now + VALID), Some(vec![Partition(0)]));
        assert!(!leases.any_active());
        assert_eq!(leases.expire(now + VALID), None);
    }

    #[test]
    fn a_heartbeat_that_overlaps_a_release_brings_nothing_of_it_back() {
        let now = Instant::now();
        for succeeds in [true, false] {
            let mut leases = Leases::default();
            leases.renew(&answer(&[0, 1], 2), now, VALID, 1, 1);
            leases.renew(&answer(&[0, 1], 1), now, VALID, 2, 2);
            assert_eq!(leases.draining().collect::<Vec<_>>(), [Partition(1)]);
            leases.release_started(&[Partition(1)]);
            // The store has released it already, and gives it to us again while the release is under way.
            leases.renew(&answer(&[0], 1), now, VALID, 3, 3);
            assert_eq!(leases.renew(&answer(&[0, 1], 2), now, VALID, 4, 4), Changes::default());
            // Heartbeat 5 was sent before the release ended.
            leases.release_ended(&[Partition(1)], succeeds, 6);
            assert_eq!(leases.renew(&answer(&[0, 1], 2), now, VALID, 5, 5), Changes::default());
            assert_eq!(leases.owned(), [Partition(0)]);
            let changes = leases.renew(&answer(&[0, 1], 2), now, VALID, 6, 6);
            assert_eq!(changes.gained, [Partition(1)], "a heartbeat after the release is right");
        }
    }

    #[test]
    fn a_failed_release_leaves_the_partition_draining() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.renew(&answer(&[0, 1], 2), now, VALID, 1, 1);
        leases.renew(&answer(&[0, 1], 1), now, VALID, 2, 2);
        leases.release_started(&[Partition(1)]);
        leases.release_ended(&[Partition(1)], false, 3);
        leases.renew(&answer(&[0, 1], 1), now, VALID, 3, 3);
        assert_eq!(leases.draining().collect::<Vec<_>>(), [Partition(1)]);
    }
}
