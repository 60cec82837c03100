//! What payloads are to be expected, from those that came before.

/// Small ones are looked for again after so many fetches without a large one. A wrong guess costs a fetch more.
const PATIENCE: u32 = 64;

/// Small ones, until there was a large one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    /// For so many fetches yet, large ones.
    large: u32,
}

impl Expected {
    pub(crate) fn are_small(&self) -> bool {
        self.large == 0
    }

    /// What a fetch brought that was ready for large ones.
    pub(crate) fn note(&mut self, small: bool) {
        self.large = if small { self.large.saturating_sub(1) } else { PATIENCE };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones_are_expected_again_after_a_while() {
        let mut expected = Expected::default();
        assert!(expected.are_small());
        expected.note(false);
        for _ in 0..PATIENCE {
            assert!(!expected.are_small());
            expected.note(true);
        }
        assert!(expected.are_small());
    }
}
