//! A FIFO queue of SQS. Its emulator loses everything when it dies. Therefore a message counts as arrived
//! when the server has confirmed it, in that order, as recorded by a gateway in front of it. That the service
//! keeps confirmed messages is Amazon's promise, and not tested here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::sqs::{Gateway, Queue};
use integration_tests::{Proxy, Server, Sqs, eventually};
use tokio::task::JoinHandle;

use super::Broker;

const PATIENCE: Duration = Duration::from_secs(300);

/// A run to SQS.
#[derive(Debug)]
pub struct OnSqs {
    server: Arc<Sqs>,
    queue: Arc<Queue>,
    gateway: Gateway,
    consumer: JoinHandle<()>,
}

impl OnSqs {
    /// Starts a server. Returns `None` if there is no such server; the harness has reported it.
    pub async fn start() -> Option<Self> {
        let server = Arc::new(Sqs::start().await?);
        let queue = Arc::new(server.fifo_queue().await);
        let gateway = server.gateway().await;
        gateway.keep_log();
        let consumer = tokio::spawn(empty(server.clone(), queue.clone()));
        Some(Self { server, queue, gateway, consumer })
    }
}

impl Drop for OnSqs {
    fn drop(&mut self) {
        self.consumer.abort();
    }
}

/// Keeps the queue empty, so that the server's memory does not grow.
async fn empty(server: Arc<Sqs>, queue: Arc<Queue>) {
    let client = server.client();
    loop {
        eventually("the queue to answer", PATIENCE, || async { queue.receive(&client).await.ok() }).await;
    }
}

#[async_trait]
impl Broker for OnSqs {
    fn topic(&self) -> &str {
        self.queue.name()
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    fn url_through(&self, proxy: &Proxy) -> String {
        format!("sqs://{}", proxy.address())
    }

    async fn kill(&self) {
        self.server.kill().await;
    }

    async fn restart(&self) {
        self.server.restart().await;
        self.queue.create_again().await;
    }

    async fn stop(&self) {
        self.server.stop().await;
    }

    async fn cont(&self) {
        self.server.cont().await;
    }

    fn arrived(&self) -> usize {
        self.gateway.logged()
    }

    fn arrivals(&self) -> Vec<String> {
        self.gateway.log()
    }
}
