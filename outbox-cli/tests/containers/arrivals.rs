//! A consumer that notes what arrives in a queue.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::StreamExt;
use integration_tests::eventually;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::PATIENCE;

/// A message, by what its payload says.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) key: String,
    pub(crate) number: u64,
    pub(crate) at: Instant,
}

/// What has arrived in a queue so far, in the broker's order.
pub(crate) struct Arrivals {
    taken: Arc<Mutex<Vec<Arrival>>>,
    consumer: JoinHandle<()>,
    _connection: Connection,
}

/// The payload of a message that the consumer understands.
pub(crate) fn payload(key: &str, number: u64) -> String {
    serde_json::json!({ "key": key, "number": number }).to_string()
}

impl Arrivals {
    /// Consumes from a queue, once the server is there and a relay has declared the queue.
    pub(crate) async fn of(uri: &str, queue: &str) -> Self {
        let connection = eventually("RabbitMQ", PATIENCE, || async {
            Connection::connect(uri, ConnectionProperties::default()).await.ok()
        })
        .await;
        let channel = eventually("the queue", PATIENCE, || async {
            // The server closes the channel if there is no such queue.
            let channel = connection.create_channel().await.unwrap();
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            channel
                .queue_declare(queue.into(), options, FieldTable::default())
                .await
                .is_ok()
                .then_some(channel)
        })
        .await;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
        let mut consumer = consumer.unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let notes = taken.clone();
        let consumer = tokio::spawn(async move {
            let _channel = channel;
            while let Some(delivery) = consumer.next().await {
                let payload: Value = serde_json::from_slice(&delivery.unwrap().data).unwrap();
                let key = payload["key"].as_str().unwrap().to_owned();
                let arrival =
                    Arrival { key, number: payload["number"].as_u64().unwrap(), at: Instant::now() };
                notes.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
            }
        });
        Self { taken, consumer, _connection: connection }
    }

    /// Everything so far.
    ///
    /// # Panics
    /// If the consumer has lost its connection: what it did not acknowledge would be missing.
    pub(crate) fn all(&self) -> Vec<Arrival> {
        assert!(!self.consumer.is_finished(), "the test's own consumer has lost its connection");
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.consumer.abort();
    }
}
