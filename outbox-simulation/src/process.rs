//! A relay as a process: it may stand still, and it may end at any await.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::watch;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, cleanly or with work in flight.
    Itself { cleanly: bool },
    /// At an await, without a word.
    Crash,
}

/// Whether a process stands still; its calls do as well.
#[derive(Clone, Debug)]
pub(crate) struct Frozen(watch::Receiver<bool>);

impl Frozen {
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Waits until the process goes on. A process whose world has ended goes nowhere.
    pub(crate) async fn thaw(&self) {
        let mut receiver = self.0.clone();
        let gone = receiver.wait_for(|frozen| !frozen).await.is_err();
        if gone {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs a relay which crashes when it has been polled so many times.
pub(crate) async fn live<E>(
    mut relay: Pin<Box<dyn Future<Output = Result<(), E>> + Send>>,
    frozen: Frozen,
    mut polls_left: u64,
) -> End {
    loop {
        frozen.thaw().await;
        let end = poll_fn(|context| {
            if *frozen.0.borrow() {
                return Poll::Ready(None);
            }
            if polls_left == 0 {
                return Poll::Ready(Some(End::Crash));
            }
            polls_left -= 1;
            relay.as_mut().poll(context).map(|answer| Some(End::Itself { cleanly: answer.is_ok() }))
        })
        .await;
        if let Some(end) = end {
            return end;
        }
    }
}
