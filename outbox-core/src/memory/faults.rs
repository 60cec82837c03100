//! Making the memory store fail in the ways of real ones.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::store::Settle;

/// A call of the memory store that can be counted, delayed and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// [`Store::heartbeat`](crate::Store::heartbeat).
    Heartbeat,
    /// [`Store::release`](crate::Store::release).
    Release,
    /// [`Store::leave`](crate::Store::leave).
    Leave,
    /// [`Reader::fetch`](crate::Reader::fetch).
    Fetch,
    /// [`Store::settle`](crate::Store::settle).
    Settle,
    /// [`Store::purge`](crate::Store::purge).
    Purge,
    /// [`Store::repair`](crate::Store::repair).
    Repair,
    /// [`Store::stats`](crate::Store::stats).
    Stats,
    /// [`Store::wakeups`](crate::Store::wakeups).
    Wakeups,
    /// [`Wakeups::wait`](crate::Wakeups::wait), where a failure stands for a broken listening connection.
    Wait,
    /// [`Store::set_idle`](crate::Store::set_idle).
    SetIdle,
    /// [`DeadLetters::list`](crate::DeadLetters::list).
    List,
    /// [`DeadLetters::redrive`](crate::DeadLetters::redrive).
    Redrive,
    /// [`DeadLetters::discard`](crate::DeadLetters::discard).
    Discard,
    /// Any of [`Inspection`](crate::Inspection).
    Inspect,
}

impl Operation {
    /// The name of the method.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Release => "release",
            Self::Leave => "leave",
            Self::Fetch => "fetch",
            Self::Settle => "settle",
            Self::Purge => "purge",
            Self::Repair => "repair",
            Self::Stats => "stats",
            Self::Wakeups => "wakeups",
            Self::Wait => "wait",
            Self::SetIdle => "set_idle",
            Self::List => "list",
            Self::Redrive => "redrive",
            Self::Discard => "discard",
            Self::Inspect => "inspect",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    fail: Option<(u64, ErrorKind)>,
    lose: u64,
    delay: Duration,
    answer_delay: Duration,
}

/// What goes wrong with which calls of a [`MemoryStore`](super::MemoryStore). Nothing by default.
///
/// Reached by [`MemoryStore::faults`](super::MemoryStore::faults); may be changed at any time. A change does not
/// reach calls that have begun.
#[derive(Debug, Default)]
pub struct Faults {
    inner: Mutex<Inner>,
}

type Refuses = Arc<dyn Fn(&Settle) -> Option<ErrorKind> + Send + Sync>;

/// Decides which settlements are refused.
#[derive(Default)]
struct Refusals(Option<Refuses>);

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Refusals").field(&self.0.is_some()).finish()
    }
}

#[derive(Debug, Default)]
struct Inner {
    down: bool,
    refusals: Refusals,
    plans: HashMap<Operation, Plan>,
}

impl Faults {
    /// How often the operation was called, failures included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.lock().plans.get(&operation).map_or(0, |plan| plan.calls)
    }

    /// How often any operation that a real store answers by a statement was called: everything but
    /// [`Operation::Wait`].
    pub fn total_calls(&self) -> u64 {
        let inner = self.lock();
        inner.plans.iter().filter(|(operation, _)| **operation != Operation::Wait).map(|(_, p)| p.calls).sum()
    }

    /// Makes the next `calls` calls of the operation fail without taking effect.
    pub fn fail_next(&self, operation: Operation, calls: u64, kind: ErrorKind) {
        self.lock().plans.entry(operation).or_default().fail = Some((calls, kind));
    }

    /// Makes the next `calls` calls of the operation take effect and then fail with
    /// [`ErrorKind::Interrupted`], as if the connection had broken before the answer arrived.
    ///
    /// A fetch has no effect to lose: the reader returns the same rows the next time.
    pub fn lose_answers(&self, operation: Operation, calls: u64) {
        self.lock().plans.entry(operation).or_default().lose = calls;
    }

    /// Makes every call of the operation wait this long before it takes effect, until it is set to zero again.
    pub fn delay(&self, operation: Operation, delay: Duration) {
        self.lock().plans.entry(operation).or_default().delay = delay;
    }

    /// Makes every call of the operation wait this long after it took effect, until it is set to zero again. For
    /// a fetch this is the same as [`delay`](Self::delay).
    pub fn delay_answer(&self, operation: Operation, delay: Duration) {
        self.lock().plans.entry(operation).or_default().answer_delay = delay;
    }

    /// Makes each settle call fail without taking effect that contains a settlement for which `refuses` returns an error. With
    /// [`ErrorKind::Timeout`] the call is never answered, as if another session had locked the row.
    pub fn refuse_settlements(&self, refuses: impl Fn(&Settle) -> Option<ErrorKind> + Send + Sync + 'static) {
        self.lock().refusals = Refusals(Some(Arc::new(refuses)));
    }

    /// Makes every call fail with [`ErrorKind::Unavailable`] until [`up`](Self::up).
    pub fn down(&self) {
        self.lock().down = true;
    }

    /// Ends [`down`](Self::down).
    pub fn up(&self) {
        self.lock().down = false;
    }

    /// Takes back every failure and delay, and keeps the counts.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.down = false;
        inner.refusals = Refusals::default();
        for plan in inner.plans.values_mut() {
            *plan = Plan { calls: plan.calls, ..Plan::default() };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails, or never returns, if one of the settlements is refused.
    pub(super) async fn check_settlements(&self, batch: &[Settle]) -> Result<()> {
        let refuses = self.lock().refusals.0.clone();
        let Some(kind) = refuses.and_then(|refuses| batch.iter().find_map(|settle| refuses(settle))) else {
            return Ok(());
        };
        let fate = Fate { error: Some(kind), ..self.draw(Operation::Settle) };
        if kind == ErrorKind::Timeout {
            std::future::pending::<()>().await;
        }
        fate.check()
    }

    fn draw(&self, operation: Operation) -> Fate {
        let mut inner = self.lock();
        let down = inner.down;
        let plan = inner.plans.entry(operation).or_default();
        plan.calls += 1;
        let mut fate = Fate {
            delay: plan.delay,
            answer_delay: plan.answer_delay,
            error: None,
            answer_lost: false,
            operation,
        };
        if down {
            fate.error = Some(ErrorKind::Unavailable);
        } else if let Some((left, kind)) = plan.fail.filter(|(left, _)| *left > 0) {
            plan.fail = Some((left - 1, kind));
            fate.error = Some(kind);
        } else if plan.lose > 0 {
            plan.lose -= 1;
            fate.answer_lost = true;
        }
        fate
    }

    /// Runs something that takes effect at one moment, under the operation's faults.
    pub(super) async fn run<T>(&self, operation: Operation, effect: impl FnOnce() -> T) -> Result<T> {
        let fate = self.draw(operation);
        sleep(fate.delay).await;
        fate.check()?;
        let answer = effect();
        sleep(fate.answer_delay).await;
        if fate.answer_lost { Err(fate.lost()) } else { Ok(answer) }
    }

    /// Runs something that must not take effect unless its answer arrives.
    pub(super) async fn run_answered<T>(
        &self,
        operation: Operation,
        effect: impl FnOnce() -> T,
    ) -> Result<T> {
        let fate = self.draw(operation);
        sleep(fate.delay.saturating_add(fate.answer_delay)).await;
        fate.check()?;
        if fate.answer_lost { Err(fate.lost()) } else { Ok(effect()) }
    }
}

struct Fate {
    operation: Operation,
    delay: Duration,
    answer_delay: Duration,
    error: Option<ErrorKind>,
    answer_lost: bool,
}

impl Fate {
    fn check(&self) -> Result<()> {
        match self.error {
            None => Ok(()),
            Some(kind) => {
                Err(Error::new(kind, "the memory store was told to fail").with("operation", self.operation))
            }
        }
    }

    fn lost(&self) -> Error {
        Error::new(ErrorKind::Interrupted, "the memory store was told to lose this answer")
            .with("operation", self.operation)
    }
}

async fn sleep(delay: Duration) {
    // Even a sleep of zero waits for the timer, which would make quick tests slow.
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
