//! The brokers, and the maximum rate of their drivers.

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

/// A broker of this program.
#[async_trait]
pub trait Broker: Send + Sync {
    /// The name in `--publisher`, with the kind of queue.
    fn name(&self) -> &'static str;

    /// Creates a new and empty destination for messages.
    async fn place(&self) -> Result<Box<dyn Place>>;
}

/// The destination of the messages of one run.
#[async_trait]
pub trait Place: Send + Sync {
    /// Whether the order of arrival within a key can be observed.
    fn is_ordered(&self) -> bool {
        true
    }

    /// The project's publisher to it, with its default settings.
    fn publisher(&self) -> Result<Arc<dyn Publisher>>;

    /// Publishes from memory with the driver alone, with as many messages in flight as the relay, and waits
    /// for all confirms. In order within a key.
    async fn publish_alone(&self, load: &Load) -> Result<Duration>;

    /// Takes everything out, and returns the numbers in the order in which they arrived.
    async fn arrivals(&self, expected: u64) -> Result<Vec<u64>>;
}

/// The payloads, distributed to this number of workers. Those of a key go to one of them, in order.
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
