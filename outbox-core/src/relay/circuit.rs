//! The circuit breaker: a broker that is down is left alone and probed, instead of burning attempts.

use std::time::Duration;

use tokio::time::Instant;

use super::CallId;
use super::backoff::RetryPolicy;

/// What may be published now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Anything.
    Full,
    /// One message in one call.
    Probe,
    /// One message that has not failed, in one call. Anything else from then on, if there is a time.
    Fresh(Option<Instant>),
    /// Nothing until then.
    Wait(Instant),
    /// Nothing until the running probe has answered.
    Probing,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant },
    Probing { call: CallId, fresh: bool },
}

/// Opens when a call fails as a whole, lets single messages through, and closes when one of them is answered.
///
/// As long as only messages have failed that may be the reason themselves, one that has not failed yet need not wait.
#[derive(Debug)]
pub(crate) struct Circuit {
    state: State,
    /// Whether a message has failed as a probe that had not failed before.
    is_down: bool,
    /// Whether nothing goes before the pause ends, although the broker is not known to be down.
    is_paused: bool,
    failures: u32,
    pauses: RetryPolicy,
}

impl Circuit {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        let pauses = RetryPolicy::default().initial(initial).max(max).jitter(false);
        Self { state: State::Closed, is_down: false, is_paused: false, failures: 0, pauses }
    }

    pub(crate) fn permission(&self, now: Instant) -> Permission {
        match self.state {
            State::Closed => Permission::Full,
            State::Open { until } if now >= until => Permission::Probe,
            State::Open { until } if self.is_down || self.is_paused => Permission::Wait(until),
            State::Open { until } => Permission::Fresh(Some(until)),
            State::Probing { fresh: false, .. } if !self.is_down => Permission::Fresh(None),
            State::Probing { .. } => Permission::Probing,
        }
    }

    /// A probe begins. `fresh` says that its message has not failed before.
    pub(crate) fn probe_started(&mut self, call: CallId, fresh: bool) {
        self.state = State::Probing { call, fresh };
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// Whether the broker is known to be down, and not only suspected.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down
    }

    /// Whether this call is the running probe; and if so, whether its message had not failed before.
    pub(crate) fn probe(&self, call: CallId) -> Option<bool> {
        match self.state {
            State::Probing { call: probe, fresh } if probe == call => Some(fresh),
            _ => None,
        }
    }

    /// A call failed as a whole. Returns the pause, unless the circuit was open already and this was not its probe: calls that
    /// were in flight together fail together and count once.
    pub(crate) fn failed(
        &mut self,
        call: CallId,
        now: Instant,
        advice: Option<Duration>,
    ) -> Option<Duration> {
        let probe = self.probe(call);
        if self.is_open() && probe.is_none() {
            return None;
        }
        self.is_down |= probe == Some(true);
        self.is_paused = false;
        Some(self.pause(now, advice))
    }

    /// The broker fails time and again, although it answers in between. Returns the pause that it gets.
    pub(crate) fn give_up(&mut self, now: Instant) -> Duration {
        self.is_paused = true;
        self.pause(now, None)
    }

    fn pause(&mut self, now: Instant, advice: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        // The broker may ask for more than our own pause, but not for more than the setting allows.
        let advice = advice.unwrap_or_default().min(self.pauses.max);
        let pause = self.pauses.ceiling(self.failures).max(advice);
        self.state = State::Open { until: now + pause };
        pause
    }

    /// The probe was answered.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.is_down = false;
        self.is_paused = false;
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    fn circuit() -> Circuit {
        Circuit::new(PAUSE, PAUSE * 4)
    }

    #[tokio::test(start_paused = true)]
    async fn opens_probes_and_closes() {
        let mut circuit = circuit();
        let now = Instant::now();
        assert_eq!(circuit.permission(now), Permission::Full);
        assert_eq!(circuit.failed(CallId(0), now, None), Some(PAUSE));
        assert_eq!(circuit.failed(CallId(1), now, None), None, "calls in flight together count once");
        assert_eq!(circuit.permission(now), Permission::Fresh(Some(now + PAUSE)));

        circuit.probe_started(CallId(2), true);
        assert_eq!(circuit.permission(now), Permission::Probing);
        assert_eq!(circuit.failed(CallId(1), now, None), None, "not the probe");
        assert_eq!(circuit.failed(CallId(2), now, None), Some(PAUSE * 2), "the pause doubles");
        assert_eq!(circuit.permission(now), Permission::Wait(now + PAUSE * 2), "the broker is down");

        let later = now + PAUSE * 2;
        assert_eq!(circuit.permission(later), Permission::Probe);
        circuit.probe_started(CallId(3), false);
        assert_eq!(circuit.permission(later), Permission::Probing);
        circuit.close();
        assert_eq!(circuit.permission(later), Permission::Full);
        let advice = Some(PAUSE * 3);
        assert_eq!(circuit.failed(CallId(4), later, advice), advice, "the advice is a lower bound");
    }

    #[tokio::test(start_paused = true)]
    async fn while_only_suspects_have_failed_a_new_message_need_not_wait() {
        let mut circuit = circuit();
        let now = Instant::now();
        circuit.failed(CallId(0), now, None);
        circuit.probe_started(CallId(1), false);
        assert_eq!(circuit.permission(now), Permission::Fresh(None), "while a suspect is being tried again");
        circuit.failed(CallId(1), now, None);
        assert_eq!(circuit.permission(now), Permission::Fresh(Some(now + PAUSE * 2)));
        circuit.probe_started(CallId(2), true);
        circuit.failed(CallId(2), now, None);
        assert!(circuit.is_down());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_fails_time_and_again_gets_one_pause() {
        let mut circuit = circuit();
        let now = Instant::now();
        assert_eq!(circuit.give_up(now), PAUSE);
        assert_eq!(circuit.permission(now), Permission::Wait(now + PAUSE));
        circuit.probe_started(CallId(0), false);
        circuit.failed(CallId(0), now + PAUSE, None);
        assert_eq!(circuit.permission(now + PAUSE), Permission::Fresh(Some(now + PAUSE * 3)));
    }

    #[tokio::test(start_paused = true)]
    async fn advice_is_limited_by_the_longest_pause() {
        for advice in [Duration::from_secs(86_400), Duration::from_secs(u64::MAX), Duration::MAX] {
            assert_eq!(circuit().failed(CallId(0), Instant::now(), Some(advice)), Some(PAUSE * 4));
        }
    }
}
