//! Which steps of a case are delayed, and by how much.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The longest delay of a step. Much longer than a busy machine keeps a process waiting.
pub(crate) const LONGEST_STEP: Duration = Duration::from_secs(20);

/// Delays the steps of one run of a case. A step is one side of a call: the way there, or the way back.
pub(crate) struct Pace {
    delays: Delays,
    steps: AtomicUsize,
}

enum Delays {
    None,
    OneStep(usize),
    Random { seed: u64, random: Mutex<fastrand::Rng> },
}

impl Pace {
    pub(crate) fn undelayed() -> Self {
        Self { delays: Delays::None, steps: AtomicUsize::new(0) }
    }

    pub(crate) fn one_slow_step(step: usize) -> Self {
        Self { delays: Delays::OneStep(step), steps: AtomicUsize::new(0) }
    }

    pub(crate) fn random(seed: u64) -> Self {
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        Self { delays: Delays::Random { seed, random }, steps: AtomicUsize::new(0) }
    }

    /// The number of steps so far.
    pub(crate) fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Takes one step, with its delay.
    pub(crate) async fn step(&self) {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let delay = match &self.delays {
            Delays::None => Duration::ZERO,
            Delays::OneStep(slow) if *slow == step => LONGEST_STEP,
            Delays::OneStep(_) => Duration::ZERO,
            Delays::Random { random, .. } => random_delay(&mut random.lock().unwrap()),
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}

/// Half of the steps are not delayed, so that the order of magnitude differs from one step to the next.
fn random_delay(random: &mut fastrand::Rng) -> Duration {
    let most = match random.u32(0..8) {
        0..4 => return Duration::ZERO,
        4 => Duration::from_millis(20),
        5 | 6 => Duration::from_secs(1),
        _ => LONGEST_STEP,
    };
    most.mul_f64(random.f64())
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.delays {
            Delays::None => f.write_str("without delays"),
            Delays::OneStep(step) => write!(f, "with step {step} delayed by {LONGEST_STEP:?}"),
            Delays::Random { seed, .. } => write!(f, "with delays of seed {seed}"),
        }
    }
}
