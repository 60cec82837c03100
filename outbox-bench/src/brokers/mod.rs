//! Brokers that messages go to, and the most that their drivers can do.

mod amqp;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use outbox_core::Publisher;

pub use amqp::{OnRabbitMq, Queue};

use crate::load::Load;

/// A broker of our own.
#[async_trait]
pub trait Broker: Send + Sync {
    /// As in `--publisher`, with what kind of queue it is.
    fn name(&self) -> &'static str;

    /// A new and empty place for messages.
    async fn place(&self) -> Result<Box<dyn Place>>;
}

/// Where the messages of one run go.
#[async_trait]
pub trait Place: Send + Sync {
    /// Our publisher to it, with its default settings.
    fn publisher(&self) -> Result<Arc<dyn Publisher>>;

    /// Publishes from memory with the driver alone, with as many messages in flight as our relay has, and waits for all
    /// confirms. Within a key in order.
    async fn from_memory(&self, load: &Load) -> Result<Duration>;

    /// Takes everything out, and gives the numbers in the order in which they arrived.
    async fn arrivals(&self, expected: u64) -> Result<Vec<u64>>;
}
