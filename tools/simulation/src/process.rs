//! A relay as a process, with the seed as its scheduler: the next task may have to let others run first, the
//! whole process may be paused, and it may end at any await, in the relay or within a call.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It exited, cleanly or with work in flight.
    Itself { cleanly: bool },
    /// At an await, without notice.
    Crash,
}

/// The shared state of a relay and its calls. Clones are the same process.
#[derive(Clone, Debug)]
pub(crate) struct Process(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the tasks that wait for the process to continue, in the order in which they started waiting.
    /// tokio's `watch` uses a random order.
    thawed: Notify,
}

#[derive(Debug)]
struct State {
    frozen: bool,
    /// Steps until the crash, if there is one.
    steps_left: Option<u64>,
    /// Maximum number of turns for which a step may let others run first.
    most_turns: u32,
    rng: fastrand::Rng,
    /// Of the relay's own loop, for a crash inside a call.
    waker: Option<Waker>,
}

impl State {
    /// Whether the process has ended.
    fn has_crashed(&self) -> bool {
        self.steps_left == Some(0)
    }

    /// Counts one more step. Returns whether the process survives it.
    fn survives(&mut self) -> bool {
        if let Some(left) = &mut self.steps_left {
            *left = left.saturating_sub(1);
        }
        !self.has_crashed()
    }
}

impl Process {
    /// A process that crashes after this number of steps, if it is set; each step lets others run first up to
    /// `most_turns` times.
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

    /// It does not crash any more, if it has not yet.
    pub(crate) fn spare(&self) {
        let mut state = self.lock();
        if !state.has_crashed() {
            state.steps_left = None;
        }
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.lock().frozen = frozen;
        if !frozen {
            self.0.thawed.notify_waiters();
        }
    }

    /// Waits until the process continues.
    async fn thaw(&self) {
        while self.is_frozen() {
            self.0.thawed.notified().await;
        }
    }

    /// The events at an await within a call: others run first, the process is paused, or it ends here.
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
            // The relay's loop ends, and ends this task with it.
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
