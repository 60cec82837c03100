//! The publisher, as users see it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Error, ErrorKind, Message, Outcome, Publisher, PublisherCapabilities, Result};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug;

use crate::NAME;
use crate::builder::AmqpPublisherBuilder;
use crate::call::Call;
use crate::check;
use crate::connections::Connections;
use crate::failures::Failures;
use crate::quarantine::Quarantine;
use crate::routing::Routing;

/// Publishes to RabbitMQ, or another broker that speaks AMQP 0-9-1 with publisher confirms.
///
/// It connects when it is first used and again after a failure, and runs on tokio. Cheap to share behind an
/// [`Arc`]; dropping it closes the connection.
///
/// # Cancel safety
/// When a [`publish`](Publisher::publish) future is dropped, its channel is closed and none of its messages will
/// begin to be sent. If one of them is half written at that moment, the whole connection is cut, and calls running
/// at the same time have an unknown outcome.
pub struct AmqpPublisher {
    pub(crate) connections: Connections,
    pub(crate) routing: Routing,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) confirm_timeout: Duration,
    pub(crate) capabilities: PublisherCapabilities,
    pub(crate) max_message_bytes: usize,
    pub(crate) quarantine: Quarantine,
    pub(crate) failures: Failures,
}

impl fmt::Debug for AmqpPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpPublisher")
            .field("connections", &self.connections)
            .field("routing", &self.routing)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl AmqpPublisher {
    /// Starts a publisher to the broker at `uri`, such as `amqp://user:password@host:5672/vhost` or `amqps://…`. A
    /// virtual host `/` is written `%2f` or left out together with the slash before it.
    ///
    /// The URI is a secret: it is in no error, log or `Debug` form; the host and the virtual host are.
    pub fn builder(uri: &str) -> AmqpPublisherBuilder {
        AmqpPublisherBuilder::from_uri(uri)
    }

    /// Starts a publisher whose connections are made by the caller's own code.
    pub fn with_connector(connector: impl crate::Connector) -> AmqpPublisherBuilder {
        AmqpPublisherBuilder::from_connector(Arc::new(connector))
    }

    /// Connects now, and declares the configured topology, instead of with the first call: for a service that wants
    /// to learn at its start whether its settings are right.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], [`ErrorKind::Permission`] or [`ErrorKind::NotFound`] (the virtual host), all
    /// with [`Scope::Endpoint`](outbox_core::Scope::Endpoint).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn connect(&self) -> Result<()> {
        self.connections.get().await.map(drop).map_err(|failure| failure.to_error(self.connections.dialer()))
    }

    /// Connects, and looks for everything that the settings lead to: that each exchange is there and this user may publish
    /// to it, and that the queues which topics name are there. Where a closure routes, or a message's own options do,
    /// nobody knows before there is a message.
    ///
    /// No message is sent: whether the user may publish is tried in a transaction of the broker's that is taken back.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), or what is missing first: [`ErrorKind::NotFound`] or [`ErrorKind::Permission`] with
    /// the name of the exchange or queue.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn check(&self) -> Result<()> {
        let link =
            self.connections.get().await.map_err(|failure| failure.to_error(self.connections.dialer()))?;
        let limit = Instant::now() + self.confirm_timeout;
        match tokio::time::timeout_at(limit, check::run(&link, &self.routing)).await {
            Ok(checked) => checked.map_err(|error| link.endpoint().locate(error)),
            Err(_) => {
                link.cut();
                let error = Error::new(ErrorKind::Timeout, "the broker did not answer in time");
                Err(link.endpoint().locate(error))
            }
        }
    }
}

#[async_trait]
impl Publisher for AmqpPublisher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.capabilities.clone()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        Box::pin(Call::new(self, batch).run()).await
    }

    async fn close(&self) {
        self.connections.close().await;
        debug!("closed");
    }
}
