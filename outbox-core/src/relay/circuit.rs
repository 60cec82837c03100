//! The circuit breaker: a broker that is down is left alone and probed, instead of burning attempts.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::RetryPolicy;

/// What may be published now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Anything.
    Full,
    /// One message in one call, and nothing else until it has answered.
    Probe,
    /// Nothing until then.
    Wait(Instant),
    /// Nothing until the running probe has answered.
    Probing,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant },
    Probing,
}

/// Opens on a broker-wide failure, lets a single message through after a pause, and closes on any answer.
#[derive(Debug)]
pub(crate) struct Circuit {
    state: State,
    failures: u32,
    pauses: RetryPolicy,
}

impl Circuit {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        let pauses = RetryPolicy::default().initial(initial).max(max).jitter(false);
        Self { state: State::Closed, failures: 0, pauses }
    }

    pub(crate) fn permission(&self, now: Instant) -> Permission {
        match self.state {
            State::Closed => Permission::Full,
            State::Open { until } if now < until => Permission::Wait(until),
            State::Open { .. } => Permission::Probe,
            State::Probing => Permission::Probing,
        }
    }

    pub(crate) fn probe_started(&mut self) {
        self.state = State::Probing;
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// The broker failed as a whole. Answers with the pause if the circuit was closed or probing until now;
    /// calls that were in flight together fail together and count once.
    pub(crate) fn failed(&mut self, now: Instant, advice: Option<Duration>) -> Option<Duration> {
        if matches!(self.state, State::Open { .. }) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        // The broker may ask for more than our own pause, but not for more than the setting allows.
        let advice = advice.unwrap_or_default().min(self.pauses.max);
        let pause = self.pauses.ceiling(self.failures).max(advice);
        self.state = State::Open { until: now + pause };
        Some(pause)
    }

    /// The broker answered. Says whether that closed the circuit.
    pub(crate) fn answered(&mut self) -> bool {
        let was_open = self.is_open();
        self.state = State::Closed;
        self.failures = 0;
        was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_probes_and_closes() {
        let mut circuit = Circuit::new(Duration::from_secs(1), Duration::from_secs(4));
        let start = Instant::now();
        assert_eq!(circuit.permission(start), Permission::Full);
        assert_eq!(circuit.failed(start, None), Some(Duration::from_secs(1)));
        assert_eq!(circuit.failed(start, None), None, "calls that fail together count once");
        assert_eq!(circuit.permission(start), Permission::Wait(start + Duration::from_secs(1)));

        let later = start + Duration::from_secs(1);
        assert_eq!(circuit.permission(later), Permission::Probe);
        circuit.probe_started();
        assert_eq!(circuit.permission(later), Permission::Probing);
        assert_eq!(circuit.failed(later, None), Some(Duration::from_secs(2)), "the pause doubles");

        assert!(circuit.answered());
        assert!(!circuit.answered());
        assert_eq!(circuit.permission(later), Permission::Full);
        let advice = Some(Duration::from_secs(3));
        assert_eq!(circuit.failed(later, advice), advice, "the broker's advice is a lower bound");
    }

    #[tokio::test(start_paused = true)]
    async fn advice_is_limited_by_the_longest_pause() {
        for advice in [Duration::from_secs(86_400), Duration::from_secs(u64::MAX), Duration::MAX] {
            let mut circuit = Circuit::new(Duration::from_secs(1), Duration::from_secs(4));
            assert_eq!(circuit.failed(Instant::now(), Some(advice)), Some(Duration::from_secs(4)));
        }
    }
}
