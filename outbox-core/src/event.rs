//! Delivery events: what the relay did, for whoever wants to know.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::message::MessageId;
use crate::store::{Partition, Position};

/// Something the relay did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The broker confirmed a message, and the store has recorded it.
    Delivered(Arc<Delivery>),
    /// A message failed and will be tried again; the store has recorded it.
    Retrying {
        /// The message.
        delivery: Arc<Delivery>,
        /// How long until the next attempt.
        after: Duration,
    },
    /// A message was given up; the store has moved it to the dead letters.
    DeadLettered(Arc<Delivery>),
    /// The store refuses to record what became of a message, while it records other outcomes. If the message failed, the relay
    /// records instead that it is to be tried again; else it repeats the call after a growing pause. Later messages of the same key
    /// wait for it.
    SettleRefused {
        /// Where the message stands in the store.
        position: Position,
        /// The error of the store.
        error: Arc<str>,
    },
    /// The broker failed as a whole; nothing is published for a while, and no attempts are counted.
    CircuitOpened {
        /// How long until a message is sent as a probe.
        pause: Duration,
        /// What the broker, or the way to it, said.
        error: Arc<str>,
    },
    /// The broker answered again.
    CircuitClosed,
    /// The relay owns other partitions than before.
    LeasesChanged {
        /// What it owns now.
        owned: Arc<[Partition]>,
        /// How many relays share the outbox.
        relays: usize,
    },
    /// Calls to the store have begun to fail, or fail for another reason than before. The relay repeats them. While they fail
    /// for the same reason, no further event is sent.
    StoreFailed {
        /// The call that failed first.
        operation: &'static str,
        /// The error of the store, or of the connection to it.
        error: Arc<str>,
    },
    /// The calls to the store that had failed succeed again.
    StoreRecovered {
        /// The time since the first call failed.
        outage: Duration,
        /// The calls that were delayed, each with the number of failures.
        failed: Arc<[(&'static str, u64)]>,
    },
}

/// One message in an [`Event`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The id, if the row was readable.
    pub id: Option<MessageId>,
    /// Where it stands in the store.
    pub position: Position,
    /// The topic, if the row was readable.
    pub topic: Option<String>,
    /// The ordering key.
    pub key: Option<String>,
    /// Attempts counted so far, this one included.
    pub attempts: u32,
    /// The error, unless it was delivered.
    pub error: Option<String>,
    /// From its enqueueing, by the database's clock, to the broker's answer.
    pub since_enqueued: Duration,
    /// From handing it to the publisher to the broker's answer; zero if it never got that far.
    pub publish_time: Duration,
}

/// A subscription to a relay's events.
///
/// It holds a limited number of events. A subscriber that falls behind loses the oldest and is told how many; it
/// never slows the relay.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

/// What a subscription yields.
#[derive(Clone, Debug)]
pub enum Received {
    /// The next event.
    Event(Event),
    /// So many events were lost, because they were not taken in time.
    Missed(u64),
}

impl Events {
    /// Waits for the next event; `None` once the relay has ended and everything was taken.
    ///
    /// # Cancel safety
    /// Safe: an event not returned is returned next time.
    pub async fn recv(&mut self) -> Option<Received> {
        match self.receiver.recv().await {
            Ok(event) => Some(Received::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Received::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The relay's end: hands events to whoever has subscribed, and costs nothing while nobody has.
#[derive(Clone, Debug)]
pub(crate) struct EventSender {
    sender: broadcast::Sender<Event>,
}

impl EventSender {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { sender: broadcast::Sender::new(capacity) }
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events { receiver: self.sender.subscribe() }
    }

    /// Costs a lock, so it is better asked once for many events.
    pub(crate) fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if self.has_listeners() {
            // The only error is "nobody listens any more", which is nobody's loss.
            let _ = self.sender.send(event());
        }
    }
}
