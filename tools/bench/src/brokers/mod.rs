//! Brokers that messages go to, and the most that their drivers can do.

mod amqp;
mod kinesis;
mod pubsub;
mod sqs;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use outbox_core::Publisher;

pub use amqp::{OnRabbitMq, Queue};
pub use kinesis::OnKinesis;
pub use pubsub::OnPubSub;
pub use sqs::OnSqs;

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
    /// Whether messages of a key can be told to arrive in their order.
    fn is_ordered(&self) -> bool {
        true
    }

    /// Our publisher to it, with its default settings.
    fn publisher(&self) -> Result<Arc<dyn Publisher>>;

    /// Publishes from memory with the driver alone, with as many messages in flight as our relay has, and waits for all
    /// confirms. Within a key in order.
    async fn publish_alone(&self, load: &Load) -> Result<Duration>;

    /// Takes everything out, and gives the numbers in the order in which they arrived.
    async fn arrivals(&self, expected: u64) -> Result<Vec<u64>>;
}

/// The payloads, dealt out to so many workers. Those of a key go to one of them, in order.
fn shared_out(load: &Load, workers: usize) -> Vec<Vec<Vec<u8>>> {
    let mut shares: Vec<Vec<Vec<u8>>> = (0..workers).map(|_| Vec::new()).collect();
    for number in 0..load.messages {
        let worker = usize::try_from(number % load.keys).unwrap_or_default() % workers;
        if let Some(share) = shares.get_mut(worker) {
            share.push(load.payload(number));
        }
    }
    shares
}
