//! The publisher: makes messages ready, and has a connection send them.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::publishing::{Routing, complete};
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities, Result};
use tokio::time::Instant;

use crate::builder::NatsPublisherBuilder;
use crate::connections::{Connections, Lease};
use crate::outgoing::Outgoing;
use crate::{NAME, call, check, verdict};

/// Publishes to streams of NATS JetStream, with an acknowledgement for each message.
///
/// Each call has a separate connection while it runs. Connections are kept for later calls, up to the limit of
/// [`connections`](NatsPublisherBuilder::connections). Cheap to share behind an [`Arc`](std::sync::Arc).
///
/// # Cancel safety
/// When a [`publish`](Publisher::publish) future is dropped, its connection is closed with all that is in the queue of the
/// client library. Bytes that the operating system has taken may still reach the server.
pub struct NatsPublisher {
    pub(crate) connections: Connections,
    pub(crate) routing: Routing<String>,
    pub(crate) expected_stream: Option<String>,
    pub(crate) ack_timeout: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) capabilities: PublisherCapabilities,
}

impl fmt::Debug for NatsPublisher {
    /// Without the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsPublisher")
            .field("server", &self.connections.dialer.place())
            .field("routing", &self.routing)
            .field("expected_stream", &self.expected_stream)
            .field("ack_timeout", &self.ack_timeout)
            .finish_non_exhaustive()
    }
}

impl NatsPublisher {
    /// Starts a publisher for the server of this URL: `nats://host:4222`, or `tls://host:4222` for an encrypted connection. The
    /// URL may hold a login: `nats://user:password@host`, or `nats://token@host`.
    pub fn builder(url: impl Into<String>) -> NatsPublisherBuilder {
        NatsPublisherBuilder::new(url.into())
    }

    /// Connects now, for a service that wants to know at its start whether the server lets it in. Without it, the first call
    /// connects.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](outbox_core::ErrorKind::Unavailable) if the server cannot be reached, and
    /// [`ErrorKind::Permission`](outbox_core::ErrorKind::Permission) if it refuses the login.
    pub async fn connect(&self) -> Result<()> {
        let lease = self.connections.lease(Instant::now() + self.ack_timeout).await;
        lease.map(Lease::give_back).map_err(|failure| verdict::not_connected(&failure))
    }

    /// Connects, and searches a stream for each subject that the settings name, as `outbox doctor` does. If they name
    /// none, because subjects depend on topics, it asks only whether JetStream answers. It does not learn whether the user
    /// may publish to the subjects. The user needs the right to publish to `$JS.API.STREAM.NAMES`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); [`ErrorKind::NotFound`](outbox_core::ErrorKind::NotFound) for a subject without a
    /// stream, or with another stream than the expected one; and
    /// [`ErrorKind::Unavailable`](outbox_core::ErrorKind::Unavailable) if JetStream is not enabled.
    pub async fn check(&self) -> Result<()> {
        check::run(self).await
    }

    async fn publish_ready(&self, ready: Vec<Outgoing>, outcomes: &mut [Option<Outcome>]) {
        let deadline = Instant::now() + self.ack_timeout;
        let places: Vec<usize> = ready.iter().map(|message| message.index).collect();
        let mut set = |place: usize, outcome: Outcome| {
            if let Some(slot) = outcomes.get_mut(place) {
                *slot = Some(outcome);
            }
        };
        match self.connections.lease(deadline).await {
            Ok(lease) => {
                let (outcomes, reusable) = call::run(&lease.connection, ready, deadline).await;
                if reusable {
                    lease.give_back();
                }
                for (place, outcome) in outcomes {
                    set(place, outcome);
                }
            }
            Err(failure) => {
                places.into_iter().for_each(|place| set(place, Err(verdict::not_connected(&failure))))
            }
        }
    }
}

#[async_trait]
impl Publisher for NatsPublisher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.capabilities.clone()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = batch.iter().map(|_| None).collect();
        let mut ready = Vec::with_capacity(batch.len());
        for (index, message) in batch.iter().enumerate() {
            let stream = self.expected_stream.as_deref();
            match Outgoing::new(index, message, &self.routing, stream, self.max_message_bytes) {
                Ok(outgoing) => ready.push(outgoing),
                Err(error) => outcomes[index] = Some(Err(error)),
            }
        }
        let sent: Vec<usize> = ready.iter().map(|message| message.index).collect();
        if !ready.is_empty() {
            Box::pin(self.publish_ready(ready, &mut outcomes)).await;
        }
        complete(outcomes, &sent)
    }

    async fn close(&self) {
        self.connections.close();
    }
}
