//! A run: writers, relays and failures concurrently, then recovery without failures, then the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use integration_tests::Mode;
use outbox_conformance::{Breach, Ledger, Rules, Verdict};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::books::Books;
use crate::brokers::Broker;
use crate::clock::Clocks;
use crate::faults::{Deck, Kind, Past};
use crate::links::Links;
use crate::relay::{LEASE, WINDOW};
use crate::relays::Relays;
use crate::writers::{self, Progress};

/// Number of relays at the start; later there are two to five.
const RELAYS: usize = 3;
/// How long the outbox may take to drain after the failures. Retries, an open circuit and leases of dead
/// relays take seconds; in addition there are the messages that could not be published meanwhile.
const DRAIN: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

/// The plan of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Minimum number of committed messages.
    pub messages: u64,
    /// Minimum duration, up to the end of the failures.
    pub time: Duration,
    /// Minimum number of failures. Each kind also occurs at least once.
    pub faults: usize,
    /// The kinds of failures, if they are available.
    pub kinds: Vec<Kind>,
    /// The tool for jumping clocks; without it no clock jumps.
    pub clocks: Option<Clocks>,
    /// The longest pause between two failures of servers, and between two of relays.
    pub pause: Duration,
    /// The random seed.
    pub seed: u64,
    /// This program, of which relays are processes, with the arguments `relay DATABASE BROKER`.
    pub program: PathBuf,
    /// Called with progress reports.
    pub progress: fn(&str),
}

impl Plan {
    /// A short run with all failures and without progress reports.
    pub fn new(program: PathBuf, seed: u64) -> Self {
        Self {
            messages: 20_000,
            time: Duration::from_secs(60),
            faults: Kind::OF_RELAYS.len() + Kind::OF_SERVERS.len(),
            kinds: Kind::OF_RELAYS.into_iter().chain(Kind::OF_SERVERS).collect(),
            clocks: None,
            pause: 2 * SECOND,
            seed,
            program,
            progress: |_| {},
        }
    }
}

/// The result of a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// The verdict of the ledger.
    pub verdict: Verdict,
    /// Other errors: relays that exited without being asked, stuck messages.
    pub failures: Vec<String>,
    /// Number of occurrences of each failure.
    pub faults: BTreeMap<Kind, usize>,
    /// Number of repeats that the failures can explain.
    pub explicable: u64,
    /// From the start to the end of the failures.
    pub troubled: Duration,
    /// From then until no message was undelivered.
    pub drained: Duration,
    /// The longest time that the oldest undelivered message has waited.
    pub worst_lag: Duration,
    /// For each breach, the failures around that time.
    pub circumstances: Vec<String>,
    /// The random seed.
    pub seed: u64,
}

impl Report {
    /// Returns whether there was no error.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.failures.is_empty()
    }

    /// Returns the number of failures.
    pub fn fault_count(&self) -> usize {
        self.faults.values().sum()
    }

    /// Returns the report as one line of JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let faults: BTreeMap<&str, usize> =
            self.faults.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        serde_json::json!({
            "clean": self.is_clean(),
            "seed": self.seed,
            "committed": self.verdict.committed,
            "arrived": self.verdict.arrived,
            "duplicates": self.verdict.duplicates,
            "duplicates_explicable": self.explicable,
            "dead_letters": self.verdict.dead,
            "breaches": self.verdict.breaches.len() as u64 + self.verdict.more,
            "failures": self.failures,
            "faults": faults,
            "troubled_seconds": self.troubled.as_secs_f64(),
            "drained_seconds": self.drained.as_secs_f64(),
            "worst_lag_seconds": self.worst_lag.as_secs_f64(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verdict)?;
        for circumstances in &self.circumstances {
            writeln!(f, "{circumstances}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(f, "{} faults: {}", self.fault_count(), faults.join(", "))?;
        write!(
            f,
            "{:.0?} with faults, then {:.1?} until all was delivered; {} repeats can be explained; the oldest message \
             waited {:.1?} at most; seed {}: {}",
            self.troubled,
            self.drained,
            self.explicable,
            self.worst_lag,
            self.seed,
            if self.is_clean() { "CLEAN" } else { "BROKEN" },
        )
    }
}

/// The state that the parts of a run share.
struct Scene {
    plan: Plan,
    books: Arc<dyn Books>,
    broker: Arc<dyn Broker>,
    links: Links,
    relays: Mutex<Relays>,
    past: std::sync::Mutex<Vec<Past>>,
    progress: Arc<Progress>,
    /// Set when no further failure may start.
    peace: AtomicBool,
    worst_lag: AtomicU64,
    began: Instant,
}

/// Runs a plan.
///
/// # Panics
/// If a server does not restart, or a tool of the run breaks: this means nothing for the outbox.
pub async fn run(plan: Plan, books: Arc<dyn Books>, broker: Arc<dyn Broker>) -> Report {
    let links = Links::start(&*books, &*broker).await;
    let urls = (links.database_url(&*books), broker.url_through(&links.broker));
    let mut relays = Relays::new(plan.program.clone(), urls.0, urls.1, plan.clocks.clone());
    (0..RELAYS).for_each(|_| relays.join());
    let progress = Arc::new(Progress { written: AtomicU64::new(0), enough: AtomicBool::new(false) });
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let rate = plan.messages as f64 / plan.time.as_secs_f64().max(1.0) * 1.1;
    let mut writers = writers::start(&books, broker.topic(), rng.u64(..), rate, &progress);
    let scene = Scene {
        plan,
        books,
        broker,
        links,
        relays: Mutex::new(relays),
        past: std::sync::Mutex::default(),
        progress,
        peace: AtomicBool::new(false),
        worst_lag: AtomicU64::new(0),
        began: Instant::now(),
    };
    let (servers, of_relays) = (rng.fork(), rng.fork());
    tokio::join!(scene.trouble_servers(servers), scene.trouble_relays(of_relays), scene.watch());
    let troubled = scene.began.elapsed();
    scene.links.pass().await;
    while let Some(writer) = writers.join_next().await {
        writer.expect("a writer has broken");
    }
    let calm = Instant::now();
    let stuck = scene.drain().await;
    scene.report(stuck, troubled, calm.elapsed()).await
}

impl Scene {
    fn is_peace(&self) -> bool {
        self.peace.load(Ordering::Relaxed)
    }

    /// Decides when the run is long enough, and reports progress.
    async fn watch(&self) {
        let store = self.books.store();
        let mut told = Instant::now();
        let mut ticks = tokio::time::interval(SECOND);
        while !self.is_peace() {
            ticks.tick().await;
            // The database may be paused.
            let stats = tokio::time::timeout(SECOND, store.stats(1_000_000)).await;
            let stats = stats.ok().and_then(Result::ok);
            if let Some(lag) = stats.as_ref().and_then(|stats| stats.lag) {
                self.worst_lag.fetch_max(lag.as_millis() as u64, Ordering::Relaxed);
            }
            let written = self.progress.written.load(Ordering::Relaxed);
            let faults = self.past().len();
            if written >= self.plan.messages
                && faults >= self.plan.faults
                && self.all_kinds_have_been()
                && self.began.elapsed() >= self.plan.time
            {
                self.progress.enough.store(true, Ordering::Relaxed);
                self.peace.store(true, Ordering::Relaxed);
            }
            if told.elapsed() > 15 * SECOND || self.is_peace() {
                told = Instant::now();
                let waiting = stats.map_or("?".to_owned(), |stats| stats.backlog.to_string());
                (self.plan.progress)(&format!(
                    "{:>6.0?}  {written} written, {} arrived, {waiting} waiting, {faults} faults",
                    self.began.elapsed(),
                    self.broker.arrived(),
                ));
            }
        }
    }

    fn all_kinds_have_been(&self) -> bool {
        let past = self.past();
        self.possible().all(|kind| past.iter().any(|past| past.kind == kind))
    }

    /// The failures of the plan that are available here, with this database.
    fn possible(&self) -> impl Iterator<Item = Kind> {
        let has_process = self.books.address().is_some();
        let has_clocks = self.plan.clocks.is_some();
        let can_be = move |kind: &Kind| {
            (has_process || !kind.needs_database_process()) && (has_clocks || *kind != Kind::RelayClockJumps)
        };
        self.plan.kinds.iter().copied().filter(can_be)
    }

    fn past(&self) -> std::sync::MutexGuard<'_, Vec<Past>> {
        self.past.lock().expect("no code panics while it holds the list of faults")
    }

    fn deck(&self, of: &[Kind], rng: fastrand::Rng) -> Deck {
        Deck::new(self.possible().filter(|kind| of.contains(kind)).collect(), rng)
    }

    /// Draws failures and executes them, one after the other, with pauses, until the run is long enough.
    async fn trouble_servers(&self, rng: fastrand::Rng) {
        let mut deck = self.deck(&Kind::OF_SERVERS, rng);
        while !self.is_peace() {
            let pause = deck.between(SECOND / 5, self.plan.pause);
            tokio::time::sleep(pause).await;
            let Some(kind) = deck.draw() else { return };
            let lasts = deck.between(SECOND / 2, 5 * SECOND);
            self.note(kind, self.befall_server(kind, lasts)).await;
        }
    }

    async fn trouble_relays(&self, rng: fastrand::Rng) {
        let mut deck = self.deck(&Kind::OF_RELAYS, rng);
        while !self.is_peace() {
            let pause = deck.between(SECOND / 5, 2 * self.plan.pause);
            tokio::time::sleep(pause).await;
            let Some(kind) = deck.draw() else { return };
            let lasts = deck.between(LEASE / 3, 2 * LEASE);
            let dice = deck.rng.usize(..);
            self.note(kind, self.befall_relay(kind, dice, lasts)).await;
        }
    }

    async fn note(&self, kind: Kind, fault: impl Future<Output = ()>) {
        let (began, arrived) = (Instant::now(), self.broker.arrived());
        let relays = self.relays.lock().await.count();
        fault.await;
        let past = Past {
            kind,
            at: began - self.began,
            lasted: began.elapsed(),
            arrived: (arrived, self.broker.arrived()),
            relays,
        };
        self.past().push(past);
    }

    async fn befall_server(&self, kind: Kind, lasts: Duration) {
        let (books, broker, links) = (&self.books, &self.broker, &self.links);
        let pause = || tokio::time::sleep(lasts);
        let slow = Mode::Delay(lasts / 50);
        match kind {
            Kind::DatabaseKilled => {
                books.kill().await;
                books.restart().await;
            }
            Kind::DatabaseStopped => {
                books.stop().await;
                pause().await;
                books.cont().await;
            }
            Kind::BrokerKilled => {
                broker.kill().await;
                broker.restart().await;
            }
            Kind::BrokerStopped => {
                broker.stop().await;
                pause().await;
                broker.cont().await;
            }
            _ => {
                match kind {
                    Kind::DatabaseReset => links.set_database(Mode::Reset).await,
                    Kind::DatabaseBlackholed => links.set_database(Mode::Blackhole).await,
                    Kind::DatabaseVanishes => links.set_database(Mode::Vanish).await,
                    Kind::DatabaseSlow => links.set_database(slow).await,
                    Kind::DatabaseAnswersLost => links.set_database(Mode::CutAnswersAfter(0)).await,
                    Kind::BrokerReset => links.broker.set(Mode::Reset).await,
                    Kind::BrokerBlackholed => links.broker.set(Mode::Blackhole).await,
                    Kind::BrokerVanishes => links.broker.set(Mode::Vanish).await,
                    Kind::BrokerSlow => links.broker.set(slow).await,
                    // After the time for connecting, so that a message is published whose confirm is lost.
                    Kind::ConfirmsLost => links.broker.set(Mode::CutAnswersAfter(2_000)).await,
                    _ => unreachable!("{kind} is not of servers"),
                }
                pause().await;
                links.pass().await;
            }
        }
    }

    async fn befall_relay(&self, kind: Kind, dice: usize, lasts: Duration) {
        let mut relays = self.relays.lock().await;
        relays.look_after();
        let count = relays.count();
        let victim = dice % count;
        match kind {
            Kind::RelayKilled => {
                relays.kill(victim);
                relays.join();
            }
            Kind::RelayStopped => {
                relays.stop(victim);
                tokio::time::sleep(lasts).await;
                relays.cont(victim);
            }
            Kind::RelayLeaves => {
                relays.leave(victim).await;
                relays.join();
            }
            Kind::RelayJoins if count < 5 => relays.join(),
            Kind::RelayJoins => {
                relays.leave(victim).await;
                relays.kill(0);
            }
            Kind::RelayClockJumps => relays.jump(victim, dice / count),
            Kind::Migrated => {
                // The database may be down at that moment because of another failure.
                let _ = tokio::time::timeout(10 * SECOND, self.books.migrate()).await;
            }
            _ => unreachable!("{kind} is not of relays"),
        }
    }

    /// Waits until no message is undelivered, and reports the undelivered ones if it takes too long.
    async fn drain(&self) -> Option<String> {
        let store = self.books.store();
        let began = Instant::now();
        let mut ticks = tokio::time::interval(SECOND / 10);
        loop {
            ticks.tick().await;
            let stats = store.stats(1_000_000).await;
            match stats {
                Ok(stats) if stats.backlog.value == 0 => return None,
                stats if began.elapsed() > DRAIN => {
                    return Some(format!("after {DRAIN:?} of peace something is undelivered: {stats:?}"));
                }
                _ => {}
            }
        }
    }

    async fn report(self, stuck: Option<String>, troubled: Duration, drained: Duration) -> Report {
        let mut failures: Vec<String> = stuck.into_iter().collect();
        let mut relays = self.relays.into_inner();
        relays.look_after();
        relays.end().await;
        failures.extend_from_slice(relays.failures());
        let stats = self.books.store().stats(1_000_000).await.expect("the database answers in peace");
        if stats.dead_letters.value > 0 {
            failures.push(format!("{} messages were given up", stats.dead_letters));
        }

        let committed = self.books.committed().await;
        let mut ledger = Ledger::new();
        for (key, number) in &committed {
            let (key, number) = writers::entry(*key, *number);
            ledger.committed(key.as_deref(), number);
        }
        // Confirmed messages may not have been consumed yet.
        if failures.is_empty() {
            let all = async {
                let mut ticks = tokio::time::interval(SECOND / 10);
                while self.broker.arrived() < committed.len() {
                    ticks.tick().await;
                }
            };
            // The ledger reports the messages that are still missing.
            let _ = tokio::time::timeout(60 * SECOND, all).await;
        }
        for payload in self.broker.arrivals() {
            match writers::entry_of(&payload) {
                Some((key, number)) => ledger.arrived(key.as_deref(), number),
                None => failures.push(format!("not written by this run: {payload}")),
            }
        }
        let past =
            std::mem::take(&mut *self.past.lock().expect("no code panics while it holds the list of faults"));
        let windows: usize = past.iter().map(|past| past.kind.windows(past.relays)).sum();
        let explicable = (windows * WINDOW) as u64;
        let verdict = ledger.verdict(&Rules::new().most_duplicates(explicable));
        let mut faults = BTreeMap::new();
        for past in &past {
            *faults.entry(past.kind).or_insert(0) += 1;
        }
        let circumstances = if verdict.is_clean() && failures.is_empty() {
            Vec::new()
        } else {
            circumstances(&verdict, &past)
        };
        Report {
            verdict,
            failures,
            faults,
            explicable,
            troubled,
            drained,
            worst_lag: Duration::from_millis(self.worst_lag.load(Ordering::Relaxed)),
            circumstances,
            seed: self.plan.seed,
        }
    }
}

/// The failures around the time of each breach, or all of them if that time is unknown.
fn circumstances(verdict: &Verdict, past: &[Past]) -> Vec<String> {
    let at = verdict.breaches.iter().filter_map(|(breach, _)| match breach {
        Breach::Overtaken { at, .. } => Some(*at as usize),
        _ => None,
    });
    let near: Vec<usize> = at.collect();
    let concerns = |past: &&Past| {
        near.is_empty() || near.iter().any(|at| (past.arrived.0..past.arrived.1 + 5 * WINDOW).contains(at))
    };
    past.iter().filter(concerns).map(ToString::to_string).collect()
}
