//! The connection to the service, made when it is first needed and given up when it falls silent.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tonic::transport::{Channel, Endpoint};

/// One connection, shared by all calls. The channel beneath makes it anew when it breaks; what it cannot notice is a
/// network that swallows everything, and for that there is [`retire`](Self::retire).
pub(crate) struct Link {
    endpoint: Endpoint,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    generation: u64,
    channel: Option<Channel>,
}

/// A connection that was handed out.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) channel: Channel,
    generation: u64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("endpoint", self.endpoint.uri()).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, slot: Mutex::default() }
    }

    /// The present connection, or one that will be made by its first request.
    pub(crate) fn lease(&self) -> Lease {
        let mut slot = self.lock();
        let generation = slot.generation;
        let channel = slot.channel.get_or_insert_with(|| self.endpoint.connect_lazy()).clone();
        Lease { channel, generation }
    }

    /// Connects now.
    pub(crate) async fn connect(&self) -> Result<(), tonic::transport::Error> {
        let channel = self.endpoint.connect().await?;
        let mut slot = self.lock();
        slot.generation += 1;
        slot.channel = Some(channel);
        Ok(())
    }

    /// Uses this connection for nothing new. It ends with the last request on it.
    pub(crate) fn retire(&self, lease: &Lease) {
        let mut slot = self.lock();
        if slot.generation == lease.generation {
            slot.generation += 1;
            slot.channel = None;
        }
    }

    pub(crate) fn close(&self) {
        let mut slot = self.lock();
        slot.generation += 1;
        slot.channel = None;
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
