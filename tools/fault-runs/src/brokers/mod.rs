//! The broker of a run, with a consumer that records what arrives.

mod rabbitmq;
mod sqs;

use std::net::SocketAddr;

use async_trait::async_trait;
use integration_tests::Proxy;

pub use rabbitmq::OnRabbitMq;
pub use sqs::OnSqs;

/// A broker with one destination.
#[async_trait]
pub trait Broker: Send + Sync {
    /// The topic of all messages.
    fn topic(&self) -> &str;

    /// The address for relays. A proxy can stand in front of it.
    fn address(&self) -> SocketAddr;

    /// For relays in other processes, through a proxy in front of [`address`](Self::address).
    fn url_through(&self, proxy: &Proxy) -> String;

    /// Kills the server.
    async fn kill(&self);

    /// Restarts it, with the destination.
    async fn restart(&self);

    /// Stops it.
    async fn stop(&self);

    /// Continues it.
    async fn cont(&self);

    /// Returns the number of messages that have arrived so far.
    fn arrived(&self) -> usize;

    /// Returns the payloads of all arrived messages, in the broker's order.
    fn arrivals(&self) -> Vec<String>;
}
