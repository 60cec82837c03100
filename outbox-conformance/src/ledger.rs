//! Compares committed messages with delivered ones: the promises as one verdict over a whole run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// The ledger of a run of any kind: a simulation, a run with killed processes, a service in production.
///
/// A message is identified by its key and a number. Within a key, numbers grow in the order of enqueueing;
/// gaps are allowed. Messages without a key share one series of numbers, which has no order. Entries may be
/// recorded in any order, except arrivals, which must be recorded in the broker's order.
///
/// ```
/// use outbox_conformance::{Ledger, Rules};
///
/// let mut ledger = Ledger::new();
/// for number in 1..=3 {
///     ledger.committed(Some("order-7"), number);
/// }
/// for number in [1, 2, 2, 3] {
///     ledger.arrived(Some("order-7"), number);
/// }
/// let verdict = ledger.verdict(&Rules::new().most_duplicates(1));
/// assert!(verdict.is_clean(), "{verdict}");
/// assert_eq!(verdict.duplicates, 1);
/// ```
///
/// Memory grows with the number of entries, by about 30 bytes per message.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    keys: HashMap<Option<String>, Page>,
    arrivals: u64,
}

/// The entries of one key.
#[derive(Clone, Debug, Default)]
struct Page {
    committed: Vec<u64>,
    dead: Vec<u64>,
    /// The number, and the count of arrivals of all keys before it.
    arrived: Vec<(u64, u64)>,
}

/// The rules of a run. Two rules always apply: no losses and no inventions.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Rules {
    /// Whether messages of a key must arrive in their order. Default: `true`.
    pub ordered: bool,
    /// Maximum number of arrivals of messages beyond the first one. Default: `None`, any number.
    pub most_duplicates: Option<u64>,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breach {
    /// It was committed, and neither arrived nor became a dead letter.
    Lost {
        /// The key.
        key: Option<String>,
        /// The number within the key.
        number: u64,
    },
    /// It arrived or became a dead letter, but was never committed.
    Invented {
        /// The key.
        key: Option<String>,
        /// The number within the key.
        number: u64,
    },
    /// It arrived for the first time after a later message of its key.
    Overtaken {
        /// The key.
        key: Option<String>,
        /// The number within the key.
        number: u64,
        /// The later message that had arrived before it.
        by: u64,
        /// How many messages of all keys had arrived before it.
        at: u64,
    },
    /// There were more repeats than the rules allow.
    Duplicates {
        /// Number of repeats.
        found: u64,
        /// Number of allowed repeats.
        most: u64,
    },
}

/// The verdict of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// Number of committed messages.
    pub committed: u64,
    /// Number of arrivals.
    pub arrived: u64,
    /// Number of arrivals beyond the first one of a message.
    pub duplicates: u64,
    /// Number of messages that are dead letters.
    pub dead: u64,
    /// Broken rules, in the order of keys; at most [`MOST_BREACHES`](Self::MOST_BREACHES), each with its
    /// key's history.
    pub breaches: Vec<(Breach, String)>,
    /// Number of further breaches.
    pub more: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { ordered: true, most_duplicates: None }
    }
}

impl Rules {
    /// Order within a key, and any number of duplicates.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`ordered`](Self::ordered).
    #[must_use]
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Sets [`most_duplicates`](Self::most_duplicates).
    #[must_use]
    pub fn most_duplicates(mut self, most: u64) -> Self {
        self.most_duplicates = Some(most);
        self
    }
}

impl Ledger {
    /// Creates an empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that a transaction with this message was committed.
    pub fn committed(&mut self, key: Option<&str>, number: u64) {
        self.page(key).committed.push(number);
    }

    /// Records that the broker delivered this message.
    pub fn arrived(&mut self, key: Option<&str>, number: u64) {
        let at = self.arrivals;
        self.arrivals += 1;
        self.page(key).arrived.push((number, at));
    }

    /// Records that this message is among the dead letters.
    pub fn dead(&mut self, key: Option<&str>, number: u64) {
        self.page(key).dead.push(number);
    }

    fn page(&mut self, key: Option<&str>) -> &mut Page {
        self.keys.entry(key.map(str::to_owned)).or_default()
    }

    /// Checks the ledger against the rules. Messages that were neither committed nor delivered nor dead are
    /// not considered.
    #[must_use]
    pub fn verdict(&self, rules: &Rules) -> Verdict {
        let mut verdict = Verdict {
            committed: 0,
            arrived: self.arrivals,
            duplicates: 0,
            dead: 0,
            breaches: Vec::new(),
            more: 0,
        };
        let sorted: BTreeMap<_, _> = self.keys.iter().collect();
        for (key, page) in sorted {
            page.judge(key, rules, &mut verdict);
        }
        if let Some(most) = rules.most_duplicates.filter(|most| verdict.duplicates > *most) {
            verdict.breach(Breach::Duplicates { found: verdict.duplicates, most }, String::new);
        }
        verdict
    }
}

impl Page {
    fn judge(&self, key: &Option<String>, rules: &Rules, verdict: &mut Verdict) {
        let committed = sorted(self.committed.iter().copied());
        let dead = sorted(self.dead.iter().copied());
        let arrived = sorted(self.arrived.iter().map(|(number, _)| *number));
        verdict.committed += committed.len() as u64;
        verdict.dead += dead.len() as u64;
        verdict.duplicates += (self.arrived.len() - arrived.len()) as u64;

        let has = |numbers: &[u64], number: &u64| numbers.binary_search(number).is_ok();
        for number in committed.iter().filter(|number| !has(&arrived, number) && !has(&dead, number)) {
            let breach = Breach::Lost { key: key.clone(), number: *number };
            verdict.breach(breach, || self.history(*number));
        }
        for number in sorted(arrived.iter().chain(&dead).copied()) {
            if !has(&committed, &number) {
                let breach = Breach::Invented { key: key.clone(), number };
                verdict.breach(breach, || self.history(number));
            }
        }
        if rules.ordered && key.is_some() {
            self.judge_order(key, verdict);
        }
    }

    /// The first arrivals must be in order. A repeat may arrive at any time: after repeating a message, the
    /// sender continues with the messages behind it.
    fn judge_order(&self, key: &Option<String>, verdict: &mut Verdict) {
        let mut seen = HashSet::new();
        let mut highest = None;
        for (number, at) in self.arrived.iter().filter(|(number, _)| seen.insert(*number)) {
            match highest {
                Some(by) if by > *number => {
                    let breach = Breach::Overtaken { key: key.clone(), number: *number, by, at: *at };
                    verdict.breach(breach, || self.history(*number));
                }
                _ => highest = Some(*number),
            }
        }
    }

    /// The arrivals of the key around the place where this number arrived, or should have arrived.
    fn history(&self, number: u64) -> String {
        const AROUND: usize = 8;
        let here = self.arrived.iter().position(|(arrived, _)| *arrived >= number);
        let here = here.unwrap_or(self.arrived.len());
        let there = self.arrived.iter().rposition(|(arrived, _)| *arrived == number).unwrap_or(here);
        let mut text = String::new();
        let mut last = None;
        for (index, (arrived, at)) in self.arrived.iter().enumerate() {
            if index.abs_diff(here) > AROUND && index.abs_diff(there) > AROUND {
                continue;
            }
            if last.is_some_and(|last| last + 1 != index) {
                text.push_str(" …");
            }
            last = Some(index);
            let mark = if *arrived == number { "*" } else { "" };
            text.push_str(&format!(" {mark}{arrived}@{at}"));
        }
        format!("{} of the key arrived:{text}", self.arrived.len())
    }
}

fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

impl Verdict {
    /// Further breaches are only counted.
    pub const MOST_BREACHES: usize = 20;

    /// Returns whether no rule was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty()
    }

    fn breach(&mut self, breach: Breach, history: impl FnOnce() -> String) {
        if self.breaches.len() < Self::MOST_BREACHES {
            self.breaches.push((breach, history()));
        } else {
            self.more += 1;
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, arrived, duplicates, dead, .. } = self;
        write!(
            f,
            "{}: {committed} committed, {arrived} arrived, {duplicates} of them repeats, {dead} dead letters",
            if self.is_clean() { "clean" } else { "BROKEN" }
        )?;
        for (breach, history) in &self.breaches {
            write!(f, "\n  {breach}")?;
            if !history.is_empty() {
                write!(f, "\n    {history}")?;
            }
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |key: &Option<String>| match key {
            Some(key) => format!("of key {key:?}"),
            None => "without a key".to_owned(),
        };
        match self {
            Self::Lost { key, number } => {
                write!(f, "lost: {number} {} was committed and never arrived", of(key))
            }
            Self::Invented { key, number } => {
                write!(f, "invented: {number} {} arrived and was never committed", of(key))
            }
            Self::Overtaken { key, number, by, at } => {
                write!(f, "overtaken: {number} {} came after {by}, at arrival {at}", of(key))
            }
            Self::Duplicates { found, most } => {
                write!(f, "duplicates: {found}, where {most} can be explained")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(committed: &[u64], arrived: &[u64], dead: &[u64]) -> Ledger {
        let mut ledger = Ledger::new();
        committed.iter().for_each(|number| ledger.committed(Some("k"), *number));
        arrived.iter().for_each(|number| ledger.arrived(Some("k"), *number));
        dead.iter().for_each(|number| ledger.dead(Some("k"), *number));
        ledger
    }

    fn breaches(ledger: &Ledger, rules: Rules) -> Vec<Breach> {
        ledger.verdict(&rules).breaches.into_iter().map(|(breach, _)| breach).collect()
    }

    fn key() -> Option<String> {
        Some("k".to_owned())
    }

    #[test]
    fn repeats_are_counted_and_harmless() {
        let verdict = ledger(&[1, 2, 5], &[1, 2, 1, 2, 5], &[]).verdict(&Rules::new());
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.committed, verdict.arrived, verdict.duplicates, verdict.dead), (3, 5, 2, 0));
    }

    #[test]
    fn more_repeats_than_can_be_explained_are_a_breach() {
        let books = ledger(&[1], &[1, 1, 1], &[]);
        assert!(books.verdict(&Rules::new().most_duplicates(2)).is_clean());
        let found = breaches(&books, Rules::new().most_duplicates(1));
        assert_eq!(found, [Breach::Duplicates { found: 2, most: 1 }]);
    }

    #[test]
    fn what_is_in_neither_place_is_lost() {
        let books = ledger(&[1, 2, 3], &[1], &[3]);
        assert_eq!(breaches(&books, Rules::new()), [Breach::Lost { key: key(), number: 2 }]);
    }

    #[test]
    fn what_nobody_committed_is_invented() {
        let books = ledger(&[1], &[1, 7], &[9]);
        let invented = |number| Breach::Invented { key: key(), number };
        assert_eq!(breaches(&books, Rules::new()), [invented(7), invented(9)]);
    }

    #[test]
    fn first_arrivals_must_be_in_order_within_a_key() {
        let books = ledger(&[1, 2, 3, 4], &[1, 3, 2, 3, 4], &[]);
        let overtaken = Breach::Overtaken { key: key(), number: 2, by: 3, at: 2 };
        let verdict = books.verdict(&Rules::new());
        assert_eq!(verdict.breaches[0].0, overtaken);
        assert_eq!(verdict.breaches[0].1, "5 of the key arrived: 1@0 3@1 *2@2 3@3 4@4");
        assert!(books.verdict(&Rules::new().ordered(false)).is_clean());
    }

    #[test]
    fn without_a_key_there_is_no_order() {
        let mut books = Ledger::new();
        for number in [1, 2] {
            books.committed(None, number);
        }
        for number in [2, 1] {
            books.arrived(None, number);
        }
        assert!(books.verdict(&Rules::new()).is_clean());
    }

    #[test]
    fn a_verdict_tells_the_worst_and_counts_the_rest() {
        let numbers: Vec<u64> = (0..100).collect();
        let verdict = ledger(&numbers, &[], &[]).verdict(&Rules::new());
        assert_eq!((verdict.breaches.len(), verdict.more), (Verdict::MOST_BREACHES, 80));
        let text = verdict.to_string();
        assert!(text.starts_with("BROKEN: 100 committed, 0 arrived"), "{text}");
        assert!(text.ends_with("and 80 more"), "{text}");
    }
}
