//! The publisher: makes requests of a batch, runs some at a time, and collects the outcomes.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use outbox_core::publishing::answered;
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities, Result};
use tokio::time::Instant;

use crate::NAME;
use crate::builder::WebhookPublisherBuilder;
use crate::call::{Call, Chain};
use crate::check;
use crate::client::Client;
use crate::destination::Destinations;
use crate::outgoing::Outgoing;

/// Publishes messages as webhooks: one HTTP POST for each message.
///
/// It connects when it is first used and again after a failure, and runs on tokio. Cheap to share behind an
/// [`Arc`](std::sync::Arc); dropping it closes its connections.
///
/// # Cancel safety
/// When a [`publish`](Publisher::publish) future is dropped, none of its messages will begin to be sent. Requests in flight
/// are cancelled, and the receiver may have taken them.
pub struct WebhookPublisher {
    pub(crate) client: Client,
    pub(crate) destinations: Destinations,
    pub(crate) requests_in_flight: usize,
    pub(crate) call_timeout: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) capabilities: PublisherCapabilities,
}

impl fmt::Debug for WebhookPublisher {
    /// Without URLs, secrets and header values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookPublisher")
            .field("client", &self.client)
            .field("destinations", &self.destinations)
            .field("requests_in_flight", &self.requests_in_flight)
            .field("call_timeout", &self.call_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("capabilities", &self.capabilities)
            .finish()
    }
}

impl WebhookPublisher {
    /// Starts a publisher without endpoints. Add at least one, or allow URLs in messages.
    pub fn builder() -> WebhookPublisherBuilder {
        WebhookPublisherBuilder::new()
    }

    /// Connects to each endpoint of the settings: whether its name resolves to an allowed address, its port is open and its
    /// certificate is trusted. No request is sent, so whether the receiver accepts messages does not show. Each endpoint may
    /// take [`connect_timeout`](WebhookPublisherBuilder::connect_timeout).
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](outbox_core::ErrorKind::Unavailable) or
    /// [`ErrorKind::Permission`](outbox_core::ErrorKind::Permission) with the name and host of the first endpoint, by name,
    /// that cannot be reached.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn check(&self) -> Result<()> {
        check::run(self).await
    }

    /// Sends what has passed the checks. What has no outcome afterwards was forgotten.
    async fn publish_ready(&self, chains: Vec<Chain>, outcomes: &mut [Option<Outcome>]) {
        let deadline = Instant::now() + self.call_timeout;
        let call = Call::new(self.client.get(), self.destinations.reach(), deadline);
        let call = &call;
        // Made ahead, and begun by being polled: a stream of closures would not be `Send`.
        let all: Vec<_> = chains.into_iter().map(|chain| call.run(chain)).collect();
        let mut running = futures_util::stream::iter(all).buffer_unordered(self.requests_in_flight);
        while let Some(answers) = running.next().await {
            for (index, outcome) in answers {
                outcomes[index] = Some(outcome);
            }
        }
    }
}

#[async_trait]
impl Publisher for WebhookPublisher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.capabilities.clone()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = batch.iter().map(|_| None).collect();
        let mut chains: Vec<Chain> = Vec::new();
        // The chain of each key; `None` if nothing more of the key may be sent.
        let mut keys: HashMap<&str, Option<usize>> = HashMap::new();
        for (index, message) in batch.iter().enumerate() {
            let place = message.key().and_then(|key| keys.get(key).copied());
            let outgoing = match place {
                Some(None) => Err(crate::verdict::Failure::Behind.to_error(self.destinations.reach())),
                _ => Outgoing::new(index, message, &self.destinations, self.max_message_bytes),
            };
            let chain = match outgoing {
                Ok(outgoing) => {
                    let chain = place.flatten().unwrap_or_else(|| {
                        chains.push(Chain::new());
                        chains.len() - 1
                    });
                    chains[chain].push_back(outgoing);
                    Some(chain)
                }
                Err(error) => {
                    outcomes[index] = Some(Err(error));
                    None
                }
            };
            if let Some(key) = message.key() {
                keys.insert(key, chain);
            }
        }
        if !chains.is_empty() {
            Box::pin(self.publish_ready(chains, &mut outcomes)).await;
        }
        answered(outcomes)
    }

    async fn close(&self) {
        self.client.close();
    }
}
