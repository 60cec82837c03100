//! Which relay owns which partition.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::inspection::Group;
use crate::store::{Membership, Partition, RelayId};
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug)]
struct Lease {
    owner: RelayId,
    until: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Relay {
    until: Timestamp,
    idle: bool,
}

#[derive(Debug)]
pub(super) struct Leases {
    partitions: Vec<Option<Lease>>,
    /// Ordered, so that everybody computes the same shares.
    relays: BTreeMap<RelayId, Relay>,
}

impl Leases {
    pub(super) fn new(partitions: usize) -> Self {
        Self { partitions: vec![None; partitions], relays: BTreeMap::new() }
    }

    pub(super) fn heartbeat(&mut self, relay: RelayId, ttl: Duration, now: Timestamp) -> Membership {
        let until = now.saturating_add(ttl);
        self.relays.retain(|_, known| known.until > now);
        let joined = !self.relays.contains_key(&relay);
        self.relays.entry(relay).or_insert(Relay { until, idle: false }).until = until;

        let relays = self.relays.len();
        let rank = self.relays.keys().take_while(|id| **id < relay).count();
        let partitions = self.partitions.len();
        let share = partitions / relays + usize::from(rank < partitions % relays);

        let mut owned = Vec::new();
        for (partition, lease) in (0..).map(Partition).zip(&mut self.partitions) {
            if let Some(lease) = lease.as_mut().filter(|lease| lease.owner == relay) {
                lease.until = until;
                owned.push(partition);
            }
        }
        for (partition, lease) in (0..).map(Partition).zip(&mut self.partitions) {
            if owned.len() >= share {
                break;
            }
            if lease.is_none_or(|lease| lease.until <= now) {
                *lease = Some(Lease { owner: relay, until });
                owned.push(partition);
            }
        }
        owned.sort_unstable();
        Membership { owned, share, relays, partitions, joined }
    }

    pub(super) fn release(&mut self, relay: RelayId, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(lease) = self.partitions.get_mut(usize::from(partition.0))
                && lease.is_some_and(|lease| lease.owner == relay)
            {
                *lease = None;
            }
        }
    }

    pub(super) fn leave(&mut self, relay: RelayId) {
        self.relays.remove(&relay);
        for lease in &mut self.partitions {
            if lease.is_some_and(|lease| lease.owner == relay) {
                *lease = None;
            }
        }
    }

    /// Whether nobody else has taken the partition since `relay` did, even if its lease has run out meanwhile.
    pub(super) fn is_owner(&self, relay: RelayId, partition: Partition) -> bool {
        self.partitions
            .get(usize::from(partition.0))
            .is_some_and(|lease| lease.is_some_and(|lease| lease.owner == relay))
    }

    pub(super) fn set_idle(&mut self, relay: RelayId, idle: bool) {
        if let Some(known) = self.relays.get_mut(&relay) {
            known.idle = idle;
        }
    }

    /// Who is alive, and who holds what.
    pub(super) fn group(&self, now: Timestamp) -> Group {
        let alive = self.relays.iter().filter(|(_, relay)| relay.until > now).map(|(id, _)| *id).collect();
        let owner = |lease: &Option<Lease>| lease.filter(|lease| lease.until > now).map(|lease| lease.owner);
        Group::new(alive, (0..).map(Partition).zip(self.partitions.iter().map(owner)).collect())
    }

    pub(super) fn idle_relays(&self, now: Timestamp) -> Vec<RelayId> {
        self.relays.iter().filter(|(_, relay)| relay.idle && relay.until > now).map(|(id, _)| *id).collect()
    }
}
