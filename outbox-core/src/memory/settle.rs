//! What settling does to the rows: the reference for the rules of blocking and releasing.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::store::{Partition, Position, RelayId, Settle, Settlement};
use crate::time::Timestamp;

use super::slice::{RELEASE_CHUNK, RowState};
use super::state::{DeadRow, State};

impl State {
    pub(super) fn settle(&mut self, relay: RelayId, batch: &[Settle], keep_delivered: bool, now: Timestamp) {
        // Delivered comes last, so that a message that is held and whose predecessor is delivered in one call is
        // released by it. Blocking comes before holding for the same reason.
        let mut freed = BTreeSet::new();
        // The others concern rows that are gone, or whose position another message has by now.
        let batch: Vec<&Settle> = batch.iter().filter(|settle| self.has(settle)).collect();
        for settle in &batch {
            let Settle { position, partition, settlement, .. } = settle;
            if let Settlement::Retry { after, attempts, error, block_key } = settlement
                && self.leases.is_owner(relay, *partition)
            {
                self.retry(*partition, *position, now.saturating_add(*after), *block_key, &mut freed);
                self.note(*partition, *position, *attempts, error);
            }
        }
        for Settle { position, partition, settlement, .. } in &batch {
            if *settlement == Settlement::Held && self.leases.is_owner(relay, *partition) {
                self.hold(*partition, *position, now);
            }
        }
        for settle in &batch {
            let Settle { position, partition, settlement, .. } = settle;
            if let Settlement::Dead { attempts, error, block_key } = settlement
                && self.leases.is_owner(relay, *partition)
            {
                self.note(*partition, *position, *attempts, error);
                self.bury(*partition, *position, error, *block_key, now, &mut freed);
            }
        }
        for Settle { position, partition, settlement, .. } in &batch {
            if *settlement == Settlement::Delivered {
                self.deliver(*partition, *position, keep_delivered, now, &mut freed);
            }
        }
        for (partition, key) in freed {
            if let Some(slice) = self.slice_mut(partition) {
                slice.release(&key, now, RELEASE_CHUNK);
            }
        }
    }

    fn has(&self, settle: &Settle) -> bool {
        let slice = self.slices.get(usize::from(settle.partition.0));
        slice.is_some_and(|slice| slice.has(settle.row()))
    }

    fn note(&mut self, partition: Partition, position: Position, attempts: u32, error: &str) {
        if let Some(row) = self.slice_mut(partition).and_then(|slice| slice.row_mut(position)) {
            row.attempts = attempts;
            row.last_error = Some(error.to_owned());
        }
    }

    fn retry(
        &mut self,
        partition: Partition,
        position: Position,
        at: Timestamp,
        block_key: bool,
        freed: &mut BTreeSet<(Partition, String)>,
    ) {
        let Some(slice) = self.slice_mut(partition) else { return };
        let Some(row) = slice.row(position) else { return };
        let blocked_before = row.state.blocks();
        let key = row.key().map(str::to_owned);
        match key {
            Some(key) if block_key => {
                // A message behind a blocked one does not become due on its own, not even for its retry.
                let state = if slice.is_blocked(Some(&key), position) {
                    RowState::Held { not_before: Some(at) }
                } else {
                    RowState::Retrying { at, blocks: true }
                };
                slice.set_state(position, state);
                slice.hold_later(&key, position);
            }
            key => {
                slice.set_state(position, RowState::Retrying { at, blocks: false });
                if let (true, Some(key)) = (blocked_before, key) {
                    freed.insert((partition, key));
                }
            }
        }
    }

    fn hold(&mut self, partition: Partition, position: Position, now: Timestamp) {
        let Some(slice) = self.slice_mut(partition) else { return };
        let Some(row) = slice.row(position) else { return };
        let key = row.key().map(str::to_owned);
        let state = match &key {
            Some(_) if slice.is_blocked(key.as_deref(), position) => RowState::Held { not_before: None },
            Some(_) => RowState::Released,
            None => RowState::Retrying { at: now, blocks: false },
        };
        slice.set_state(position, state);
        // What was due behind it, having been released with it or held for nothing in its turn, would come before it.
        if let Some(key) = key {
            slice.hold_later(&key, position);
        }
    }

    fn bury(
        &mut self,
        partition: Partition,
        position: Position,
        error: &str,
        block_key: bool,
        now: Timestamp,
        freed: &mut BTreeSet<(Partition, String)>,
    ) {
        let Some(slice) = self.slice_mut(partition) else { return };
        let Some(row) = slice.remove(position) else { return };
        let blocks_key = block_key && row.key().is_some();
        if let Some(key) = row.key() {
            if blocks_key {
                slice.block_by_dead_letter(key, (position, row.serial));
                slice.hold_later(key, position);
            } else if row.state.blocks() {
                freed.insert((partition, key.to_owned()));
            }
        }
        let place = (position, row.serial);
        let dead = DeadRow { row, partition, error: error.to_owned(), blocks_key, died_at: now };
        self.dead.insert(place, dead);
    }

    fn deliver(
        &mut self,
        partition: Partition,
        position: Position,
        keep: bool,
        now: Timestamp,
        freed: &mut BTreeSet<(Partition, String)>,
    ) {
        let Some(row) = self.slice_mut(partition).and_then(|slice| slice.remove(position)) else { return };
        if row.state.blocks()
            && let Some(key) = row.key()
        {
            freed.insert((partition, key.to_owned()));
        }
        if keep {
            self.delivered.insert((now, position, row.serial), row.content);
        }
    }

    pub(super) fn purge(&mut self, older_than: Duration, limit: usize, now: Timestamp) -> u64 {
        let before = now.saturating_sub(older_than);
        let old: Vec<_> = self
            .delivered
            .range(..=(before, Position(i64::MAX), i64::MAX))
            .take(limit)
            .map(|(delivered, _)| *delivered)
            .collect();
        for delivered in &old {
            self.delivered.remove(delivered);
        }
        old.len() as u64
    }

    pub(super) fn repair(
        &mut self,
        relay: RelayId,
        partitions: &[Partition],
        limit: usize,
        now: Timestamp,
    ) -> u64 {
        let mut repaired = 0;
        for partition in partitions {
            if !self.leases.is_owner(relay, *partition) {
                continue;
            }
            let Some(slice) = self.slice_mut(*partition) else { continue };
            for key in slice.stuck_keys() {
                let left = limit.saturating_sub(usize::try_from(repaired).unwrap_or(usize::MAX));
                if left == 0 {
                    return repaired;
                }
                repaired += slice.release(&key, now, left);
            }
        }
        repaired
    }
}
