//! The memory store's wake-ups.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::error::Result;
use crate::store::Wakeups;

use super::faults::Operation;
use super::store::MemoryStore;

/// Whoever wants hints, in the order in which they came. Each has a place of its own for a hint that it has not taken
/// yet, and they are woken in that order always: tokio's `watch` wakes its receivers in a random one, and then no
/// simulation repeats.
#[derive(Debug, Default)]
pub(super) struct Hints {
    listeners: Mutex<Vec<Weak<Notify>>>,
}

impl Hints {
    fn listen(&self) -> Arc<Notify> {
        let listener = Arc::new(Notify::new());
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&listener));
        listener
    }

    /// Gives everybody a hint, and forgets those that have gone.
    pub(super) fn give(&self) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.upgrade().map(|listener| listener.notify_one()).is_some());
    }
}

pub(super) struct MemoryWakeups {
    store: MemoryStore,
    listener: Arc<Notify>,
}

impl MemoryWakeups {
    pub(super) fn new(store: MemoryStore, hints: &Hints) -> Self {
        Self { store, listener: hints.listen() }
    }
}

#[async_trait]
impl Wakeups for MemoryWakeups {
    async fn wait(&mut self) -> Result<()> {
        self.store.faults().run(Operation::Wait, || ()).await?;
        self.listener.notified().await;
        Ok(())
    }
}
