//! RabbitMQ, with one consumer of one queue, whose order is that of publishing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{Environment, Proxy, RabbitMq, Server, eventually};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, Consumer};
use tokio::task::JoinHandle;

use super::Broker;

const QUEUE: &str = "events";
/// Maximum number of unacknowledged messages of the consumer.
const PREFETCH: u16 = 500;
const PATIENCE: Duration = Duration::from_secs(300);
/// Timeout for an answer. The client library waits forever for a broker that stops or dies during a request.
const ANSWER: Duration = Duration::from_secs(10);

/// A run to RabbitMQ: a durable queue, and persistent messages.
#[derive(Debug)]
pub struct OnRabbitMq {
    server: RabbitMq,
    vhost: Vhost,
    taken: Arc<Mutex<Taken>>,
    consumer: JoinHandle<()>,
}

/// The messages that the consumer has received.
#[derive(Debug, Default)]
struct Taken {
    payloads: Vec<String>,
    /// The last of them. If the broker has not received the acknowledgement, it redelivers them in the same
    /// order. These repeats come from the broker and not from the relay.
    last: VecDeque<String>,
}

impl Taken {
    fn take(&mut self, payload: String, redelivered: bool) {
        if redelivered && let Some(place) = self.last.iter().position(|last| *last == payload) {
            self.last.remove(place);
            return;
        }
        self.last.push_back(payload.clone());
        if self.last.len() > 2 * usize::from(PREFETCH) {
            self.last.pop_front();
        }
        self.payloads.push(payload);
    }
}

impl OnRabbitMq {
    /// Starts a server. Returns `None` if there is no such server; the harness has reported it.
    ///
    /// # Panics
    /// If the queue cannot be created.
    pub async fn start() -> Option<Self> {
        Self::start_in(Environment::of_process()).await
    }

    /// Like [`start`](Self::start), with variables chosen by the caller.
    ///
    /// # Panics
    /// Like [`start`](Self::start).
    pub async fn start_in(environment: Environment) -> Option<Self> {
        let server = RabbitMq::start_in(environment).await?;
        let vhost = server.vhost().await;
        vhost.declare_queue(QUEUE).await;
        server.sync_declarations().await;
        let taken = Arc::new(Mutex::new(Taken::default()));
        let consumer = tokio::spawn(consume(vhost.uri().to_owned(), taken.clone()));
        Some(Self { server, vhost, taken, consumer })
    }

    /// The server.
    pub fn server(&self) -> &RabbitMq {
        &self.server
    }

    /// The AMQP URI of the virtual host that has the queue.
    pub fn uri(&self) -> &str {
        self.vhost.uri()
    }

    /// Like [`arrivals`](Broker::arrivals), without the first `seen`.
    pub fn arrivals_after(&self, seen: usize) -> Vec<String> {
        self.taken().payloads[seen..].to_vec()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OnRabbitMq {
    fn drop(&mut self) {
        self.consumer.abort();
    }
}

/// Takes everything out of the queue, across restarts of its server.
async fn consume(uri: String, taken: Arc<Mutex<Taken>>) {
    loop {
        let connect =
            || async { in_time(Connection::connect(&uri, ConnectionProperties::default())).await.ok() };
        let connection = eventually("RabbitMQ to be back", PATIENCE, connect).await;
        // It ends when the server does; the next one begins where the acknowledgements ended.
        let _ = consume_on(&connection, &taken).await;
    }
}

async fn consume_on(connection: &Connection, taken: &Mutex<Taken>) -> anyhow::Result<()> {
    let mut consumer = in_time(subscribe(connection)).await?;
    let mut unacknowledged = 0;
    while let Some(delivery) = consumer.next().await {
        let Delivery { data, redelivered, acker, .. } = delivery?;
        let payload = String::from_utf8(data).expect("our payloads are text");
        taken.lock().unwrap_or_else(PoisonError::into_inner).take(payload, redelivered);
        unacknowledged += 1;
        // All except the last few immediately, so that waiting messages are never stuck.
        if unacknowledged >= PREFETCH / 4 {
            in_time(acker.ack(BasicAckOptions { multiple: true })).await?;
            unacknowledged = 0;
        }
    }
    Ok(())
}

async fn subscribe(connection: &Connection) -> lapin::Result<Consumer> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
    channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await
}

async fn in_time<T>(answer: impl Future<Output = lapin::Result<T>>) -> anyhow::Result<T> {
    Ok(tokio::time::timeout(ANSWER, answer).await??)
}

#[async_trait]
impl Broker for OnRabbitMq {
    fn topic(&self) -> &str {
        QUEUE
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn url_through(&self, proxy: &Proxy) -> String {
        self.vhost.uri_through(proxy)
    }

    async fn kill(&self) {
        self.server.kill().await;
    }

    async fn restart(&self) {
        self.server.restart().await;
    }

    async fn stop(&self) {
        self.server.stop().await;
    }

    async fn cont(&self) {
        self.server.cont().await;
    }

    fn arrived(&self) -> usize {
        self.taken().payloads.len()
    }

    fn arrivals(&self) -> Vec<String> {
        self.taken().payloads.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_own_repeats_do_not_count_and_those_of_relays_do() {
        let mut taken = Taken::default();
        for (payload, redelivered) in
            [("1", false), ("2", false), ("1", true), ("2", true), ("3", true), ("3", false)]
        {
            taken.take(payload.to_owned(), redelivered);
        }
        assert_eq!(taken.payloads, ["1", "2", "3", "3"]);
    }
}
