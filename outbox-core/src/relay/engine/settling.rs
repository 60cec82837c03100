//! Outcomes on their way into the store, and what happens to a batch that the store does not record. No I/O.
//!
//! Outcomes are settled in batches, one after the other. If the store refuses a batch because of some of its rows, the batch is
//! divided by key until the rows are found; the other rows are recorded. While rows of a key are in such a part, later rows
//! of the key wait behind them, and all other keys go on.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::Pending;
use crate::error::{Error, ErrorKind, Scope};
use crate::identity::RowId;
use crate::relay::backoff::RetryPolicy;
use crate::store::{Partition, Settle, Settlement};

/// A batch that failed is divided into this many parts.
const PARTS: usize = 8;
/// Calls beside the one with fresh outcomes: slow ones and parts of batches that failed.
const TRIALS: usize = 2;
/// A call that takes longer does not hold up other keys any more.
const SLOW: Duration = Duration::from_secs(2);
/// The pause after a failed trial. It grows with the number of rows that were refused since the last call that succeeded, so
/// that a store which refuses everything is not flooded with calls.
const TRIAL_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_TRIAL_PAUSE: Duration = Duration::from_secs(5);
/// After this many refused rows the pause has doubled.
const MANY_REFUSED: u32 = 16;
/// A conflict is expected to pass. After more of them in a row the batch is divided.
const CONFLICTS: u32 = 2;
/// When a message is tried again whose outcome the store has refused to record.
const SUBSTITUTE_AFTER: Duration = Duration::from_secs(60);

/// Rows for one call.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) rows: Vec<Pending>,
    /// How often the call with these rows failed, and when it first did, be it as a part of a larger batch.
    failures: u32,
    pub(super) failed_at: Option<Instant>,
    /// How often the store refused the only row.
    pub(super) refusals: u32,
    /// When the call is repeated.
    from: Instant,
}

impl Batch {
    fn new(rows: Vec<Pending>, failed_at: Option<Instant>, from: Instant) -> Self {
        Self { rows, failures: 0, failed_at, refusals: 0, from }
    }
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Running {
    id: u64,
    pub(super) batch: Batch,
    pub(super) sent: Instant,
    /// Whether it is one of the calls beside the one with fresh outcomes.
    is_trial: bool,
}

/// A row that the store refuses to record.
#[derive(Debug)]
struct Refused {
    pending: Pending,
    refusals: u32,
    refused_at: Instant,
    next: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Fresh outcomes, of keys that are not suspended.
    pending: Vec<Pending>,
    /// Calls under way.
    running: Vec<Running>,
    /// Batches that failed, and parts of them. No two have a key in common.
    failed: VecDeque<Batch>,
    refused: Vec<Refused>,
    /// Outcomes of suspended keys, in their order.
    behind: Vec<Pending>,
    /// The keys in trials, in failed batches and of refused rows.
    suspended: HashSet<Arc<str>>,
    last_id: u64,
    /// When the next trial may start.
    trials_from: Option<Instant>,
    /// How many rows were refused since the last call that succeeded.
    refused_in_a_row: u32,
    /// An empty list with room, so that calls need no new one.
    spare: Vec<Pending>,
}

/// What a failed call says about its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The whole store fails: repeat the call.
    Store,
    /// The store refuses some of the rows.
    Rows,
}

/// Judges a failed call. `answered` is when the latest call was sent that the store has answered.
pub(super) fn blame(error: &Error, call: &Running, answered: Option<Instant>) -> Blame {
    let batch = &call.batch;
    let rows = match error.kind() {
        ErrorKind::Conflict => batch.failures >= CONFLICTS,
        // Another session may have locked a row.
        ErrorKind::Timeout => answered > Some(call.sent),
        // A right may be missing on the dead letters alone. A statement may be too large for the connection.
        ErrorKind::Permission | ErrorKind::Interrupted => {
            batch.failed_at.is_some() && answered > batch.failed_at
        }
        _ => error.scope() == Scope::Message,
    };
    if rows { Blame::Rows } else { Blame::Store }
}

/// Returns what to record if the store refuses to record that a message failed: that it is to be tried again, with an error
/// that every database takes. The message stays in the store, in its place.
pub(super) fn substitute(settlement: &Settlement) -> Option<Settlement> {
    let (attempts, block_key) = match settlement {
        Settlement::Retry { attempts, block_key, .. } | Settlement::Dead { attempts, block_key, .. } => {
            (*attempts, *block_key)
        }
        Settlement::Delivered | Settlement::Held => return None,
    };
    let after = match settlement {
        Settlement::Retry { after, .. } => SUBSTITUTE_AFTER.max(*after),
        _ => SUBSTITUTE_AFTER,
    };
    let error = "the store refused to record the error; see the log of the relay".to_owned();
    Some(Settlement::Retry { after, attempts, error, block_key })
}

impl Settling {
    pub(super) fn push(&mut self, pending: Pending) {
        if self.is_suspended(&pending) {
            self.behind.push(pending);
        } else {
            self.pending.push(pending);
        }
    }

    fn is_suspended(&self, pending: &Pending) -> bool {
        !self.suspended.is_empty()
            && pending.row.meta.key.as_ref().is_some_and(|key| self.suspended.contains(key))
    }

    pub(super) fn len(&self) -> usize {
        self.unrecorded().count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
            && self.running.is_empty()
            && self.failed.is_empty()
            && self.refused.is_empty()
            && self.behind.is_empty()
    }

    /// Everything that the store has not recorded yet.
    pub(super) fn unrecorded(&self) -> impl Iterator<Item = &Pending> {
        let running = self.running.iter().flat_map(|call| &call.batch.rows);
        let failed = self.failed.iter().flat_map(|batch| &batch.rows);
        let refused = self.refused.iter().map(|refused| &refused.pending);
        self.pending.iter().chain(running).chain(failed).chain(refused).chain(&self.behind)
    }

    fn trials(&self) -> usize {
        self.running.iter().filter(|call| call.is_trial).count()
    }

    /// Returns when the next call may start, `None` if that depends on the answer to another. With `one_at_a_time` no call
    /// starts beside another.
    pub(super) fn next_start(&self, now: Instant, one_at_a_time: bool) -> Option<Instant> {
        if one_at_a_time && !self.running.is_empty() {
            return None;
        }
        let trials = self.trials();
        let fresh = self.running.iter().find(|call| !call.is_trial);
        let mut next: Option<Instant> = None;
        let mut consider = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        if !self.pending.is_empty() {
            match fresh {
                None => consider(now),
                Some(slow) if trials < TRIALS => consider(slow.sent + SLOW),
                Some(_) => {}
            }
        }
        if trials < TRIALS {
            let times = self.failed.iter().map(|batch| batch.from);
            let times = times.chain(self.refused.iter().map(|refused| refused.next));
            if let Some(first) = times.min() {
                consider(self.trials_from.map_or(first, |from| first.max(from)));
            }
        }
        next
    }

    /// Starts a call, if one may start now. Returns its number and its rows.
    pub(super) fn start(
        &mut self,
        now: Instant,
        one_at_a_time: bool,
        limit: usize,
    ) -> Option<(u64, Vec<Settle>)> {
        if self.next_start(now, one_at_a_time).is_none_or(|next| next > now) {
            return None;
        }
        let (batch, is_trial) = match self.next_trial(now) {
            Some(batch) => (batch, true),
            None => (self.fresh(now, limit)?, false),
        };
        let settles = batch.rows.iter().map(Pending::settle).collect();
        self.last_id += 1;
        self.running.push(Running { id: self.last_id, batch, sent: now, is_trial });
        Some((self.last_id, settles))
    }

    fn next_trial(&mut self, now: Instant) -> Option<Batch> {
        if self.trials() >= TRIALS || self.trials_from.is_some_and(|from| now < from) {
            return None;
        }
        if let Some(index) = self.failed.iter().position(|batch| batch.from <= now) {
            return self.failed.remove(index);
        }
        let index = self.refused.iter().position(|refused| refused.next <= now)?;
        let Refused { pending, refusals, refused_at, .. } = self.refused.swap_remove(index);
        Some(Batch { refusals, ..Batch::new(vec![pending], Some(refused_at), now) })
    }

    fn fresh(&mut self, now: Instant, limit: usize) -> Option<Batch> {
        if let Some(slow) = self.running.iter_mut().find(|call| !call.is_trial) {
            slow.is_trial = true;
            self.sort();
        }
        let count = self.pending.len().min(limit);
        if count == 0 {
            return None;
        }
        let mut rows = std::mem::take(&mut self.spare);
        rows.extend(self.pending.drain(..count));
        Some(Batch::new(rows, None, now))
    }

    /// A call has ended.
    pub(super) fn ended(&mut self, id: u64) -> Option<Running> {
        let index = self.running.iter().position(|call| call.id == id)?;
        Some(self.running.swap_remove(index))
    }

    /// The rows of a call were recorded.
    pub(super) fn recorded(&mut self, mut rows: Vec<Pending>) {
        rows.clear();
        self.spare = rows;
        self.refused_in_a_row = 0;
        if !self.suspended.is_empty() {
            self.sort();
        }
    }

    /// Has a call repeated with the same rows.
    pub(super) fn repeat(&mut self, mut batch: Batch, now: Instant, from: Instant) {
        batch.failures = batch.failures.saturating_add(1);
        batch.failed_at.get_or_insert(now);
        batch.from = from;
        self.failed.push_front(batch);
        self.sort();
    }

    /// Divides a batch of several rows. Of a single key it takes the first half; the rest waits for that.
    pub(super) fn divide(&mut self, batch: Batch, now: Instant) {
        let (size, part) = (batch.rows.len().div_ceil(PARTS), |rows| Batch::new(rows, batch.failed_at, now));
        let mut groups: Vec<Vec<Pending>> = Vec::new();
        let mut by_key = std::collections::HashMap::new();
        for pending in batch.rows {
            let index = match &pending.row.meta.key {
                Some(key) => *by_key.entry(key.clone()).or_insert(groups.len()),
                None => groups.len(),
            };
            match groups.get_mut(index) {
                Some(group) => group.push(pending),
                None => groups.push(vec![pending]),
            }
        }
        if groups.len() == 1 {
            let mut rows = groups.pop().unwrap_or_default();
            let rest = rows.split_off(rows.len().div_ceil(2));
            self.behind.splice(..0, rest);
            self.failed.push_front(part(rows));
        } else {
            let mut rows = Vec::new();
            let mut parts = Vec::new();
            for group in groups {
                if !rows.is_empty() && rows.len() + group.len() > size {
                    parts.push(part(std::mem::take(&mut rows)));
                }
                rows.extend(group);
            }
            parts.push(part(rows));
            for part in parts.into_iter().rev() {
                self.failed.push_front(part);
            }
        }
        self.trial_failed(now);
        self.sort();
    }

    fn trial_failed(&mut self, now: Instant) {
        let many = f64::from(self.refused_in_a_row) / f64::from(MANY_REFUSED);
        let pause = TRIAL_PAUSE.mul_f64(many.mul_add(many, 1.0)).min(LONGEST_TRIAL_PAUSE);
        self.trials_from = Some(now + pause);
    }

    /// Has the only row of a refused call recorded in another way.
    pub(super) fn replace(&mut self, pending: Pending, failed_at: Option<Instant>, now: Instant) {
        self.failed.push_front(Batch { refusals: 1, ..Batch::new(vec![pending], failed_at, now) });
        self.sort();
    }

    /// Keeps a refused row, to be tried again after a growing pause.
    pub(super) fn refuse(&mut self, pending: Pending, refusals: u32, now: Instant) {
        let pauses = RetryPolicy::default().initial(Duration::from_secs(1)).max(Duration::from_secs(60));
        let next = now + pauses.ceiling(refusals);
        self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
        self.refused.push(Refused { pending, refusals, refused_at: now, next });
        self.trial_failed(now);
        self.sort();
    }

    /// Has the refused rows tried again without a pause.
    pub(super) fn hurry(&mut self, now: Instant) {
        for refused in &mut self.refused {
            refused.next = now;
        }
    }

    /// Takes out the refused rows of these partitions, and the outcomes that wait behind them.
    pub(super) fn give_up(&mut self, gone: impl Fn(Partition) -> bool) -> Vec<Pending> {
        if self.refused.is_empty() {
            return Vec::new();
        }
        let (given_up, kept) = std::mem::take(&mut self.refused)
            .into_iter()
            .partition(|refused| gone(refused.pending.row.meta.partition));
        self.refused = kept;
        let mut rows: Vec<Pending> = given_up.into_iter().map(|refused| refused.pending).collect();
        let keys = rows.iter().filter_map(|pending| pending.row.meta.key.clone()).collect();
        rows.extend(self.take_behind(&keys));
        rows
    }

    /// The only row of a refused call was given up. Takes out the outcomes that wait behind it: recorded without it, a held row
    /// would have nothing before it that holds it, and would be released ahead of the row that was given up.
    pub(super) fn given_up(&mut self, key: Option<&Arc<str>>) -> Vec<Pending> {
        self.take_behind(&key.cloned().into_iter().collect())
    }

    fn take_behind(&mut self, keys: &HashSet<Arc<str>>) -> Vec<Pending> {
        let is_behind =
            |pending: &Pending| pending.row.meta.key.as_ref().is_some_and(|key| keys.contains(key));
        let (taken, kept) = std::mem::take(&mut self.behind).into_iter().partition(is_behind);
        self.behind = kept;
        self.sort();
        taken
    }

    /// Brings what waits behind suspended keys up to date.
    fn sort(&mut self) {
        let trials = self.running.iter().filter(|call| call.is_trial).flat_map(|call| &call.batch.rows);
        let failed = self.failed.iter().flat_map(|batch| &batch.rows);
        let refused = self.refused.iter().map(|refused| &refused.pending);
        let rows = trials.chain(failed).chain(refused);
        self.suspended = rows.filter_map(|pending| pending.row.meta.key.clone()).collect();
        // Of one key everything behind is older than everything pending, and a key has outcomes in one of the two only.
        let older = std::mem::take(&mut self.behind);
        let newer = std::mem::take(&mut self.pending);
        for pending in older.into_iter().chain(newer) {
            self.push(pending);
        }
    }

    /// The rows whose outcome is not *delivered*: the store may have recorded it although its answer was lost.
    pub(super) fn undelivered(&self) -> impl Iterator<Item = RowId> {
        let undelivered = |pending: &&Pending| pending.settlement != Settlement::Delivered;
        self.unrecorded().filter(undelivered).map(|pending| pending.row.meta.row())
    }
}

#[cfg(test)]
#[path = "settling_tests.rs"]
mod tests;
