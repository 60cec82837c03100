//! A relay as a process, and the seed as its scheduler: whoever is to run next may have to let others go first, the whole
//! process may stand still, and it may end at any await, its own or one inside of a call.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, cleanly or with work in flight.
    Itself { cleanly: bool },
    /// At an await, without a word.
    Crash,
}

/// What a relay and its calls have in common. Clones are the same process.
#[derive(Clone, Debug)]
pub(crate) struct Process(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes whoever waits for the process to go on, in the order of their coming. tokio's `watch` has a random one.
    thawed: Notify,
}

#[derive(Debug)]
struct State {
    frozen: bool,
    /// Steps until the crash, if there is to be one.
    steps_left: Option<u64>,
    /// The most turns that a step may have to let others go first.
    most_turns: u32,
    rng: fastrand::Rng,
    /// Of the relay's own loop, for the crash inside of a call.
    waker: Option<Waker>,
}

impl State {
    /// Whether the process is at its end.
    fn has_crashed(&self) -> bool {
        self.steps_left == Some(0)
    }

    /// Counts one more step. Says whether the process survives it.
    fn survives(&mut self) -> bool {
        if let Some(left) = &mut self.steps_left {
            *left = left.saturating_sub(1);
        }
        !self.has_crashed()
    }
}

impl Process {
    /// A process that crashes after so many steps, if there is a number; each step lets others go first up to `most_turns`
    /// times.
    pub(crate) fn new(steps_left: Option<u64>, most_turns: u32, rng: fastrand::Rng) -> Self {
        let state = Mutex::new(State { frozen: false, steps_left, most_turns, rng, waker: None });
        Self(Arc::new(Shared { state, thawed: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.lock().frozen
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.lock().frozen = frozen;
        if !frozen {
            self.0.thawed.notify_waiters();
        }
    }

    /// Waits until the process goes on.
    async fn thaw(&self) {
        while self.is_frozen() {
            self.0.thawed.notified().await;
        }
    }

    /// What may happen at an await within a call: others run first, the process stands still, or this is its end.
    pub(crate) async fn step(&self) {
        let (survives, turns) = {
            let mut state = self.lock();
            let most = state.most_turns;
            (state.survives(), if most == 0 { 0 } else { state.rng.u32(0..=most) })
        };
        if !survives {
            if let Some(waker) = self.lock().waker.take() {
                waker.wake();
            }
            // The relay's loop ends, and ends this with it.
            pending::<()>().await;
        }
        for _ in 0..turns {
            yield_now().await;
        }
        self.thaw().await;
    }

    /// Runs a relay in this process.
    pub(crate) async fn live<E>(self, mut relay: Pin<Box<dyn Future<Output = Result<(), E>> + Send>>) -> End {
        loop {
            self.thaw().await;
            let mut turned = false;
            let end = poll_fn(|context| {
                {
                    let mut state = self.lock();
                    if state.has_crashed() || !state.survives() {
                        return Poll::Ready(Some(End::Crash));
                    }
                    if state.frozen {
                        return Poll::Ready(None);
                    }
                    state.waker = Some(context.waker().clone());
                    let most = state.most_turns;
                    if most > 0 && !turned && state.rng.u32(0..=most) > 0 {
                        turned = true;
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                turned = false;
                relay.as_mut().poll(context).map(|answer| Some(End::Itself { cleanly: answer.is_ok() }))
            })
            .await;
            if let Some(end) = end {
                return end;
            }
        }
    }
}
