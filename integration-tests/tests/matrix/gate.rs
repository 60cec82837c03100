//! A publisher that stops after a number of messages, so that a relay is certainly in the middle of a
//! backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities};
use tokio::sync::Semaphore;

#[derive(Clone)]
pub(crate) struct Gate {
    inner: Arc<dyn Publisher>,
    left: Arc<Semaphore>,
    /// Number of messages in calls that wait here.
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    /// Lets this many messages through, and makes the following ones wait before anything is sent.
    pub(crate) fn new(inner: Arc<dyn Publisher>, messages: usize) -> Self {
        Self { inner, left: Arc::new(Semaphore::new(messages)), waiting: Arc::default() }
    }

    /// Lets `future` finish: waiting messages are let through repeatedly until it has.
    ///
    /// No others: a relay that was asked to stop starts at most a few more calls before it notices.
    pub(crate) async fn open_until<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                result = &mut future => return result,
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    self.left.add_permits(self.waiting.swap(0, Ordering::Relaxed));
                }
            }
        }
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
        let count = batch.len() as u32;
        let permits = match self.left.try_acquire_many(count) {
            Ok(permits) => permits,
            Err(_) => {
                self.waiting.fetch_add(batch.len(), Ordering::Relaxed);
                self.left.acquire_many(count).await.expect("never closed")
            }
        };
        permits.forget();
        self.inner.publish(batch).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
