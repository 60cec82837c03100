//! The relay: the engine that moves messages from a [`Store`] to a [`Publisher`].
//!
//! ```text
//!            heartbeat ──► leases ──► which partitions to read
//!                                        │
//!   wake-up, pacer ──► fetch ──► window (order per key, limits) ──► publish calls ──► broker
//!                        ▲                                              │ outcomes
//!                        │                                              ▼
//!                      store ◄──────────────── settle (in batches) ◄── rulings, circuit
//! ```

mod backoff;
mod blame;
mod circuit;
mod engine;
mod handle;
mod leases;
mod pacer;
mod settings;
mod speed;
mod wake;
mod window;

use std::fmt;
use std::sync::Arc;

use ::metrics::Label;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use self::backoff::RetryPolicy;
pub use self::handle::{RelayHandle, Status, Waker};
pub use self::settings::{KeyOrder, Settings};

use self::engine::Engine;
use crate::error::Result;
use crate::event::{EventSender, Events};
use crate::metrics::{self, Metrics};
use crate::publisher::Publisher;
use crate::store::Store;

/// A publish call. Calls are numbered in the order in which they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct CallId(u64);

/// Moves messages from a store to a publisher until told to stop.
///
/// Any number of relays, in any number of processes, may run on one outbox: they divide its partitions among
/// them, and take over from each other. See [`Settings`] for what can be tuned.
///
/// ```no_run
/// # async fn example(store: impl outbox_core::Store, publisher: impl outbox_core::Publisher) -> outbox_core::Result<()> {
/// use outbox_core::relay::Relay;
///
/// let relay = Relay::builder(store, publisher).build()?.spawn();
/// // … the service runs …
/// relay.shutdown().await
/// # }
/// ```
pub struct Relay<S, P> {
    store: Arc<S>,
    publisher: Arc<P>,
    settings: Settings,
    labels: Vec<Label>,
    events: EventSender,
    status: watch::Sender<Status>,
    waker: Waker,
}

impl<S: Store, P: Publisher> Relay<S, P> {
    /// Starts to build a relay. `Arc<dyn Store>` and `Arc<dyn Publisher>` fit as well.
    pub fn builder(store: S, publisher: P) -> RelayBuilder<S, P> {
        RelayBuilder { store, publisher, settings: Settings::default(), labels: Vec::new() }
    }
}

impl<S: Store, P: Publisher> Relay<S, P> {
    /// Subscribes to what happens from now on.
    pub fn events(&self) -> Events {
        self.events.subscribe()
    }

    /// What it is doing.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// A waker for enqueuers in this process.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Runs until `shutdown` resolves; then finishes and settles what is in flight, within
    /// [`Settings::shutdown_timeout`], releases the leases and closes the publisher.
    ///
    /// A store or a broker that is down is no error: the relay waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if the shutdown deadline passed with messages in flight.
    /// They are still in the store, and may be published once more.
    ///
    /// # Cancel safety
    /// Dropping the future is like the death of the process: nothing is lost, what was in flight may be published
    /// once more, and other relays take over when the leases have run out.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let poke = self.waker.poke;
        let metrics = Metrics::new(self.store.name(), self.publisher.name(), &self.labels);
        let engine =
            Engine::new(self.store, self.publisher, self.settings, metrics, self.events, self.status);
        // On the heap: the loop's state is large, and callers often keep this future inside others.
        Box::pin(engine.run(shutdown, poke)).await
    }

    /// Runs in a task of the current tokio runtime.
    pub fn spawn(self) -> RelayHandle {
        let stop = CancellationToken::new();
        let (events, waker, status) = (self.events.clone(), self.waker.clone(), self.status.subscribe());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { self.run(stopped.cancelled()).await });
        RelayHandle { stop, task, events, waker, status }
    }
}

impl<S: Store, P: Publisher> fmt::Debug for Relay<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("store", &self.store.name())
            .field("publisher", &self.publisher.name())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Relay`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RelayBuilder<S, P> {
    store: S,
    publisher: P,
    settings: Settings,
    labels: Vec<Label>,
}

impl<S: Store, P: Publisher> RelayBuilder<S, P> {
    /// Replaces all settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Changes settings in place.
    pub fn configure(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Adds a label to every metric of this relay, such as `route` for one of several relays in a process.
    ///
    /// Each value makes time series of its own, so it should be one of few.
    pub fn metrics_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(Label::new(name.into(), value.into()));
        self
    }

    /// Checks the settings and gives the relay.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) as [`Settings::validate`] says, and if a label has a name that is
    /// taken or not allowed: letters, digits and underscores are, the first of them no digit.
    pub fn build(self) -> Result<Relay<S, P>> {
        self.settings.validate()?;
        metrics::validate(&self.labels)?;
        Ok(Relay {
            store: Arc::new(self.store),
            publisher: Arc::new(self.publisher),
            events: EventSender::new(self.settings.event_capacity),
            status: watch::Sender::new(Status::default()),
            waker: Waker { poke: Arc::new(Notify::new()) },
            settings: self.settings,
            labels: self.labels,
        })
    }
}

impl<S: Store, P: Publisher> fmt::Debug for RelayBuilder<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
