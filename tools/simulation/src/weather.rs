//! The current failure rates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A call that takes longer is counted while it runs.
const LONG: Duration = Duration::from_secs(1);

/// The failures of a call. Chances are in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chances {
    /// It fails, and has no effect.
    pub(crate) fails: u32,
    /// It takes effect, and the answer is lost.
    pub(crate) is_lost: u32,
    /// Only for a publish: the request has left, and arrives after the relay has stopped waiting for it.
    pub(crate) is_late: u32,
    /// It takes very long.
    pub(crate) is_slow: u32,
    /// The longest time it takes otherwise, in milliseconds, before it takes effect and again before its
    /// answer.
    pub(crate) delay: u64,
}

impl Chances {
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Self {
        // Many runs have few kinds of failures, so that the effects of the others show.
        let mut some = |most: u32| if rng.u32(0..3) == 0 { rng.u32(0..most) } else { 0 };
        let (fails, is_lost, is_late, is_slow) = (some(200), some(200), some(60), some(60));
        Self { fails, is_lost, is_late, is_slow, delay: [0, 0, 5, 50, 400][rng.usize(..5)] }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) store: Chances,
    pub(crate) broker: Chances,
    pub(crate) store_down: bool,
    pub(crate) broker_down: bool,
    /// A message is refused temporarily, at random.
    pub(crate) refuses: u32,
    /// Numbers divisible by this are refused permanently; 0 for none.
    pub(crate) poison: u64,
    /// The store refuses settlements of positions divisible by this; 0 for none.
    pub(crate) unsettled: i64,
    /// This kind of call to the store hangs.
    pub(crate) hangs: Option<&'static str>,
    /// Numbers divisible by this make their call fail as a whole; 0 for none.
    pub(crate) breaks: u64,
    /// Time that the broker needs for each message, one after the other, for all relays together.
    pub(crate) pace: Duration,
}

impl Conditions {
    /// Whether this message makes its call fail as a whole.
    pub(crate) fn is_breaking(&self, number: u64) -> bool {
        self.breaks != 0 && number.is_multiple_of(self.breaks)
    }
}

/// The failure rates for all relays, and the number of events that may cause repeats.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    now: Mutex<Conditions>,
    causes: AtomicU64,
    long_calls: AtomicU64,
}

/// A call that takes long, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Weather>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.long_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The failure of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) before: Duration,
    pub(crate) fails: bool,
    pub(crate) is_late: bool,
    pub(crate) after: Duration,
    pub(crate) is_lost: bool,
}

impl Weather {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn now(&self) -> Conditions {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, conditions: Conditions) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = conditions;
    }

    /// Ends all failures.
    pub(crate) fn clear(&self) {
        self.set(Conditions::default());
    }

    /// Records an event that may have made a relay publish its window again.
    pub(crate) fn may_repeat(&self) {
        self.causes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call that may still run after the failures have ended.
    pub(crate) fn under_way(self: &Arc<Self>, fate: &Fate) -> Option<UnderWay> {
        let is_long = fate.is_late || fate.before + fate.after > LONG;
        is_long.then(|| {
            self.long_calls.fetch_add(1, Ordering::Relaxed);
            UnderWay(self.clone())
        })
    }

    /// Counts a call that the broker has queued for this long.
    pub(crate) fn queued(self: &Arc<Self>, wait: Duration) -> Option<UnderWay> {
        self.under_way(&Fate {
            before: wait,
            fails: false,
            is_late: false,
            after: Duration::ZERO,
            is_lost: false,
        })
    }

    pub(crate) fn long_calls(&self) -> u64 {
        self.long_calls.load(Ordering::Relaxed)
    }

    pub(crate) fn causes(&self) -> u64 {
        self.causes.load(Ordering::Relaxed)
    }
}

impl Fate {
    /// Returns whether a relay may give the call up, or not learn its result.
    pub(crate) fn may_repeat(&self) -> bool {
        self.is_late || self.is_lost || self.before + self.after > LONG
    }

    pub(crate) fn draw(rng: &mut fastrand::Rng, chances: Chances, down: bool) -> Self {
        let mut is = |chance: u32| rng.u32(0..1_000) < chance;
        let (fails, is_lost, is_late, is_slow) =
            (is(chances.fails), is(chances.is_lost), is(chances.is_late), is(chances.is_slow));
        let mut delay = || Duration::from_millis(rng.u64(0..=chances.delay));
        let (mut before, mut after) = (delay(), delay());
        if is_slow {
            // Beyond the publish timeout, and often beyond the lease.
            let long = Duration::from_millis(rng.u64(2_000..60_000));
            if rng.bool() { before += long } else { after += long }
        }
        Self { before, fails: fails || down, is_late, after, is_lost }
    }
}
