//! Stores that break one rule each of leasing, settling, looking after dead letters, or operating.

mod dead_letters;
mod wakeups;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::StoreHarness;
use outbox_core::memory::MemoryStore;
use outbox_core::{
    Content, DeadLetterFilter, DeadLetters, Error, ErrorKind, FetchLimit, Membership, Partition, Position,
    Reader, RelayId, Result, Settle, Settlement, Stats, Store, Wakeups,
};

use wakeups::{Forgetful, Noisy, Silent};

use crate::Found;
use crate::support::MemoryHarness;

/// Longer than any case takes.
const FOREVER: Duration = Duration::from_secs(1_000_000);

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    // Settling.
    KeepsDeliveredRows,
    RefusesUnknownRows,
    RefusesRepeatedCalls,
    IgnoresStrangersDeliveries,
    FencesNobody,
    FencesNoFormerOwner,
    AddsAttempts,
    LosesLargeBatches,
    KeepsNothing,
    KeepsEverything,
    PurgesTheYoung,
    PurgesWithoutLimit,
    RetriesTooEarly,
    // Identifying.
    SettlesByPosition,
    BuriesOverDeadLetters,
    RedrivesOverMessages,
    RedrivesBehindMessages,
    // Blocking.
    IgnoresHolds,
    NeverReleases,
    ReleasesOneChunk,
    ReleasesEverything,
    HoldsBehindNothing,
    LetsHeldOvertake,
    HoldsBlindlyBesideDeliveries,
    DoesNotHoldAgain,
    LetsFailuresOvertake,
    RetriesBlockNothing,
    RetriesAlwaysBlock,
    DeadBlockNothing,
    DeadAlwaysBlock,
    UnkeyedMessagesCannotDie,
    // Dead letters.
    HasNoDeadLetters,
    ListsNoMessages,
    ListsShortErrors,
    ListsWithoutLimit,
    ListsFromTheStart,
    FiltersNoIds,
    FiltersNoTopics,
    FiltersNoKeys,
    FiltersNoErrors,
    FiltersNoPositions,
    FiltersNoAges,
    RedrivesToTheEnd,
    RedrivesAtTheirPeril,
    RedrivesWithoutLimit,
    CountsRedrivesOnly,
    DiscardsNothing,
    DiscardsWithoutRelease,
    DiscardsWithoutLimit,
    ForbidsMalformedToDie,
    // Repairing.
    RepairsNothing,
    ClaimsToRepair,
    RepairsWithoutLimit,
    RepairsForStrangers,
    // Leases.
    OwnsLittle,
    OwnsTooMuch,
    StealsLeases,
    DoesNotExtendLeases,
    LeasesNeverEnd,
    LeasesEndEarly,
    IgnoresReleases,
    ReleasesForStrangers,
    IgnoresLeaving,
    SharesUnevenly,
    SharesNothing,
    CountsOneRelay,
    HandsOutTwice,
    // Operating.
    CountsNoDeadLetters,
    CountsNoBacklog,
    CountsWithoutLimit,
    NeverSaysAtLeast,
    HasNoLag,
    HasConstantLag,
    HasNoWakeups,
    GivesNoHints,
    GivesHintsOnOneHandleOnly,
    GivesHintsWithoutEnd,
    LosesHintsBetweenWaits,
    HasManyNames,
}

const DEFECTS: &[(Defect, &str)] = &[
    (Defect::KeepsDeliveredRows, "settling::delivered_messages_are_gone"),
    (Defect::RefusesUnknownRows, "settling::unknown_rows_are_ignored"),
    (Defect::RefusesRepeatedCalls, "settling::settling_twice_does_no_harm"),
    (Defect::IgnoresStrangersDeliveries, "settling::anybody_may_settle_delivered"),
    (Defect::FencesNobody, "settling::strangers_settle_nothing_else"),
    (Defect::FencesNoFormerOwner, "settling::former_owners_settle_nothing_else"),
    (Defect::AddsAttempts, "settling::attempts_are_absolute"),
    (Defect::LosesLargeBatches, "settling::large_batches_are_settled"),
    (Defect::SettlesByPosition, "identifying::settling_leaves_another_message_alone"),
    (Defect::BuriesOverDeadLetters, "identifying::dead_letters_of_one_position_are_kept_apart"),
    (Defect::RedrivesOverMessages, "identifying::redriving_leaves_another_message_alone"),
    (Defect::RedrivesBehindMessages, "identifying::redriving_leaves_another_message_alone"),
    (Defect::KeepsNothing, "settling::kept_messages_are_purged_by_age"),
    (Defect::KeepsEverything, "settling::messages_are_kept_only_if_asked"),
    (Defect::PurgesTheYoung, "settling::kept_messages_are_purged_by_age"),
    (Defect::PurgesWithoutLimit, "settling::kept_messages_are_purged_by_age"),
    (Defect::RetriesTooEarly, "due::retries_wait_for_their_time"),
    (Defect::IgnoresHolds, "blocking::held_messages_follow_in_order"),
    (Defect::IgnoresHolds, "blocking::holding_a_due_message_holds_what_is_due_behind_it"),
    (Defect::NeverReleases, "blocking::held_messages_follow_in_order"),
    (Defect::ReleasesOneChunk, "blocking::many_held_messages_all_follow"),
    (Defect::HoldsBehindNothing, "blocking::holding_behind_nothing_is_due_at_once"),
    (Defect::LetsHeldOvertake, "blocking::holding_behind_nothing_keeps_the_order"),
    (Defect::HoldsBehindNothing, "blocking::a_parked_key_goes_on_in_order"),
    (Defect::ReleasesEverything, "blocking::few_messages_of_a_key_are_due_at_a_time"),
    (Defect::HoldsBlindlyBesideDeliveries, "blocking::holding_and_delivering_in_one_call_releases"),
    (Defect::DoesNotHoldAgain, "blocking::a_released_message_that_fails_blocks_again"),
    (Defect::LetsFailuresOvertake, "blocking::a_failure_behind_a_failure_waits"),
    (Defect::RetriesBlockNothing, "blocking::a_retrying_message_blocks_its_key"),
    (Defect::RetriesAlwaysBlock, "blocking::a_retry_can_leave_its_key_free"),
    (Defect::RetriesAlwaysBlock, "blocking::a_retry_can_set_its_key_free"),
    (Defect::DeadBlockNothing, "blocking::a_dead_message_can_block_its_key"),
    (Defect::DeadAlwaysBlock, "blocking::a_dead_message_can_free_its_key"),
    (Defect::UnkeyedMessagesCannotDie, "dead_letters::dead_messages_are_listed"),
    (Defect::HasNoDeadLetters, "dead_letters::without_administration_there_is_none"),
    (Defect::ListsNoMessages, "dead_letters::dead_messages_are_listed"),
    (Defect::ListsShortErrors, "dead_letters::dead_messages_are_listed"),
    (Defect::ListsWithoutLimit, "dead_letters::listing_is_paged"),
    (Defect::ListsFromTheStart, "dead_letters::listing_is_paged"),
    (Defect::FiltersNoIds, "dead_letters::listing_is_filtered"),
    (Defect::FiltersNoTopics, "dead_letters::listing_is_filtered"),
    (Defect::FiltersNoKeys, "dead_letters::listing_is_filtered"),
    (Defect::FiltersNoErrors, "dead_letters::listing_is_filtered"),
    (Defect::FiltersNoPositions, "dead_letters::listing_is_filtered"),
    (Defect::FiltersNoAges, "dead_letters::listing_is_filtered"),
    (Defect::RedrivesToTheEnd, "dead_letters::redriven_messages_come_again"),
    (Defect::RedrivesToTheEnd, "dead_letters::redriving_keeps_the_order"),
    (Defect::RedrivesAtTheirPeril, "dead_letters::redriving_behind_a_dead_letter_waits"),
    (Defect::RedrivesWithoutLimit, "dead_letters::redriving_selects"),
    (Defect::CountsRedrivesOnly, "dead_letters::redriven_messages_come_again"),
    (Defect::DiscardsNothing, "dead_letters::discarded_messages_free_their_key"),
    (Defect::DiscardsWithoutRelease, "dead_letters::discarded_messages_free_their_key"),
    (Defect::DiscardsWithoutLimit, "dead_letters::discarded_messages_free_their_key"),
    (Defect::ForbidsMalformedToDie, "dead_letters::malformed_rows_can_die"),
    (Defect::RepairsNothing, "repairing::a_deleted_retry_is_repaired"),
    (Defect::RepairsNothing, "repairing::a_deleted_dead_letter_is_repaired"),
    (Defect::ClaimsToRepair, "repairing::nothing_healthy_is_repaired"),
    (Defect::RepairsWithoutLimit, "repairing::repairs_are_bounded"),
    (Defect::RepairsForStrangers, "repairing::a_deleted_retry_is_repaired"),
    (Defect::OwnsLittle, "leasing::one_relay_owns_everything"),
    (Defect::OwnsTooMuch, "leasing::concurrent_heartbeats_never_share_a_partition"),
    (Defect::StealsLeases, "leasing::live_leases_are_not_taken"),
    (Defect::DoesNotExtendLeases, "leasing::heartbeats_extend_leases"),
    (Defect::LeasesNeverEnd, "leasing::expired_leases_are_taken"),
    (Defect::LeasesEndEarly, "leasing::expired_leases_are_taken"),
    (Defect::IgnoresReleases, "leasing::released_partitions_are_free_at_once"),
    (Defect::ReleasesForStrangers, "leasing::strangers_release_nothing"),
    (Defect::IgnoresLeaving, "leasing::leaving_frees_everything"),
    (Defect::SharesUnevenly, "leasing::shares_differ_by_one_at_most"),
    (Defect::SharesNothing, "leasing::two_relays_share"),
    (Defect::CountsOneRelay, "leasing::two_relays_share"),
    (Defect::HandsOutTwice, "leasing::live_leases_are_not_taken"),
    (Defect::CountsNoDeadLetters, "operating::stats_count"),
    (Defect::CountsNoBacklog, "operating::an_outbox_is_drained_when_all_is_delivered"),
    (Defect::CountsWithoutLimit, "operating::stats_stop_counting"),
    (Defect::NeverSaysAtLeast, "operating::stats_stop_counting"),
    (Defect::HasNoLag, "operating::lag_is_the_age_of_the_oldest"),
    (Defect::HasConstantLag, "operating::lag_is_the_age_of_the_oldest"),
    (Defect::HasNoWakeups, "operating::wakeups_follow_commits"),
    (Defect::GivesNoHints, "operating::wakeups_follow_commits"),
    (Defect::GivesHintsOnOneHandleOnly, "operating::wakeups_follow_every_handle"),
    (Defect::GivesHintsWithoutEnd, "operating::wakeups_follow_commits"),
    (Defect::LosesHintsBetweenWaits, "operating::waiting_for_hints_can_be_dropped"),
    (Defect::HasManyNames, "operating::names_are_stable"),
];

pub(crate) fn all() -> Vec<Found<dyn StoreHarness>> {
    let found = |(defect, case): &(Defect, &'static str)| -> Found<dyn StoreHarness> {
        let defect = *defect;
        let mut harness = MemoryHarness::new(Arc::new(move || {
            let notes: Arc<Mutex<Notes>> = Arc::default();
            let handles = AtomicUsize::new(0);
            Box::new(move |inner| {
                let handle = handles.fetch_add(1, Ordering::Relaxed);
                Arc::new(Broken { inner, defect, handle, notes: notes.clone() })
            })
        }));
        harness.traits = crate::impatient();
        (format!("{defect:?}"), case, Arc::new(harness))
    };
    DEFECTS.iter().map(found).collect()
}

/// What the handles of one outbox know together.
#[derive(Default)]
struct Notes {
    owners: BTreeMap<Partition, RelayId>,
    former: BTreeSet<RelayId>,
    memberships: BTreeMap<RelayId, Membership>,
    settled: BTreeSet<Position>,
    retried: BTreeMap<Position, u32>,
}

struct Broken {
    inner: MemoryStore,
    defect: Defect,
    /// Which handle of the outbox it is.
    handle: usize,
    notes: Arc<Mutex<Notes>>,
}

impl Broken {
    /// Settles for whoever owns the partition.
    async fn settle_for_owners(&self, batch: &[Settle], keep: bool) -> Result<()> {
        for settle in batch {
            let owner = self.notes.lock().unwrap().owners.get(&settle.partition).copied();
            self.inner.settle(owner.unwrap_or_default(), std::slice::from_ref(settle), keep).await?;
        }
        Ok(())
    }

    /// Settles whatever is at the positions now.
    async fn take_for_the_same(&self, batch: &mut [Settle]) -> Result<()> {
        let mut reader = self.inner.reader();
        for settle in batch.iter() {
            reader.assign(settle.partition);
        }
        let everything = FetchLimit { messages: usize::MAX, bytes: usize::MAX };
        for row in reader.fetch(everything, &[]).await?.rows {
            for settle in batch.iter_mut().filter(|settle| settle.position == row.position) {
                settle.identity = row.identity;
            }
        }
        Ok(())
    }

    async fn forget_dead_letters_at(&self, batch: &[Settle]) -> Result<()> {
        let dies = |settle: &&Settle| matches!(settle.settlement, Settlement::Dead { .. });
        let filter =
            DeadLetterFilter::all().positions(batch.iter().filter(dies).map(|settle| settle.position));
        self.inner.discard(&filter, usize::MAX).await.map(|_| ())
    }

    fn spoil(&self, relay: RelayId, batch: &mut Vec<Settle>) -> Result<()> {
        let mut notes = self.notes.lock().unwrap();
        let (delivers, retries) = (
            batch.iter().any(|settle| settle.settlement == Settlement::Delivered),
            batch.iter().any(|settle| matches!(settle.settlement, Settlement::Retry { .. })),
        );
        let undelivered: BTreeMap<Position, Content> = match self.defect {
            Defect::RefusesUnknownRows | Defect::UnkeyedMessagesCannotDie | Defect::ForbidsMalformedToDie => {
                self.inner.undelivered().into_iter().collect()
            }
            _ => BTreeMap::new(),
        };
        let stuck =
            Settlement::Retry { after: FOREVER, attempts: 0, error: "stuck".to_owned(), block_key: true };
        let mut held = 0;
        for settle in batch.iter_mut() {
            let position = settle.position;
            let known = notes.retried.get(&position).copied();
            match (self.defect, &mut settle.settlement) {
                (Defect::RefusesUnknownRows, _) if !undelivered.contains_key(&position) => {
                    return Err(Error::new(ErrorKind::NotFound, "there is no such row"));
                }
                (Defect::RefusesRepeatedCalls, Settlement::Delivered) if !notes.settled.insert(position) => {
                    return Err(Error::new(ErrorKind::Conflict, "the row is settled"));
                }
                (Defect::AddsAttempts, Settlement::Retry { attempts, .. }) => {
                    *attempts = known.unwrap_or(0) + 1;
                    notes.retried.insert(position, *attempts);
                }
                (Defect::RetriesTooEarly, Settlement::Retry { after, .. }) => *after /= 4,
                (Defect::NeverReleases, settlement @ Settlement::Held) => *settlement = stuck.clone(),
                (Defect::ReleasesOneChunk, settlement @ Settlement::Held) => {
                    held += 1;
                    if held > 256 {
                        *settlement = stuck.clone();
                    }
                }
                (Defect::ReleasesEverything, settlement @ Settlement::Held) => {
                    let (after, error) = (Duration::ZERO, "free".to_owned());
                    *settlement = Settlement::Retry { after, attempts: 0, error, block_key: false };
                }
                (Defect::HoldsBehindNothing, settlement @ Settlement::Held) if !retries && !delivers => {
                    *settlement = stuck.clone();
                }
                (Defect::LetsHeldOvertake, Settlement::Retry { .. } | Settlement::Dead { .. }) => {
                    notes.retried.insert(position, 1);
                }
                (Defect::LetsHeldOvertake, settlement @ Settlement::Held) if notes.retried.is_empty() => {
                    // Behind nothing, each is free by itself, in the order in which they were held.
                    let before = notes.settled.len() as u32;
                    notes.settled.insert(position);
                    let (after, error) = (Duration::from_millis(200) * before, "free".to_owned());
                    *settlement = Settlement::Retry { after, attempts: 0, error, block_key: false };
                }
                (Defect::HoldsBlindlyBesideDeliveries, settlement @ Settlement::Held) if delivers => {
                    *settlement = stuck.clone();
                }
                (Defect::DoesNotHoldAgain, Settlement::Retry { block_key, .. }) => {
                    // Only what failed first blocks.
                    *block_key = notes.retried.is_empty() || known.is_some();
                    notes.retried.insert(position, 1);
                }
                (Defect::LetsFailuresOvertake, Settlement::Retry { after, block_key, .. }) => {
                    *block_key = !after.is_zero();
                }
                (Defect::RetriesBlockNothing, Settlement::Retry { block_key, .. })
                | (Defect::DeadBlockNothing, Settlement::Dead { block_key, .. }) => *block_key = false,
                (Defect::RetriesAlwaysBlock, Settlement::Retry { block_key, .. })
                | (Defect::DeadAlwaysBlock, Settlement::Dead { block_key, .. }) => *block_key = true,
                _ => {}
            }
        }
        let owner = |partition| notes.owners.get(&partition) == Some(&relay);
        batch.retain(|settle| match (self.defect, &settle.settlement) {
            (Defect::KeepsDeliveredRows, Settlement::Delivered) => false,
            (Defect::IgnoresStrangersDeliveries, Settlement::Delivered) => owner(settle.partition),
            (Defect::IgnoresHolds, Settlement::Held) => false,
            (Defect::UnkeyedMessagesCannotDie, Settlement::Dead { .. }) => {
                match undelivered.get(&settle.position) {
                    Some(Content::Message(message)) => message.key().is_some(),
                    _ => true,
                }
            }
            (Defect::ForbidsMalformedToDie, Settlement::Dead { .. }) => {
                !matches!(undelivered.get(&settle.position), Some(Content::Malformed { .. }))
            }
            _ => true,
        });
        if self.defect == Defect::LosesLargeBatches {
            batch.truncate(1000);
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Broken {
    fn name(&self) -> &'static str {
        match (self.defect, self.handle) {
            (Defect::HasManyNames, 1..) => "other",
            _ => self.inner.name(),
        }
    }

    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        let known = self.notes.lock().unwrap().memberships.get(&relay).cloned();
        let known = known.filter(|known| !known.owned.is_empty());
        if let (Defect::DoesNotExtendLeases, Some(known)) = (self.defect, known) {
            return Ok(known);
        }
        let ttl = match self.defect {
            Defect::LeasesNeverEnd => FOREVER,
            Defect::LeasesEndEarly => ttl / 4,
            _ => ttl,
        };
        let mut membership = self.inner.heartbeat(relay, ttl).await?;
        let all = membership.partitions;
        match self.defect {
            Defect::OwnsLittle => {
                let first = membership.owned.iter().position(|partition| *partition == Partition(0));
                if let (Some(first), true) = (first, membership.relays == 1) {
                    let _ = membership.owned.remove(first);
                }
            }
            Defect::OwnsTooMuch if membership.relays > 4 => {
                let own = |partition: &Partition| membership.owned.contains(partition);
                let extra = (0..all as u16).map(Partition).find(|partition| !own(partition));
                membership.owned.extend(extra);
            }
            Defect::StealsLeases if membership.owned.is_empty() => {
                let owner = self.notes.lock().unwrap().owners.get(&Partition(0)).copied();
                self.inner.release(owner.unwrap_or_default(), &[Partition(0)]).await?;
                membership = self.inner.heartbeat(relay, ttl).await?;
            }
            Defect::HandsOutTwice if membership.owned.is_empty() => {
                membership.owned = vec![Partition(0)];
            }
            Defect::SharesUnevenly if membership.relays > 2 => {
                membership.share = membership.share.saturating_add(2).min(all);
            }
            Defect::SharesNothing => membership.share = all,
            Defect::CountsOneRelay => membership.relays = 1,
            _ => {}
        }
        let mut notes = self.notes.lock().unwrap();
        for partition in &membership.owned {
            notes.owners.insert(*partition, relay);
            notes.former.insert(relay);
        }
        notes.memberships.insert(relay, membership.clone());
        Ok(membership)
    }

    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        match self.defect {
            Defect::IgnoresReleases => Ok(()),
            Defect::ReleasesForStrangers => {
                let owners = self.notes.lock().unwrap().owners.clone();
                for partition in partitions {
                    let owner = owners.get(partition).copied().unwrap_or_default();
                    self.inner.release(owner, &[*partition]).await?;
                }
                Ok(())
            }
            _ => self.inner.release(relay, partitions).await,
        }
    }

    async fn leave(&self, relay: RelayId) -> Result<()> {
        if self.defect == Defect::IgnoresLeaving { Ok(()) } else { self.inner.leave(relay).await }
    }

    fn reader(&self) -> Box<dyn Reader> {
        self.inner.reader()
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        let mut batch = batch.to_vec();
        self.spoil(relay, &mut batch)?;
        match self.defect {
            Defect::SettlesByPosition => self.take_for_the_same(&mut batch).await?,
            Defect::BuriesOverDeadLetters => self.forget_dead_letters_at(&batch).await?,
            _ => {}
        }
        let keep = match self.defect {
            Defect::KeepsNothing => false,
            Defect::KeepsEverything => true,
            _ => keep_delivered,
        };
        let former = self.notes.lock().unwrap().former.contains(&relay);
        match self.defect {
            Defect::FencesNobody => self.settle_for_owners(&batch, keep).await,
            Defect::FencesNoFormerOwner if former => self.settle_for_owners(&batch, keep).await,
            _ => self.inner.settle(relay, &batch, keep).await,
        }
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        match self.defect {
            Defect::PurgesTheYoung => self.inner.purge(Duration::ZERO, limit).await,
            Defect::PurgesWithoutLimit => self.inner.purge(older_than, usize::MAX).await,
            _ => self.inner.purge(older_than, limit).await,
        }
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        match self.defect {
            Defect::RepairsNothing => Ok(0),
            Defect::ClaimsToRepair => Ok(self.inner.repair(relay, partitions, limit).await? + 1),
            Defect::RepairsWithoutLimit => self.inner.repair(relay, partitions, usize::MAX).await,
            Defect::RepairsForStrangers => {
                let owner = self.notes.lock().unwrap().owners.values().next().copied();
                self.inner.repair(owner.unwrap_or_default(), partitions, limit).await
            }
            _ => self.inner.repair(relay, partitions, limit).await,
        }
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        let limit = if self.defect == Defect::CountsWithoutLimit { 1 << 40 } else { limit };
        let mut stats = self.inner.stats(limit).await?;
        match self.defect {
            Defect::CountsNoDeadLetters => stats.dead_letters.value = 0,
            Defect::CountsNoBacklog => stats.backlog.value = 0,
            Defect::NeverSaysAtLeast => stats.backlog.at_least = false,
            Defect::HasNoLag => stats.lag = None,
            Defect::HasConstantLag => stats.lag = stats.lag.map(|_| Duration::from_millis(400)),
            _ => {}
        }
        Ok(stats)
    }

    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        let inner = self.inner.wakeups().await?;
        let silent = self.defect == Defect::GivesNoHints
            || self.defect == Defect::GivesHintsOnOneHandleOnly && self.handle > 0;
        Ok(match self.defect {
            Defect::HasNoWakeups => None,
            _ if silent => Some(Box::new(Silent)),
            Defect::GivesHintsWithoutEnd => Some(Box::new(Noisy)),
            Defect::LosesHintsBetweenWaits => Some(Box::new(Forgetful(self.inner.clone()))),
            _ => inner,
        })
    }

    async fn set_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        self.inner.set_idle(relay, idle).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        if self.defect == Defect::HasNoDeadLetters { None } else { Some(self) }
    }
}
