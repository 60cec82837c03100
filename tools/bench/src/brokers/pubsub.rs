//! Google's own fake of Pub/Sub, with ordering keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_trait::async_trait;
use integration_tests::pubsub::Topic as TestTopic;
use integration_tests::{Environment, PubSub, Server};
use outbox_core::{Message, Publisher};
use outbox_pubsub::{PubSubPublisher, Topic};

use super::{Broker, Place};
use crate::load::{Load, TOPIC, number};

/// The relay's default number of messages in flight: the number of calls, and of messages in each.
const CALLS: u64 = 4;
const WINDOW: usize = 500;
/// A single response without messages proves little: this many in a row show that there are none.
const EMPTY_ANSWERS: u32 = 3;

/// A server of this program.
#[derive(Debug)]
pub struct OnPubSub {
    server: PubSub,
}

impl OnPubSub {
    /// Starts a server.
    ///
    /// # Errors
    /// If no server can be started.
    pub async fn start(environment: Environment) -> Result<Self> {
        let server = PubSub::try_start(environment).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { server })
    }
}

#[async_trait]
impl Broker for OnPubSub {
    fn name(&self) -> &'static str {
        "pubsub"
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(InTopic { address: self.server.address().to_string(), topic: self.server.topic().await }))
    }
}

struct InTopic {
    address: String,
    topic: TestTopic,
}

#[async_trait]
impl Place for InTopic {
    fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let builder = PubSubPublisher::emulator_builder(&self.address).project("outbox-test");
        Ok(Arc::new(builder.route(TOPIC, Topic::full(self.topic.name())).build()?))
    }

    /// With the project's own publisher: Google's client batches by time, so its timer would be measured.
    async fn publish_alone(&self, load: &Load) -> Result<Duration> {
        let publisher = self.publisher()?;
        let mut shares: Vec<Vec<Message>> = (0..CALLS).map(|_| Vec::new()).collect();
        for number in 0..load.messages {
            if let Some(share) = shares.get_mut(usize::try_from(number % load.keys % CALLS)?) {
                share.push(load.message(number)?);
            }
        }
        let started = Instant::now();
        let mut workers = Vec::new();
        for share in shares {
            let publisher = publisher.clone();
            workers.push(tokio::spawn(async move {
                for chunk in share.chunks(WINDOW) {
                    for outcome in publisher.publish(chunk).await {
                        outcome?;
                    }
                }
                anyhow::Ok(())
            }));
        }
        for worker in workers {
            worker.await??;
        }
        Ok(started.elapsed())
    }

    async fn arrivals(&self, expected: u64) -> Result<Vec<u64>> {
        let subscriber = self.topic.subscriber();
        let (mut arrivals, mut empty) = (Vec::new(), 0);
        while empty < EMPTY_ANSWERS {
            let messages = subscriber.pull().await?;
            empty = if messages.is_empty() { empty + 1 } else { 0 };
            for message in messages {
                arrivals.push(number(&message.data)?);
            }
            if arrivals.len() as u64 > expected {
                bail!("no figure: more than {expected} messages arrived");
            }
        }
        Ok(arrivals)
    }
}
