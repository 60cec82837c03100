//! A publisher that stops after so many messages, so that a relay is sure to be in the middle of a backlog.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities};
use tokio::sync::Semaphore;

#[derive(Clone)]
pub(crate) struct Gate {
    inner: Arc<dyn Publisher>,
    left: Arc<Semaphore>,
}

impl Gate {
    /// Lets this many messages through, and has those after them wait before anything is sent.
    pub(crate) fn new(inner: Arc<dyn Publisher>, messages: usize) -> Self {
        Self { inner, left: Arc::new(Semaphore::new(messages)) }
    }

    pub(crate) fn open(&self) {
        self.left.add_permits(100_000);
    }
}

#[async_trait]
impl Publisher for Gate {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let permits = self.left.acquire_many(batch.len() as u32).await.expect("never closed");
        permits.forget();
        self.inner.publish(batch).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
