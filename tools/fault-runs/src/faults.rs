//! The kinds of failures, and their order.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A relay is killed, and another one joins.
    RelayKilled,
    /// A relay is paused for longer than its lease, and then continues without noticing it.
    RelayStopped,
    /// A relay is asked to leave, and another one joins.
    RelayLeaves,
    /// One more relay, or one fewer.
    RelayJoins,
    /// The wall clock of a relay jumps, by seconds or by years, forward or back, and stays there.
    RelayClockJumps,
    /// The tables are migrated while everything runs.
    Migrated,
    /// The database is killed and starts again.
    DatabaseKilled,
    /// The database is paused for a while.
    DatabaseStopped,
    /// All connections of relays to the database are reset, and for a moment new ones are too.
    DatabaseReset,
    /// No data passes between relays and database.
    DatabaseBlackholed,
    /// All connections of relays to the database die silently, as if a host or a router had lost its power.
    DatabaseVanishes,
    /// The link to the database is slow.
    DatabaseSlow,
    /// The database executes requests, and no relay receives the answers.
    DatabaseAnswersLost,
    /// The broker is killed and starts again.
    BrokerKilled,
    /// The broker is paused for a while.
    BrokerStopped,
    /// Like that of the database.
    BrokerReset,
    /// Like that of the database.
    BrokerBlackholed,
    /// Like that of the database.
    BrokerVanishes,
    /// Like that of the database.
    BrokerSlow,
    /// The broker accepts messages, and no relay receives its confirms.
    ConfirmsLost,
}

impl Kind {
    /// Failures of relays, of which there are several.
    pub const OF_RELAYS: [Self; 6] = [
        Self::RelayKilled,
        Self::RelayStopped,
        Self::RelayLeaves,
        Self::RelayJoins,
        Self::RelayClockJumps,
        Self::Migrated,
    ];
    /// Failures of servers and the links to them.
    pub const OF_SERVERS: [Self; 14] = [
        Self::DatabaseKilled,
        Self::DatabaseStopped,
        Self::DatabaseReset,
        Self::DatabaseBlackholed,
        Self::DatabaseVanishes,
        Self::DatabaseSlow,
        Self::DatabaseAnswersLost,
        Self::BrokerKilled,
        Self::BrokerStopped,
        Self::BrokerReset,
        Self::BrokerBlackholed,
        Self::BrokerVanishes,
        Self::BrokerSlow,
        Self::ConfirmsLost,
    ];

    /// Its name in arguments and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RelayKilled => "relay-killed",
            Self::RelayStopped => "relay-stopped",
            Self::RelayLeaves => "relay-leaves",
            Self::RelayJoins => "relay-joins",
            Self::RelayClockJumps => "relay-clock-jumps",
            Self::Migrated => "migrated",
            Self::DatabaseKilled => "database-killed",
            Self::DatabaseStopped => "database-stopped",
            Self::DatabaseReset => "database-reset",
            Self::DatabaseBlackholed => "database-blackholed",
            Self::DatabaseVanishes => "database-vanishes",
            Self::DatabaseSlow => "database-slow",
            Self::DatabaseAnswersLost => "database-answers-lost",
            Self::BrokerKilled => "broker-killed",
            Self::BrokerStopped => "broker-stopped",
            Self::BrokerReset => "broker-reset",
            Self::BrokerBlackholed => "broker-blackholed",
            Self::BrokerVanishes => "broker-vanishes",
            Self::BrokerSlow => "broker-slow",
            Self::ConfirmsLost => "confirms-lost",
        }
    }

    /// Returns whether it needs a database that is a process.
    pub fn needs_database_process(self) -> bool {
        self.as_str().starts_with("database-")
    }

    /// Number of windows that it may cause to be published again, per relay. A relay that was killed or
    /// paused had one; a failure of a server affects all relays.
    pub fn windows(self, relays: usize) -> usize {
        match self {
            Self::RelayKilled | Self::RelayStopped | Self::RelayLeaves => 1,
            // A relay must not use its wall clock for anything important.
            Self::RelayJoins | Self::RelayClockJumps | Self::Migrated => 0,
            _ => relays,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::OF_RELAYS.into_iter().chain(Self::OF_SERVERS);
        all.find(|kind| kind.as_str() == text).ok_or_else(|| {
            let all = Self::OF_RELAYS.iter().chain(&Self::OF_SERVERS);
            let names: Vec<&str> = all.map(|kind| kind.as_str()).collect();
            format!("no fault is called so; there are {}", names.join(", "))
        })
    }
}

/// A failure that has happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    pub(crate) kind: Kind,
    /// From the start of the run.
    pub(crate) at: Duration,
    pub(crate) lasted: Duration,
    /// The number of arrived messages at its start and at its end.
    pub(crate) arrived: (usize, usize),
    /// Number of relays.
    pub(crate) relays: usize,
}

impl fmt::Display for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, at, lasted, arrived: (from, to), relays } = self;
        write!(f, "{at:>8.1?} {kind} for {lasted:.1?}, arrivals {from} to {to}, {relays} relays")
    }
}

/// The order of failures: all kinds, shuffled, repeatedly, so that a run that is long enough contains all of
/// them.
#[derive(Debug)]
pub(crate) struct Deck {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
    pub(crate) rng: fastrand::Rng,
}

impl Deck {
    pub(crate) fn new(kinds: Vec<Kind>, rng: fastrand::Rng) -> Self {
        Self { kinds, left: Vec::new(), rng }
    }

    /// `None` if there are no kinds.
    pub(crate) fn draw(&mut self) -> Option<Kind> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.rng.shuffle(&mut self.left);
        }
        self.left.pop()
    }

    /// A random duration between the two.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + (most - least).mul_f64(self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_that_can_be_read() {
        for kind in Kind::OF_RELAYS.into_iter().chain(Kind::OF_SERVERS) {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("nonsense".parse::<Kind>().unwrap_err().contains("confirms-lost"));
    }

    #[test]
    fn a_round_has_every_kind_once_and_a_seed_repeats_it() {
        let kinds = Kind::OF_SERVERS.to_vec();
        let draw = |count| -> Vec<Kind> {
            let mut deck = Deck::new(kinds.clone(), fastrand::Rng::with_seed(7));
            (0..count).filter_map(|_| deck.draw()).collect()
        };
        let mut round = draw(kinds.len());
        assert_eq!(round, draw(kinds.len()));
        round.sort();
        let mut all = kinds.clone();
        all.sort();
        assert_eq!(round, all);
        assert_eq!(draw(3 * kinds.len()).len(), 3 * kinds.len());
        assert_eq!(Deck::new(Vec::new(), fastrand::Rng::with_seed(7)).draw(), None);
    }
}
