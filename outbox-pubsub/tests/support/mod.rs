//! A consumer that reads what the README promises to consumers, and nothing else.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod fixture;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::pubsub::{PubsubMessage, Topic};
use outbox_conformance::Received;
use outbox_pubsub::{PubSubPublisher, PubSubPublisherBuilder};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A publisher whose calls end only if something hangs.
pub(crate) fn builder(address: SocketAddr) -> PubSubPublisherBuilder {
    PubSubPublisher::emulator_builder(&address.to_string())
        .project("outbox-test")
        .connect_timeout(Duration::from_secs(100))
        .call_timeout(Duration::from_secs(100))
}

/// Takes everything out of a subscription until it is dropped.
pub(crate) struct Consumer {
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Consumer {
    pub(crate) fn start(topic: &Topic) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (subscriber, all) = (topic.subscriber(), Arc::clone(&received));
        let task = tokio::spawn(async move {
            loop {
                let messages = subscriber.pull().await.unwrap();
                all.lock().unwrap().extend(messages.into_iter().map(read));
            }
        });
        Self { received, task }
    }

    /// Everything so far, as soon as it is at least so much, or the time is over.
    pub(crate) async fn received(&self, at_least: usize, within: Duration) -> Vec<Received> {
        let deadline = Instant::now() + within;
        loop {
            let received = self.received.lock().unwrap().clone();
            if received.len() >= at_least || Instant::now() >= deadline {
                return received;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A message as its consumer reads it.
fn read(message: PubsubMessage) -> Received {
    let PubsubMessage { data, mut attributes, ordering_key, .. } = message;
    let id = attributes.remove("outbox-id").and_then(|id| id.parse().ok());
    let topic = attributes.remove("outbox-topic");
    let options = [("ordering_key".to_owned(), ordering_key.clone())].into();
    let key = attributes.remove("outbox-key").or(Some(ordering_key)).filter(|key| !key.is_empty());
    let content_type = attributes.remove("outbox-content-type");
    Received::new(data)
        .options(options)
        .id(id)
        .topic(topic)
        .key(key)
        .content_type(content_type)
        .headers(attributes)
}
