//! The broker of a run, with somebody who takes down what arrives.

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

    /// Where relays connect to, and a proxy can stand before.
    fn address(&self) -> SocketAddr;

    /// For relays in other processes, through a proxy before [`address`](Self::address).
    fn url_through(&self, proxy: &Proxy) -> String;

    /// Kills the server.
    async fn kill(&self);

    /// Starts it again, with the destination.
    async fn restart(&self);

    /// Stops it where it is.
    async fn stop(&self);

    /// Lets it go on.
    async fn cont(&self);

    /// How many messages have arrived so far.
    fn arrived(&self) -> usize;

    /// The payloads of all that has arrived, in the broker's order.
    fn arrivals(&self) -> Vec<String>;
}
