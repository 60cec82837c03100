//! Figures of several rounds, and their statistics.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The results of the rounds of one contender.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
    /// All results, in the order of the rounds.
    pub rounds: Vec<f64>,
}

impl Summary {
    /// Creates it from at least one round.
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self { median, min: end(sorted.first()), max: end(sorted.last()), rounds: rounds.to_vec() }
    }

    /// Creates it from the ratios of two contenders in the same rounds, which vary less than the rounds
    /// themselves.
    pub fn ratio(of: &Self, to: &Self) -> Self {
        Self::of(&of.rounds.iter().zip(&to.rounds).map(|(of, to)| of / to).collect::<Vec<_>>())
    }
}

/// Latencies, with a relative precision of a thousandth.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Creates it empty. The range is from a microsecond to a minute.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 60_000_000, 3)?))
    }

    /// Adds a latency. A longer one than a minute counts as a minute.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Returns their number.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns the latency, in milliseconds, that this fraction of them does not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let summary = Summary::of(&[3.0, 1.0, 10.0]);
        assert_eq!((summary.median, summary.min, summary.max), (3.0, 1.0, 10.0));
        assert_eq!(Summary::of(&[1.0, 2.0]).median, 1.5);
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let ratio = Summary::ratio(&Summary::of(&[10.0, 1.0]), &Summary::of(&[20.0, 2.0]));
        assert_eq!((ratio.min, ratio.max), (0.5, 0.5));
    }

    #[test]
    fn quantiles_are_in_milliseconds() {
        let mut latencies = Latencies::new().unwrap();
        (1..=100).for_each(|n| latencies.record(Duration::from_millis(n)));
        assert!((latencies.quantile(0.5) - 50.0).abs() < 0.1);
        assert!((latencies.quantile(0.99) - 99.0).abs() < 0.1);
    }
}
