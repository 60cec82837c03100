//! The kinds of calls to the store. At most one call of each kind runs at a time; of settle calls see [`super::settling`].

use std::time::Duration;

use tokio::time::Instant;

use crate::relay::backoff::RetryPolicy;
use crate::relay::settings::Settings;

/// A kind of call to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Heartbeat,
    Release,
    Fetch,
    Settle,
    SetIdle,
    Repair,
    Purge,
    Stats,
}

impl Kind {
    /// The name of the method, for logs and events.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Release => "release",
            Self::Fetch => "fetch",
            Self::Settle => "settle",
            Self::SetIdle => "set_idle",
            Self::Repair => "repair",
            Self::Purge => "purge",
            Self::Stats => "stats",
        }
    }
}

/// One kind of call: whether one is running, when the next one may start, and how the last ones ended.
#[derive(Debug)]
pub(super) struct StoreCall {
    running: bool,
    /// `None` if no call is planned.
    next: Option<Instant>,
    /// How many calls failed in a row.
    failures: u32,
    /// How many calls were started, and when the last one was.
    started: u64,
    started_at: Option<Instant>,
}

impl StoreCall {
    fn at(next: Option<Instant>) -> Self {
        Self { running: false, next, failures: 0, started: 0, started_at: None }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns when the next call may start, unless one is running or none is planned.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.filter(|_| !self.running)
    }

    /// Returns when the planned time is, whether or not a call is running.
    pub(super) fn pause_over(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn may_start(&self, now: Instant) -> bool {
        self.next().is_some_and(|next| next <= now)
    }

    /// Starts a call and returns its number.
    pub(super) fn start(&mut self, now: Instant) -> u64 {
        self.running = true;
        self.started_at = Some(now);
        self.started += 1;
        self.started
    }

    /// Returns when the last call was started.
    pub(super) fn started_at(&self) -> Option<Instant> {
        self.started_at
    }

    /// Returns the number that the next call will have.
    pub(super) fn next_number(&self) -> u64 {
        self.started + 1
    }

    /// Takes note that the store answered.
    pub(super) fn succeeded(&mut self) {
        self.running = false;
        self.failures = 0;
    }

    /// Takes note that the call failed or was not answered in time.
    pub(super) fn failed(&mut self) {
        self.running = false;
        self.failures = self.failures.saturating_add(1);
    }

    /// Takes note that the store answered, and refused some of the rows.
    pub(super) fn refused(&mut self) {
        self.succeeded();
    }

    /// Returns how long to leave the store alone after the last failure.
    pub(super) fn pause(&self, rng: &mut fastrand::Rng) -> Duration {
        let pauses = RetryPolicy::default().initial(Duration::from_millis(100)).max(Duration::from_secs(5));
        let ceiling = pauses.ceiling(self.failures);
        // At least half of it, so that many relays neither flood the store nor come back in step.
        ceiling.mul_f64(0.5 + rng.f64() / 2.0)
    }

    /// Plans the next call for this time.
    pub(super) fn plan(&mut self, next: Instant) {
        self.next = Some(next);
    }

    /// Plans the next call for this time at the latest.
    pub(super) fn plan_by(&mut self, latest: Instant) {
        self.next = Some(self.next.map_or(latest, |next| next.min(latest)));
    }
}

/// All kinds of calls to the store.
#[derive(Debug)]
pub(super) struct StoreCalls {
    pub(super) heartbeat: StoreCall,
    pub(super) release: StoreCall,
    /// The pacer decides when a fetch is wanted. This is when one may start after a failure.
    pub(super) fetch: StoreCall,
    pub(super) settle: StoreCall,
    pub(super) set_idle: StoreCall,
    pub(super) repair: StoreCall,
    pub(super) purge: StoreCall,
    pub(super) stats: StoreCall,
}

impl StoreCalls {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        let immediately = || StoreCall::at(Some(now));
        let later = now + settings.purge_interval;
        Self {
            heartbeat: immediately(),
            release: immediately(),
            fetch: immediately(),
            settle: immediately(),
            set_idle: immediately(),
            repair: StoreCall::at(Some(later)),
            purge: StoreCall::at(settings.retention.map(|_: Duration| later)),
            stats: StoreCall::at(settings.stats_interval.map(|_: Duration| now)),
        }
    }

    pub(super) fn is_running(&self, kind: Kind) -> bool {
        let call = match kind {
            Kind::Heartbeat => &self.heartbeat,
            Kind::Release => &self.release,
            Kind::Fetch => &self.fetch,
            Kind::Settle => &self.settle,
            Kind::SetIdle => &self.set_idle,
            Kind::Repair => &self.repair,
            Kind::Purge => &self.purge,
            Kind::Stats => &self.stats,
        };
        call.is_running()
    }

    pub(super) fn get(&mut self, kind: Kind) -> &mut StoreCall {
        match kind {
            Kind::Heartbeat => &mut self.heartbeat,
            Kind::Release => &mut self.release,
            Kind::Fetch => &mut self.fetch,
            Kind::Settle => &mut self.settle,
            Kind::SetIdle => &mut self.set_idle,
            Kind::Repair => &mut self.repair,
            Kind::Purge => &mut self.purge,
            Kind::Stats => &mut self.stats,
        }
    }
}
