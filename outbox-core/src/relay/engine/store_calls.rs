//! The kinds of calls to the store. At most one call of each kind runs at a time.

use std::time::Duration;

use tokio::time::Instant;

use crate::relay::settings::Settings;

/// One kind of call: whether one is running, when the next one may start, and how many failed in a row.
#[derive(Debug)]
pub(super) struct StoreCall {
    running: bool,
    /// `None` if no call is planned.
    next: Option<Instant>,
    failures: u32,
}

impl StoreCall {
    fn at(next: Option<Instant>) -> Self {
        Self { running: false, next, failures: 0 }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// Returns when the next call may start, unless one is running or none is planned.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.filter(|_| !self.running)
    }

    pub(super) fn may_start(&self, now: Instant) -> bool {
        self.next().is_some_and(|next| next <= now)
    }

    pub(super) fn started(&mut self) {
        self.running = true;
    }

    /// The store answered. Another call may start from now on.
    pub(super) fn succeeded(&mut self) {
        self.running = false;
        self.failures = 0;
    }

    /// The call failed, or was not answered in time. Returns how many failed in a row.
    pub(super) fn failed(&mut self) -> u32 {
        self.running = false;
        self.failures = self.failures.saturating_add(1);
        self.failures
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
    pub(super) announce: StoreCall,
    pub(super) maintain: StoreCall,
    pub(super) measure: StoreCall,
}

impl StoreCalls {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        let at_once = || StoreCall::at(Some(now));
        Self {
            heartbeat: at_once(),
            release: at_once(),
            fetch: at_once(),
            settle: at_once(),
            announce: at_once(),
            maintain: StoreCall::at(Some(now + settings.purge_interval)),
            measure: StoreCall::at(settings.stats_interval.map(|_: Duration| now)),
        }
    }
}
