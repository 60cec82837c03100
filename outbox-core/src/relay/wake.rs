//! Listens for the store's wake-ups in a task of its own, and starts again when they break off.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::store::Store;

/// How long to wait before listening again after a failure. Meanwhile the relay polls, so this only bounds the load.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct WakeTask {
    hints: Arc<Notify>,
    arriving: watch::Receiver<bool>,
    /// Ends the task when dropped.
    _task: JoinSet<()>,
}

impl WakeTask {
    pub(super) fn spawn<S: Store>(store: Arc<S>) -> Self {
        let hints = Arc::new(Notify::new());
        let (sender, arriving) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(listen(store, hints.clone(), sender));
        Self { hints, arriving, _task: task }
    }

    /// Waits for a hint (`None`), or for hints to begin or cease to arrive (`Some`).
    ///
    /// Cancel-safe: neither kind is lost when the future is dropped.
    pub(super) async fn changed(&mut self) -> Option<bool> {
        let arriving = async {
            if self.arriving.changed().await.is_err() {
                // The store has no wake-ups.
                std::future::pending::<()>().await;
            }
            *self.arriving.borrow_and_update()
        };
        tokio::select! {
            // In one order always, so that a simulation repeats.
            biased;
            arriving = arriving => Some(arriving),
            () = self.hints.notified() => None,
        }
    }
}

async fn listen<S: Store>(store: Arc<S>, hints: Arc<Notify>, arriving: watch::Sender<bool>) {
    loop {
        match store.wakeups().await {
            Ok(None) => return,
            Ok(Some(mut wakeups)) => {
                arriving.send_replace(true);
                loop {
                    match wakeups.wait().await {
                        Ok(()) => hints.notify_one(),
                        Err(error) => {
                            tracing::warn!(error = %error.report(), "wake-ups broke off; polling until they are back");
                            break;
                        }
                    }
                }
                arriving.send_replace(false);
            }
            Err(error) => {
                tracing::warn!(error = %error.report(), "wake-ups are not to be had; polling until they are");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
