//! Stores whose diagnostics are wrong.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::StoreHarness;
use outbox_core::memory::MemoryStore;
use outbox_core::{
    DeadLetters, Finding, Group, Inspection, Membership, Partition, Position, Reader, RelayId, Result,
    Settle, Stats, Store, Timestamp, Waiting, Wakeups,
};

use crate::Found;
use crate::support::MemoryHarness;

/// The defect of the diagnostics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    ShowsNoOwners,
    ShowsTheDead,
    ForgetsErrors,
    CallsHeldMessagesDue,
    ShowsTooMany,
    BeginsAtTheCursor,
    HidesUnreadableRows,
    ShowsOpenTransactions,
    TakesWhatItShows,
    StopsTheClock,
    FindsAProblem,
}

const DEFECTS: &[(Defect, &str)] = &[
    (Defect::ShowsNoOwners, "inspecting::the_group_is_shown_as_it_is"),
    (Defect::ShowsTheDead, "inspecting::the_group_is_shown_as_it_is"),
    (Defect::ForgetsErrors, "inspecting::waiting_messages_are_shown_with_their_state"),
    (Defect::CallsHeldMessagesDue, "inspecting::waiting_messages_are_shown_with_their_state"),
    (Defect::ShowsTooMany, "inspecting::waiting_messages_are_shown_page_by_page"),
    (Defect::BeginsAtTheCursor, "inspecting::waiting_messages_are_shown_page_by_page"),
    (Defect::HidesUnreadableRows, "inspecting::unreadable_messages_are_shown_as_far_as_they_go"),
    (Defect::ShowsOpenTransactions, "inspecting::open_transactions_are_not_shown"),
    (Defect::TakesWhatItShows, "inspecting::looking_changes_nothing"),
    (Defect::StopsTheClock, "inspecting::the_clock_is_the_database_s"),
    (Defect::FindsAProblem, "inspecting::a_new_outbox_has_no_problem"),
];

pub(crate) fn all() -> Vec<Found<dyn StoreHarness>> {
    let found = |(defect, case): &(Defect, &'static str)| -> Found<dyn StoreHarness> {
        let defect = *defect;
        let mut harness = MemoryHarness::new(Arc::new(move || {
            // When the first handle was created.
            let began = OnceLock::new();
            Box::new(move |inner: MemoryStore| {
                let began = *began.get_or_init(|| inner.now());
                Arc::new(Broken { inner, defect, began })
            })
        }));
        harness.traits = crate::impatient();
        (format!("{defect:?}"), case, Arc::new(harness))
    };
    DEFECTS.iter().map(found).collect()
}

struct Broken {
    inner: MemoryStore,
    defect: Defect,
    began: Timestamp,
}

#[async_trait]
impl Inspection for Broken {
    async fn group(&self) -> Result<Option<Group>> {
        let mut group = Inspection::group(&self.inner).await?.unwrap_or_default();
        match self.defect {
            Defect::ShowsNoOwners => group.partitions.iter_mut().for_each(|(_, owner)| *owner = None),
            Defect::ShowsTheDead => group.relays.push(RelayId::new()),
            _ => {}
        }
        Ok(Some(group))
    }

    async fn peek(&self, after: Option<Position>, limit: usize) -> Result<Option<Vec<Waiting>>> {
        let after = match (self.defect, after) {
            (Defect::BeginsAtTheCursor, Some(Position(after))) => Some(Position(after - 1)),
            (_, after) => after,
        };
        let limit = if self.defect == Defect::ShowsTooMany { limit + 1 } else { limit };
        let mut found = self.inner.peek(after, limit).await?.unwrap_or_default();
        match self.defect {
            Defect::ForgetsErrors => found.iter_mut().for_each(|row| row.error = None),
            Defect::CallsHeldMessagesDue => {
                let held = found.iter_mut().filter(|row| row.attempts == 0 && row.blocks_key);
                held.for_each(|row| row.available_at = Some(self.began));
            }
            Defect::HidesUnreadableRows => found.retain(|row| row.message.is_some()),
            Defect::ShowsOpenTransactions => {
                // A position that was drawn and whose row is not committed.
                let first = found.first().map(|row| (row.position.0, row.partition));
                if let Some((position, partition)) = first.filter(|(position, _)| *position > 1) {
                    found.insert(0, Waiting::new(Position(position - 1), partition, self.began));
                }
            }
            Defect::TakesWhatItShows => {
                for id in found.iter().filter_map(|row| row.id) {
                    self.inner.delete_by_hand(id);
                }
            }
            _ => {}
        }
        Ok(Some(found))
    }

    async fn clock(&self) -> Result<Option<Timestamp>> {
        Ok(Some(if self.defect == Defect::StopsTheClock { self.began } else { self.inner.now() }))
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        match self.defect {
            Defect::FindsAProblem => Ok(vec![Finding::problem("everything", "is wrong", "start anew")]),
            _ => self.inner.diagnose().await,
        }
    }
}

#[async_trait]
impl Store for Broken {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        self.inner.heartbeat(relay, ttl).await
    }

    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        self.inner.release(relay, partitions).await
    }

    async fn leave(&self, relay: RelayId) -> Result<()> {
        self.inner.leave(relay).await
    }

    fn reader(&self) -> Box<dyn Reader> {
        self.inner.reader()
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        self.inner.settle(relay, batch, keep_delivered).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.inner.purge(older_than, limit).await
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        self.inner.repair(relay, partitions, limit).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        self.inner.stats(limit).await
    }

    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        self.inner.wakeups().await
    }

    async fn set_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        self.inner.set_idle(relay, idle).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.inner.dead_letters()
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        Some(self)
    }
}
