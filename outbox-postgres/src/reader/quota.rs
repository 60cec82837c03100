//! How many rows each partition may bring.

/// How much a partition brought lately, relative to others. It grows while the partition brings as much as it may and
/// shrinks while it does not, so that the one partition with a backlog soon gets nearly the whole limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight(u32);

const LEAST: u32 = 1;
/// Against 15 others at the least weight, this takes 99.6 % of a limit.
const MOST: u32 = 4096;
/// From the least to the most in six fetches.
const FACTOR: u32 = 4;

impl Default for Weight {
    fn default() -> Self {
        Self(LEAST)
    }
}

impl Weight {
    pub(crate) fn note(&mut self, full: bool) {
        self.0 = if full { (self.0 * FACTOR).min(MOST) } else { (self.0 / FACTOR).max(LEAST) };
    }
}

/// Shares `limit` out by weight. Everybody gets one at least, so it may come to more if there are more of them than
/// the limit.
pub(crate) fn share(limit: usize, weights: &[Weight]) -> Vec<usize> {
    let total: usize = weights.iter().map(|weight| weight.0 as usize).sum();
    // With one for everybody beforehand the sum cannot exceed the limit.
    let rest = limit.saturating_sub(weights.len());
    weights.iter().map(|weight| 1 + rest.saturating_mul(weight.0 as usize) / total.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_fair_and_within_the_limit(limit in 0..5000_usize, full in prop::collection::vec(0..8_u32, 1..40)) {
            let weights: Vec<_> = full.iter().map(|times| {
                let mut weight = Weight::default();
                (0..*times).for_each(|_| weight.note(true));
                weight
            }).collect();
            let shares = share(limit, &weights);
            prop_assert!(shares.iter().all(|share| *share >= 1));
            prop_assert!(shares.iter().sum::<usize>() <= limit.max(weights.len()));
            for (a, b) in weights.iter().zip(&shares) {
                for (c, d) in weights.iter().zip(&shares) {
                    prop_assert!(a.0 < c.0 || b >= d);
                }
            }
        }
    }

    #[test]
    fn one_hot_partition_gets_nearly_everything() {
        let mut weights = vec![Weight::default(); 16];
        for _ in 0..6 {
            weights[3].note(true);
        }
        assert!(share(1000, &weights)[3] > 970, "{:?}", share(1000, &weights));
        for _ in 0..6 {
            weights[3].note(false);
        }
        assert_eq!(weights[3], Weight::default());
    }
}
