//! Keys that hold more than their share of the window while other messages wait in the store.
//!
//! A key has one message in flight at a time, or one call, so that a key with a large backlog fills the window and keeps other keys
//! out. Such a key is parked: the relay keeps the first rows of it, and the store holds the others behind the last row that was
//! kept. From then on the rows of the key come as the store releases them, a few hundred at a time, as after a failure. If even
//! these are too many for the window, some of them are set aside: the relay remembers where they are, and reads them again later.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::call::Pending;
use crate::identity::RowId;
use crate::publisher::Publisher;
use crate::relay::window::{Excess, Pace, Share};
use crate::store::{Fetched, Partition, Store};

/// How long rows have waited in the store for room when keys are parked.
const PATIENCE: Duration = Duration::from_millis(250);
/// A key that needs less time for each message is not parked: with the default settings it fills the window for less than
/// [`PATIENCE`], and parking would only cost writes.
const QUICK: Duration = Duration::from_micros(60);
/// Both are so many times as long where a call takes many messages of one key, because the key would be slower if it was parked:
/// not many more than that are due at a time.
const WITH_LARGE_CALLS: u32 = 10;
const LARGE_CALL: usize = 64;
/// How often keys are looked for that are to be parked, while there is reason to.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// The share of a key is the window divided by the first of these that makes room. If the last one does not, the window is full of
/// many keys with few rows each, and parking would not help.
const SHARES: [usize; 4] = [16, 32, 64, 128];
/// Rows that were set aside are read again in portions of the window divided by this.
const PORTION: usize = 64;
/// After so many heartbeats without a row of it in memory a key does not count as parked any more.
const HEARTBEATS: u8 = 2;

/// The keys that this relay has parked. Which rows are held is known to the store alone.
pub(super) struct Parking {
    keys: HashMap<Arc<str>, Parked>,
    next_check: Instant,
    /// Since when rows wait in the store for room. They did not while a fetch had read everything.
    crowded_since: Option<Instant>,
    /// Since when messages are published. Rows that have waited for the broker have not waited for their key.
    publishing_since: Instant,
}

struct Parked {
    partition: Partition,
    /// The last row that was kept.
    boundary: RowId,
    /// Due rows behind those in the window. At most as many as the store releases of a key at a time.
    aside: BTreeSet<RowId>,
    /// Heartbeats since a row of the key was in memory.
    absent: u8,
}

/// What becomes of a row that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Window,
    /// It is not taken: rows in front of it were set aside.
    Aside,
    /// It is to be held, since rows in front of it were set aside.
    Held,
}

impl Parking {
    pub(super) fn new(now: Instant) -> Self {
        Self { keys: HashMap::new(), next_check: now, crowded_since: None, publishing_since: now }
    }

    pub(super) fn contains(&self, key: Option<&Arc<str>>) -> bool {
        !self.keys.is_empty() && key.is_some_and(|key| self.keys.contains_key(key))
    }

    /// A fetch has ended. Says whether it left rows in the store.
    pub(super) fn fetched(&mut self, more: bool) {
        self.crowded_since = self.crowded_since.filter(|_| more);
    }

    /// The positions of the rows that were set aside. They are not to be read now.
    pub(super) fn aside(&self) -> impl Iterator<Item = RowId> + '_ {
        self.keys.values().flat_map(|parked| &parked.aside).copied()
    }
}

impl<S: Store, P: Publisher> Engine<S, P> {
    /// Parks keys, if rows wait in the store and the window is full of rows that wait for others of their key.
    pub(super) fn park(&mut self, now: Instant) {
        if !self.flow.may_publish(now) {
            self.parking.publishing_since = now;
        }
        if now < self.parking.next_check || !self.is_crowded(now) {
            return;
        }
        self.parking.next_check = now + CHECK_INTERVAL;
        self.parking.crowded_since.get_or_insert(now);
        let excesses = self.excesses(now);
        if excesses.is_empty() {
            return;
        }
        let messages: usize = excesses.iter().map(|excess| excess.rows).sum();
        tracing::debug!(keys = excesses.len(), messages, "keys hold more than their share of the window");
        for excess in excesses {
            self.park_key(excess);
        }
        self.parked_keys_changed();
    }

    fn park_key(&mut self, Excess { key, boundary, can_be_held, .. }: Excess) {
        let Some(partition) = self.window.partition_of(boundary) else { return };
        let parked = self.parking.keys.entry(key.clone()).or_insert_with(|| Parked {
            partition,
            boundary,
            aside: BTreeSet::new(),
            absent: 0,
        });
        parked.boundary = parked.boundary.max(boundary);
        if !can_be_held {
            parked.aside.extend(self.window.drop_behind(&key, boundary.position));
        } else if let Some(row) = self.window.take_to_park(boundary, &key) {
            self.hold(row);
        }
    }

    /// When to look for keys to be parked.
    pub(super) fn next_parking(&self, now: Instant) -> Option<Instant> {
        self.is_crowded(now).then_some(self.parking.next_check)
    }

    /// Whether there is no room for rows that are in the store, although the publisher would take more.
    fn is_crowded(&self, now: Instant) -> bool {
        !self.stopping
            && !self.has_room(self.window.len(), self.window.bytes())
            && self.window.waits_for_answers()
            && !self.window.is_parking()
            && self.leases.any_active()
            // So no fetch is under way. One that began earlier would not know the rows that are parked now, and bring them again.
            && self.store_calls.fetch.may_start(now)
            && now >= self.pacer.next()
            && self.flow.may_publish(now)
    }

    /// Which keys to park so that there is room.
    fn excesses(&self, now: Instant) -> Vec<Excess> {
        let large_calls = self.capabilities.ordered_batches && self.flow.call_size() > LARGE_CALL;
        let times = if large_calls { WITH_LARGE_CALLS } else { 1 };
        let publishing_since = self.parking.publishing_since;
        let crowded_since = self.parking.crowded_since.map_or(now, |since| since.max(publishing_since));
        if now - crowded_since < PATIENCE * times {
            return Vec::new();
        }
        let pace = Pace { quick: QUICK * times, since: publishing_since, now };
        let (messages, bytes) = (self.settings.max_in_flight, self.settings.max_bytes_in_flight);
        for part in SHARES {
            let share = Share { rows: (messages / part).max(1), bytes: (bytes / part).max(1) };
            let mut excesses = self.window.excesses(share, pace);
            let left = excesses.iter().fold((self.window.len(), self.window.bytes()), |left, excess| {
                (left.0.saturating_sub(excess.rows), left.1.saturating_sub(excess.bytes))
            });
            if self.has_room(left.0, left.1) {
                // The same ones first in each run of a test.
                excesses.sort_unstable_by_key(|excess| excess.boundary);
                return excesses;
            }
        }
        Vec::new()
    }

    /// The last rows that were kept of parked keys wait for their turn again, now that the store holds what is behind them.
    pub(super) fn bring_back(&mut self, settled: &mut Vec<Pending>) {
        if !self.window.is_parking() {
            return;
        }
        let (back, others) = std::mem::take(settled)
            .into_iter()
            .partition(|pending: &Pending| self.window.end_parking(pending.row.meta.row()));
        *settled = others;
        for pending in back {
            self.recorded.extend(pending.block());
            let mut row = Box::new(pending.row);
            // To the store it is a due row now.
            row.meta.due = true;
            self.window.is_due(row.meta.row());
            if self.stopping || !self.leases.is_active(row.meta.partition) {
                self.window.forget(row.meta.row());
            } else if let Some(row) = self.window.queue(row) {
                self.hold(row);
            }
        }
    }

    /// Says what to do with a row that was fetched.
    pub(super) fn place(&mut self, fetched: &Fetched) -> Place {
        if self.parking.keys.is_empty() || fetched.blocked {
            return Place::Window;
        }
        let Some(key) = fetched.key() else { return Place::Window };
        let Some(parked) = self.parking.keys.get_mut(key) else { return Place::Window };
        if parked.aside.first().is_some_and(|first| *first < fetched.row()) {
            if !fetched.due {
                return Place::Held;
            }
            parked.aside.insert(fetched.row());
            return Place::Aside;
        }
        if !fetched.due && fetched.row() > parked.boundary && parked.aside.is_empty() {
            // Nothing in front of it is held any more.
            self.parking.keys.remove(key);
            self.parked_keys_changed();
        }
        Place::Window
    }

    /// Has rows that were set aside read again, of keys that have few rows left in the window.
    pub(super) fn read_aside(&mut self) {
        let portion = (self.settings.max_in_flight / PORTION).max(1);
        for (key, parked) in &mut self.parking.keys {
            if !parked.aside.is_empty() && self.window.waiting_of(Some(key)) < portion.div_ceil(2) {
                for _ in 0..portion {
                    parked.aside.pop_first();
                }
            }
        }
    }

    /// A message of the key has failed, and the key waits for it.
    pub(super) fn failed_key(&mut self, key: &Arc<str>) {
        if self.parking.keys.remove(key).is_some() {
            self.parked_keys_changed();
        }
    }

    /// Forgets keys of which nothing is left, whoever has delivered or deleted it.
    pub(super) fn sweep_parked_keys(&mut self) {
        // The answer to a fetch that was told what is set aside brings what is behind it.
        if self.store_calls.fetch.is_running() {
            return;
        }
        let before = self.parking.keys.len();
        self.parking.keys.retain(|key, parked| {
            parked.absent = if self.window.has_key(key) { 0 } else { parked.absent + 1 };
            parked.absent < HEARTBEATS
        });
        if self.parking.keys.len() != before {
            self.parked_keys_changed();
        }
    }

    /// Forgets the keys of these partitions, which are not read any more.
    pub(super) fn forget_parked_keys(&mut self, gone: impl Fn(Partition) -> bool) {
        let before = self.parking.keys.len();
        self.parking.keys.retain(|_, parked| !gone(parked.partition));
        if self.parking.keys.len() != before {
            self.parked_keys_changed();
        }
    }

    fn parked_keys_changed(&self) {
        let keys = self.parking.keys.len();
        self.metrics.parked_keys.set(keys as f64);
        self.status.send_if_modified(|status| {
            let changed = status.parked_keys != keys;
            status.parked_keys = keys;
            changed
        });
    }
}
