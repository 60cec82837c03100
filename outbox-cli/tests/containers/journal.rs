//! When messages were committed and when they arrived, and whether they arrive as fast as before.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use outbox_conformance::Ledger;

/// Number of the latest arrivals that show how fast messages arrive now.
const WINDOW: usize = 100;
/// Delays shorter than this count as equal.
const UNNOTICED: Duration = Duration::from_millis(500);

/// A message: its key, and its number within the key.
pub(crate) type Entry = (i64, i64);

#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Messages that have not arrived, and when they were committed.
    waiting: HashMap<Entry, Instant>,
    /// When messages arrived whose commit has not been noted yet.
    early: HashMap<Entry, Instant>,
    /// The first arrivals, in their order: when the message was committed, and how long it took.
    delays: Vec<(Instant, Duration)>,
    /// Every arrival, in the order of the broker.
    arrivals: Vec<Entry>,
    first: HashSet<Entry>,
}

impl Journal {
    /// The commit of a message was answered now.
    pub(crate) fn committed(&mut self, entry: Entry) {
        let now = Instant::now();
        if self.early.remove(&entry).is_some() {
            self.delays.push((now, Duration::ZERO));
        } else {
            self.waiting.insert(entry, now);
        }
    }

    /// A message arrived now.
    pub(crate) fn arrived(&mut self, entry: Entry) {
        self.arrivals.push(entry);
        if !self.first.insert(entry) {
            return;
        }
        let now = Instant::now();
        match self.waiting.remove(&entry) {
            Some(committed) => self.delays.push((committed, now - committed)),
            None => _ = self.early.insert(entry, now),
        }
    }

    /// How many messages have arrived, repeats included.
    pub(crate) fn seen(&self) -> usize {
        self.arrivals.len()
    }

    /// How many messages have arrived, without repeats.
    pub(crate) fn arrived_once(&self) -> usize {
        self.first.len()
    }

    /// How many arrivals were repeats.
    pub(crate) fn repeats(&self) -> usize {
        self.arrivals.len() - self.first.len()
    }

    /// Returns the 95th percentile of the latest delays, of messages committed after `since`. `None` if there are too few.
    pub(crate) fn usual_delay(&self, since: Instant) -> Option<Duration> {
        let later = self.delays.iter().rev().filter(|(committed, _)| *committed >= since);
        let mut window: Vec<_> = later.take(WINDOW).map(|(_, delay)| *delay).collect();
        window.sort_unstable();
        (window.len() == WINDOW).then(|| window[WINDOW * 19 / 20])
    }

    /// Whether messages committed after `since` arrive as fast as when the usual delay was `usual`, and none waits for longer.
    pub(crate) fn is_as_fast_as(&self, usual: Duration, since: Instant) -> bool {
        let limit = (usual * 4).max(UNNOTICED);
        let stuck = self.waiting.values().any(|committed| committed.elapsed() > limit);
        !stuck && self.usual_delay(since).is_some_and(|delay| delay <= limit)
    }

    /// The longest delay of a message that was committed after `since`.
    pub(crate) fn longest_delay(&self, since: Instant) -> Duration {
        let later = self.delays.iter().filter(|(committed, _)| *committed >= since);
        later.map(|(_, delay)| *delay).max().unwrap_or_default()
    }

    /// Returns a ledger of what arrived and what was committed according to the database.
    pub(crate) fn ledger(&self, committed: impl IntoIterator<Item = Entry>) -> Ledger {
        let mut ledger = Ledger::new();
        let as_told = |(key, number): Entry| (format!("key-{key}"), u64::try_from(number).unwrap());
        for (key, number) in committed.into_iter().map(as_told) {
            ledger.committed(Some(&key), number);
        }
        for (key, number) in self.arrivals.iter().copied().map(as_told) {
            ledger.arrived(Some(&key), number);
        }
        ledger
    }
}

#[test]
fn a_message_that_waits_is_not_as_fast_as_before() {
    let (mut journal, start) = (Journal::default(), Instant::now());
    let window = i64::try_from(WINDOW).unwrap();
    for number in 1..=window {
        assert_eq!(journal.usual_delay(start), None);
        journal.committed((1, number));
        journal.arrived((1, number));
        journal.arrived((1, number));
    }
    let day = Duration::from_secs(86_400);
    let usual = journal.usual_delay(start).unwrap();
    assert!(usual < day);
    assert!(journal.is_as_fast_as(day, start));
    assert_eq!((journal.seen(), journal.arrived_once(), journal.repeats()), (2 * WINDOW, WINDOW, WINDOW));
    assert!(!journal.is_as_fast_as(day, Instant::now()), "nothing was committed after that");

    let waiting = Instant::now().checked_sub(UNNOTICED * 2).unwrap();
    journal.waiting.insert((2, 1), waiting);
    assert!(!journal.is_as_fast_as(Duration::ZERO, start));
    journal.arrived((2, 1));
    assert!(journal.longest_delay(waiting) >= UNNOTICED * 2);
    let verdict = journal.ledger((1..=window).map(|number| (1, number)).chain([(2, 1)]));
    let verdict = verdict.verdict(&outbox_conformance::Rules::new());
    assert!(verdict.is_clean() && verdict.duplicates == u64::try_from(WINDOW).unwrap(), "{verdict}");
}
