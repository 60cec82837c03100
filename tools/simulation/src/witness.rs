//! Sees every call when it begins or takes effect, and checks the rules that the ledger cannot check from
//! outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outbox_core::relay::RetryPolicy;
use outbox_core::{Membership, Message, Partition, RowId, Settle, Settlement};
use tokio::time::Instant;

use crate::broker::number;

/// The rules:
///
/// - A publish call begins only under a lease on its messages that lasts for the whole call.
/// - No key is in calls of two relays at a time.
/// - No attempt is counted unless the broker failed the message itself. While the broker is down none is
///   counted either, but one for two outages in each of which the message was sent alone, as ADR 0021 states.
/// - A retry waits as its policy says.
/// - After the failures have ended, no relay lets a lease expire.
/// - No relay fetches repeatedly while no time passes.
///
/// Clones share their observations.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    seen: Arc<Mutex<Seen>>,
    publish_timeout: Duration,
}

/// Many times the number of messages in a run.
const MOST_FETCHES_AT_ONCE: u32 = 10_000;

#[derive(Debug, Default)]
struct Seen {
    /// The moment of the last fetch of each relay, and the number of its fetches in that moment.
    fetches: BTreeMap<u32, (Option<Instant>, u32)>,
    /// The owner of each partition, and the end of its lease, as recorded in the store.
    leases: BTreeMap<Partition, (u32, Instant)>,
    /// When the last heartbeat of each relay began and took effect.
    renewed: BTreeMap<u32, (Instant, Instant)>,
    peace_since: Option<Instant>,
    /// By number: the partition, and how often the broker failed the message itself.
    partitions: Vec<Option<Partition>>,
    blamed: Vec<u32>,
    /// Whether the broker was down at the last publish call, and the number of outages so far.
    broker_down: bool,
    outages: u32,
    /// By number: the last outage in which the message was sent alone, and the number of such outages.
    alone_in: Vec<(u32, u32)>,
    numbers: BTreeMap<RowId, u64>,
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
    breach: Option<String>,
}

#[derive(Debug)]
struct Flight {
    relay: u32,
    began: Instant,
    /// One bit for each key.
    keys: u64,
}

/// A publish call, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    witness: Witness,
    flight: u64,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.witness.lock().flights.remove(&self.flight);
    }
}

impl Seen {
    fn breach(&mut self, rule: impl FnOnce() -> String) {
        // The first breach explains the most.
        self.breach.get_or_insert_with(rule);
    }
}

/// The bit of a message's key; the run numbers them.
fn key_bit(message: &Message) -> u64 {
    let number =
        message.key().and_then(|key| key.rsplit('-').next()).and_then(|text| text.parse::<u32>().ok());
    number.map_or(0, |number| 1 << number)
}

fn at<T: Copy + Default>(list: &mut Vec<T>, index: u64) -> &mut T {
    let index = usize::try_from(index).expect("a small number");
    if list.len() <= index {
        list.resize(index + 1, T::default());
    }
    &mut list[index]
}

impl Witness {
    pub(crate) fn new(publish_timeout: Duration) -> Self {
        Self { seen: Arc::default(), publish_timeout }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first rule that was broken.
    pub(crate) fn breach(&self) -> Option<String> {
        self.lock().breach.clone()
    }

    /// A relay fetches. Returns whether it does so endlessly, so that it must be stopped: time passes only
    /// when no task runs.
    pub(crate) fn spins(&self, relay: u32) -> bool {
        let now = Some(Instant::now());
        let mut seen = self.lock();
        let fetches = seen.fetches.entry(relay).or_default();
        *fetches = (now, if fetches.0 == now { fetches.1 + 1 } else { 1 });
        let spins = fetches.1 > MOST_FETCHES_AT_ONCE;
        if spins {
            seen.breach(|| format!("relay {relay} fetches again and again while no time passes"));
        }
        spins
    }

    /// All failures have ended.
    pub(crate) fn peace(&self) {
        self.lock().peace_since = Some(Instant::now());
    }

    /// A heartbeat has taken effect.
    pub(crate) fn renewed(&self, relay: u32, began: Instant, answer: &Membership, ttl: Duration) {
        let now = Instant::now();
        let mut seen = self.lock();
        let before = seen.renewed.insert(relay, (began, now));
        // The answer to a call from before that may have been slow.
        if let (Some((began, before)), Some(peace)) = (before, seen.peace_since)
            && began >= peace
            && now > before + ttl
        {
            seen.breach(|| format!("relay {relay} let its lease run out in peace, after {:?}", now - before));
        }
        for partition in &answer.owned {
            seen.leases.insert(*partition, (relay, now + ttl));
        }
    }

    /// Leases were released: these, or all of them.
    pub(crate) fn released(&self, relay: u32, partitions: Option<&[Partition]>) {
        let gone = |partition: &Partition| partitions.is_none_or(|partitions| partitions.contains(partition));
        self.lock().leases.retain(|partition, (owner, _)| *owner != relay || !gone(partition));
    }

    /// A message was fetched.
    pub(crate) fn fetched(&self, row: RowId, partition: Partition, number: u64) {
        let mut seen = self.lock();
        seen.numbers.insert(row, number);
        *at(&mut seen.partitions, number) = Some(partition);
    }

    /// A publish call begins.
    pub(crate) fn publishing(&self, relay: u32, batch: &[Message], broker_down: bool) -> InFlight {
        let now = Instant::now();
        let mut seen = self.lock();
        let mut keys = 0;
        for message in batch {
            let number = number(message);
            let partition = *at(&mut seen.partitions, number);
            let lease = partition.and_then(|partition| seen.leases.get(&partition)).copied();
            if !lease.is_some_and(|(owner, until)| owner == relay && now + self.publish_timeout <= until) {
                let left = lease.map(|(owner, until)| (owner, until.saturating_duration_since(now)));
                seen.breach(|| format!("relay {relay} publishes {number}, and the lease is {left:?}"));
            }
            keys |= key_bit(message);
        }
        let rival = seen.flights.values().find(|flight| {
            // An older call belongs to a process that was paused.
            flight.relay != relay && flight.keys & keys != 0 && now < flight.began + self.publish_timeout
        });
        if let Some(rival) = rival.map(|flight| flight.relay) {
            seen.breach(|| format!("relays {rival} and {relay} publish messages of a key at a time"));
        }
        if broker_down && !seen.broker_down {
            seen.outages += 1;
        }
        seen.broker_down = broker_down;
        if let [message] = batch {
            // A message that is sent alone may be the one that breaks the connection.
            if broker_down {
                let outage = seen.outages;
                let alone_in = at(&mut seen.alone_in, number(message));
                if alone_in.0 != outage {
                    *alone_in = (outage, alone_in.1 + 1);
                }
            } else {
                *at(&mut seen.blamed, number(message)) += 1;
            }
        }
        let flight = seen.next_flight;
        seen.next_flight += 1;
        seen.flights.insert(flight, Flight { relay, began: now, keys });
        InFlight { witness: self.clone(), flight }
    }

    /// The broker failed this message itself.
    pub(crate) fn blamed(&self, number: u64) {
        *at(&mut self.lock().blamed, number) += 1;
    }

    /// A relay settles a message.
    pub(crate) fn settling(&self, relay: u32, settle: &Settle, policy: &RetryPolicy) {
        let mut seen = self.lock();
        let (Settlement::Retry { attempts, .. } | Settlement::Dead { attempts, .. }) = &settle.settlement
        else {
            return;
        };
        let Some(number) = seen.numbers.get(&settle.row()).copied() else { return };
        let most = *at(&mut seen.blamed, number) + at(&mut seen.alone_in, number).1 / 2;
        if *attempts > most {
            let rule =
                || format!("relay {relay} counts {attempts} attempts of {number}, which failed {most} times");
            seen.breach(rule);
        }
        if let Settlement::Retry { after, attempts, error, .. } = &settle.settlement
            // Recorded in place of an error that the store has refused.
            && !error.starts_with("the store refused")
        {
            let exponent = i32::try_from(*attempts).expect("a small number") - 1;
            let longest = policy.initial.mul_f64(policy.factor.powi(exponent.clamp(0, 30))).min(policy.max);
            if *after > longest || (!policy.jitter && *after < longest) {
                seen.breach(|| {
                    format!("relay {relay} has {number} wait for {after:?}, and not for {longest:?}")
                });
            }
        }
    }
}
