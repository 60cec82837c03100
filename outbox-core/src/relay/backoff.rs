//! When to try again.

use std::time::Duration;

use crate::error::{Error, Result};

/// How often a message is tried, and how long to wait in between.
///
/// The wait before attempt *n + 1* is drawn evenly from `0 ..= min(max, initial * factor^(n-1))` ("full jitter"),
/// so that messages which failed together do not come back together. A broker's own advice (`retry_after`) is a
/// lower bound, up to `max`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts, the first included, before a message goes to the dead letters. Default: 10, which with the other
    /// defaults spans some 10 minutes on average: time for a person to notice and for a deployment to be undone.
    pub max_attempts: u32,
    /// The largest wait after the first attempt. Default: 2 seconds.
    pub initial: Duration,
    /// The largest wait at all. Default: 10 minutes.
    pub max: Duration,
    /// How much the largest wait grows with each attempt. Default: 2.
    pub factor: f64,
    /// Whether to draw from the range, or to wait its upper end each time. Default: `true`.
    pub jitter: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            initial: Duration::from_secs(2),
            max: Duration::from_secs(600),
            factor: 2.0,
            jitter: true,
        }
    }
}

impl RetryPolicy {
    /// Sets [`max_attempts`](Self::max_attempts).
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets [`initial`](Self::initial).
    #[must_use]
    pub fn initial(mut self, wait: Duration) -> Self {
        self.initial = wait;
        self
    }

    /// Sets [`max`](Self::max).
    #[must_use]
    pub fn max(mut self, wait: Duration) -> Self {
        self.max = wait;
        self
    }

    /// Sets [`factor`](Self::factor).
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// Sets [`jitter`](Self::jitter).
    #[must_use]
    pub fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.max_attempts == 0 {
            return Err(Error::config("retry.max_attempts is 0; a message needs at least 1 attempt"));
        }
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return Err(
                Error::config("retry.factor must be a number of at least 1").with("factor", self.factor)
            );
        }
        if self.max < self.initial {
            return Err(Error::config("retry.max is shorter than retry.initial"));
        }
        Ok(())
    }

    /// The longest wait after `attempts` attempts have failed.
    pub(crate) fn ceiling(&self, attempts: u32) -> Duration {
        let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(exponent);
        // A factor to a high power leaves the range of a Duration, or of numbers; both mean "the longest".
        Duration::try_from_secs_f64(seconds).map_or(self.max, |wait| wait.min(self.max))
    }

    /// How long to wait after `attempts` attempts have failed: at least `retry_after`, and never longer than `max`.
    pub(crate) fn wait(
        &self,
        attempts: u32,
        retry_after: Option<Duration>,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        let ceiling = self.ceiling(attempts);
        let wait = if self.jitter { ceiling.mul_f64(rng.f64()) } else { ceiling };
        wait.max(retry_after.unwrap_or_default().min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ceiling_grows_and_stops_at_the_maximum() {
        let policy = RetryPolicy::default().initial(Duration::from_secs(1)).max(Duration::from_secs(10));
        let ceilings: Vec<u64> = (1..=6).map(|attempts| policy.ceiling(attempts).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 10, 10]);
    }

    proptest! {
        #[test]
        fn every_wait_is_within_the_ceiling_and_honours_the_broker(
            attempts in 0..u32::MAX, advice in prop::option::of(prop_oneof![0..1_000_000_u64, Just(u64::MAX)]), seed: u64,
        ) {
            let policy = RetryPolicy::default();
            let advice = advice.map(Duration::from_millis);
            let wait = policy.wait(attempts, advice, &mut fastrand::Rng::with_seed(seed));
            let advice = advice.unwrap_or_default().min(policy.max);
            prop_assert!(wait <= policy.ceiling(attempts).max(advice));
            prop_assert!(wait >= advice);
        }
    }
}
