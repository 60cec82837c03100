//! A relay that runs in the background.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventSender, Events};
use crate::store::Partition;

/// What a relay is doing, for health checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The partitions it works on.
    pub owned: Vec<Partition>,
    /// How many relays share the outbox, itself included; 0 before the first heartbeat.
    pub relays: usize,
    /// Whether the broker is considered down.
    pub circuit_open: bool,
    /// Keys that had more than their share of the relay's memory, so that the store holds their later messages for a while.
    pub parked_keys: usize,
}

/// Wakes a relay from within the same process, after a commit. Cheap to clone and to call.
#[derive(Clone)]
pub struct Waker {
    pub(super) poke: Arc<Notify>,
}

impl Waker {
    /// Tells the relay that something was committed. A hint: it may come too often, too early or not at all.
    pub fn wake(&self) {
        self.poke.notify_one();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// A running relay. Dropping the handle stops it as [`stop`](Self::stop) does, without waiting.
#[derive(Debug)]
pub struct RelayHandle {
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<Result<()>>,
    pub(super) events: EventSender,
    pub(super) waker: Waker,
    pub(super) status: watch::Receiver<Status>,
}

impl RelayHandle {
    /// Subscribes to what happens from now on.
    pub fn events(&self) -> Events {
        self.events.subscribe()
    }

    /// What it is doing. The receiver can also wait for changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// A waker for enqueuers in this process.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Asks it to stop: nothing more is fetched, what is in flight is finished and settled, leases are released.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// As [`Relay::run`](super::Relay::run).
    ///
    /// # Cancel safety
    /// If dropped, the relay stops all the same, without anybody waiting for it.
    pub async fn shutdown(mut self) -> Result<()> {
        self.stop.cancel();
        match (&mut self.task).await {
            Ok(result) => result,
            Err(source) => Err(Error::new(ErrorKind::Internal, "the relay's task was aborted or panicked")
                .with_source(source)),
        }
    }

    /// Ends it on the spot, as if the process had died: nothing is settled, and leases run out by themselves.
    /// For tests of that case.
    pub async fn abort(mut self) {
        self.task.abort();
        // The result is the cancellation just asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
