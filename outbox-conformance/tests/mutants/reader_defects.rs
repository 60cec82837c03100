//! Readers that break one rule each.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::StoreHarness;
use outbox_core::memory::MemoryStore;
use outbox_core::{
    Batch, Content, DeadLetters, FetchLimit, Fetched, Membership, Partition, Position, Reader, RelayId,
    Result, RowId, Settle, Settlement, Stats, Store, Timestamp, Wakeups,
};

use crate::Found;
use crate::support::MemoryHarness;

/// The defect of the reader.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    SkipsLateRows,
    BringsLateRowsLast,
    RepeatsReadyRows,
    ReversesRows,
    ShufflesKeys,
    IgnoresTheLimitOfMessages,
    IgnoresTheLimitOfBytes,
    SkipsOversizedRows,
    AlwaysHasMore,
    NeverHasMore,
    LosesRowsWhenDropped,
    LosesRowsOnErrors,
    GoesOnWhereItWasAssignedBefore,
    ReadsEverything,
    KeepsRevokedPartitions,
    SharesItsPlaceWithOthers,
    BlocksNothing,
    BlocksOtherKeys,
    FoldsKeys,
    BlocksRowsInFront,
    BlocksNoDueRows,
    BringsReadyRowsLast,
    ForgetsThatRowsAreDue,
    IgnoresWhatIsInFlight,
    BringsDueRowsOnce,
    NeverTellsTheNextDueTime,
    AlwaysTellsADueTime,
    HidesDueRowsThatDidNotFit,
    HasNoAge,
    MakesUpTheTimeOfEnqueueing,
    PutsEverythingIntoOnePartition,
    PutsAKeyIntoSeveralPartitions,
    HidesMalformedRows,
    GivesNoReasons,
    CountsNoAttempts,
    ForgetsBlocksWhenARelayLeaves,
}

const DEFECTS: &[(Defect, &str)] = &[
    (Defect::SkipsLateRows, "reading::late_commits_are_delivered"),
    (Defect::BringsLateRowsLast, "reading::late_commits_come_before_later_rows_of_their_key"),
    (Defect::BringsLateRowsLast, "reading::random_interleavings_lose_nothing"),
    (Defect::RepeatsReadyRows, "reading::each_ready_row_comes_once"),
    (Defect::RepeatsReadyRows, "reading::reading_and_settling_at_once_loses_nothing"),
    (Defect::ReversesRows, "reading::rows_of_a_key_come_in_position_order"),
    (Defect::ShufflesKeys, "enqueueing::positions_grow_in_enqueue_order"),
    (Defect::IgnoresTheLimitOfMessages, "reading::the_limit_of_messages_is_kept"),
    (Defect::IgnoresTheLimitOfBytes, "reading::the_limit_of_bytes_is_kept"),
    (Defect::SkipsOversizedRows, "reading::the_limit_of_bytes_is_kept"),
    (Defect::AlwaysHasMore, "reading::more_is_honest"),
    (Defect::NeverHasMore, "reading::more_is_honest"),
    (Defect::LosesRowsWhenDropped, "reading::dropped_fetches_lose_nothing"),
    (Defect::LosesRowsOnErrors, "reading::broken_connections_lose_nothing"),
    (Defect::GoesOnWhereItWasAssignedBefore, "reading::assigning_again_starts_from_the_beginning"),
    (Defect::ReadsEverything, "reading::only_assigned_partitions_are_read"),
    (Defect::KeepsRevokedPartitions, "reading::only_assigned_partitions_are_read"),
    (Defect::SharesItsPlaceWithOthers, "reading::readers_are_independent"),
    (Defect::BlocksNothing, "blocking::a_retrying_message_blocks_its_key"),
    (Defect::BlocksOtherKeys, "blocking::other_messages_are_not_blocked"),
    (Defect::FoldsKeys, "blocking::keys_are_told_apart_exactly"),
    (Defect::BlocksRowsInFront, "blocking::a_late_row_in_front_is_not_blocked"),
    (Defect::BlocksNoDueRows, "blocking::due_rows_behind_a_blocker_are_blocked"),
    (Defect::BringsReadyRowsLast, "due::a_due_row_waits_for_ready_rows_in_front"),
    (Defect::ForgetsThatRowsAreDue, "due::scheduled_messages_wait_for_their_time"),
    (Defect::IgnoresWhatIsInFlight, "due::rows_in_flight_do_not_come_again"),
    (Defect::BringsDueRowsOnce, "due::rows_in_flight_do_not_come_again"),
    (Defect::NeverTellsTheNextDueTime, "due::the_next_due_time_is_told"),
    (Defect::AlwaysTellsADueTime, "due::the_next_due_time_is_told"),
    (Defect::HidesDueRowsThatDidNotFit, "due::due_rows_keep_the_limits"),
    (Defect::HasNoAge, "enqueueing::rows_know_their_age"),
    (Defect::MakesUpTheTimeOfEnqueueing, "enqueueing::rows_know_their_age"),
    (Defect::PutsEverythingIntoOnePartition, "enqueueing::messages_spread_over_partitions"),
    (Defect::PutsAKeyIntoSeveralPartitions, "enqueueing::a_key_stays_in_its_partition"),
    (Defect::HidesMalformedRows, "dead_letters::malformed_rows_are_told"),
    (Defect::GivesNoReasons, "dead_letters::malformed_rows_are_told"),
    (Defect::CountsNoAttempts, "due::retries_wait_for_their_time"),
    (Defect::ForgetsBlocksWhenARelayLeaves, "blocking::blocks_outlive_the_relay"),
];

pub(crate) fn all() -> Vec<Found<dyn StoreHarness>> {
    let found = |(defect, case): &(Defect, &'static str)| -> Found<dyn StoreHarness> {
        let defect = *defect;
        let mut harness = MemoryHarness::new(Arc::new(move || {
            let notes: Arc<Mutex<Notes>> = Arc::default();
            Box::new(move |inner| Arc::new(Broken { inner, defect, notes: notes.clone() }))
        }));
        harness.traits = crate::impatient();
        (format!("{defect:?}"), case, Arc::new(harness))
    };
    DEFECTS.iter().map(found).collect()
}

/// The shared state of the handles of one outbox.
#[derive(Default)]
struct Notes {
    handed_out: BTreeSet<Position>,
    blocked_keys: BTreeSet<String>,
    keys: std::collections::BTreeMap<Position, String>,
    somebody_left: bool,
}

struct Broken {
    inner: MemoryStore,
    defect: Defect,
    notes: Arc<Mutex<Notes>>,
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
        self.notes.lock().unwrap().somebody_left = true;
        self.inner.leave(relay).await
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(BrokenReader {
            inner: self.inner.reader(),
            defect: self.defect,
            notes: self.notes.clone(),
            assigned: BTreeSet::new(),
            known: BTreeSet::new(),
            highest: Position(i64::MIN),
            kept: Vec::new(),
            seen_due: BTreeSet::new(),
        })
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        {
            let mut notes = self.notes.lock().unwrap();
            for settle in batch {
                let key = notes.keys.get(&settle.position).cloned();
                match (&settle.settlement, key) {
                    (Settlement::Retry { block_key: true, .. }, Some(key)) => {
                        notes.blocked_keys.insert(key);
                    }
                    (Settlement::Delivered, Some(key)) => {
                        notes.blocked_keys.remove(&key);
                    }
                    _ => {}
                }
            }
        }
        // The reader returns wrong partitions; settling must not fail for that reason.
        let mut batch = batch.to_vec();
        if matches!(
            self.defect,
            Defect::PutsEverythingIntoOnePartition | Defect::PutsAKeyIntoSeveralPartitions
        ) {
            let mut everywhere = Vec::new();
            for settle in &batch {
                everywhere.extend((0..16).map(|i| Settle { partition: Partition(i), ..settle.clone() }));
            }
            batch = everywhere;
        }
        self.inner.settle(relay, &batch, keep_delivered).await
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
}

struct BrokenReader {
    inner: Box<dyn Reader>,
    defect: Defect,
    notes: Arc<Mutex<Notes>>,
    assigned: BTreeSet<Partition>,
    /// Partitions that were assigned at any time.
    known: BTreeSet<Partition>,
    highest: Position,
    kept: Vec<Fetched>,
    seen_due: BTreeSet<RowId>,
}

#[async_trait]
impl Reader for BrokenReader {
    fn assign(&mut self, partition: Partition) {
        self.assigned.insert(partition);
        let known = !self.known.insert(partition);
        if self.defect == Defect::GoesOnWhereItWasAssignedBefore && known {
            return;
        }
        if self.defect == Defect::ReadsEverything {
            (0..16).for_each(|i| self.inner.assign(Partition(i)));
        }
        self.inner.assign(partition);
    }

    fn revoke(&mut self, partition: Partition) {
        self.assigned.remove(&partition);
        match self.defect {
            Defect::KeepsRevokedPartitions | Defect::GoesOnWhereItWasAssignedBefore => {}
            _ => self.inner.revoke(partition),
        }
    }

    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        let mut limit = limit;
        let mut in_flight = in_flight.to_vec();
        match self.defect {
            Defect::IgnoresTheLimitOfMessages => limit.messages = usize::MAX,
            Defect::IgnoresTheLimitOfBytes => limit.bytes = usize::MAX,
            Defect::IgnoresWhatIsInFlight => in_flight.clear(),
            Defect::BringsDueRowsOnce => in_flight.extend(&self.seen_due),
            _ => {}
        }
        let mut batch = match self.inner.fetch(limit, &in_flight).await {
            Ok(batch) => batch,
            Err(error) => {
                if self.defect == Defect::LosesRowsOnErrors {
                    self.inner.fetch(limit, &in_flight).await?;
                }
                return Err(error);
            }
        };
        if self.defect == Defect::LosesRowsWhenDropped {
            tokio::task::yield_now().await;
        }
        self.spoil(limit, &mut batch);
        Ok(batch)
    }
}

impl BrokenReader {
    fn spoil(&mut self, limit: FetchLimit, batch: &mut Batch) {
        let mut notes = self.notes.lock().unwrap();
        let rows = &mut batch.rows;
        notes.keys.extend(rows.iter().filter_map(|row| Some((row.position, row.key()?.to_owned()))));
        match self.defect {
            Defect::SkipsLateRows => rows.retain(|row| row.due || row.position > self.highest),
            Defect::BringsLateRowsLast => {
                let (late, fresh): (Vec<_>, Vec<_>) =
                    rows.drain(..).partition(|row| !row.due && row.position < self.highest);
                *rows = if fresh.is_empty() { self.kept.drain(..).collect() } else { fresh };
                self.kept.extend(late);
            }
            Defect::BringsReadyRowsLast => {
                let (due, ready): (Vec<_>, Vec<_>) = rows.drain(..).partition(|row| row.due);
                *rows = if due.is_empty() && ready.is_empty() { self.kept.drain(..).collect() } else { due };
                self.kept.extend(ready);
            }
            Defect::RepeatsReadyRows => {
                let first = rows.iter().find(|row| !row.due).cloned();
                rows.append(&mut self.kept);
                self.kept.extend(first);
            }
            Defect::ReversesRows => rows.reverse(),
            Defect::ShufflesKeys => rows.iter_mut().for_each(|row| row.position.0 ^= 1),
            Defect::SkipsOversizedRows => rows.retain(|row| row.size() <= limit.bytes),
            Defect::AlwaysHasMore => batch.more = true,
            Defect::NeverHasMore => batch.more = false,
            Defect::SharesItsPlaceWithOthers => {
                rows.retain(|row| row.due || notes.handed_out.insert(row.position));
            }
            Defect::BlocksNothing => rows.iter_mut().for_each(|row| row.blocked = false),
            Defect::BlocksOtherKeys => {
                let any = !notes.blocked_keys.is_empty();
                rows.iter_mut().filter(|row| !row.due).for_each(|row| row.blocked |= any);
            }
            Defect::FoldsKeys => {
                let folded = |key: &str| key.trim_end().to_lowercase();
                let blocked: BTreeSet<String> = notes.blocked_keys.iter().map(|key| folded(key)).collect();
                for row in rows.iter_mut().filter(|row| !row.due) {
                    row.blocked |= row.key().is_some_and(|key| blocked.contains(&folded(key)));
                }
            }
            Defect::BlocksRowsInFront => {
                for row in rows.iter_mut().filter(|row| !row.due) {
                    row.blocked |= row.key().is_some_and(|key| notes.blocked_keys.contains(key));
                }
            }
            Defect::BlocksNoDueRows => {
                rows.iter_mut().filter(|row| row.due).for_each(|row| row.blocked = false);
            }
            Defect::ForgetsThatRowsAreDue => rows.iter_mut().for_each(|row| row.due = false),
            Defect::NeverTellsTheNextDueTime => batch.next_due = None,
            Defect::AlwaysTellsADueTime => batch.next_due = Some(Duration::from_secs(1)),
            Defect::HidesDueRowsThatDidNotFit => {
                batch.next_due = batch.next_due.filter(|next| !next.is_zero());
            }
            Defect::HasNoAge => rows.iter_mut().for_each(|row| row.age = Duration::ZERO),
            Defect::MakesUpTheTimeOfEnqueueing => {
                rows.iter_mut().for_each(|row| row.enqueued_at = Timestamp::from_micros(0));
            }
            Defect::PutsEverythingIntoOnePartition => {
                rows.iter_mut().for_each(|row| row.partition = Partition(0));
            }
            Defect::PutsAKeyIntoSeveralPartitions => {
                rows.iter_mut().for_each(|row| row.partition = Partition((row.position.0 % 16) as u16));
            }
            Defect::HidesMalformedRows => {
                rows.retain(|row| matches!(row.content, Content::Message(_)));
            }
            Defect::GivesNoReasons => {
                for row in rows.iter_mut() {
                    if let Content::Malformed { reason, .. } = &mut row.content {
                        reason.clear();
                    }
                }
            }
            Defect::CountsNoAttempts => rows.iter_mut().for_each(|row| row.attempts = 0),
            Defect::ForgetsBlocksWhenARelayLeaves if notes.somebody_left => {
                rows.iter_mut().for_each(|row| row.blocked = false);
            }
            _ => {}
        }
        for row in &batch.rows {
            self.highest = self.highest.max(row.position);
            if row.due {
                self.seen_due.insert(row.row());
            }
        }
    }
}
