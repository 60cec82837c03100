//! RabbitMQ: persistent messages to a durable queue, with confirms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use futures_util::StreamExt;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{Environment, RabbitMq, Server};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Confirmation};
use outbox_amqp::AmqpPublisher;
use outbox_core::{MessageId, Publisher};

use super::{Broker, Place, shared_out};
use crate::load::{Load, TOPIC, number};

/// The relay's default number of messages in flight: the number of calls, and of messages in each.
const CALLS: usize = 4;
const WINDOW: usize = 500;
/// How long no message may arrive until the missing ones count as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// A repeat would follow immediately.
const MORE: Duration = Duration::from_millis(50);

/// The kind of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// On one node.
    Classic,
    /// Replicated, here with a single replica.
    Quorum,
}

/// A server of this program.
#[derive(Debug)]
pub struct OnRabbitMq {
    server: RabbitMq,
    queue: Queue,
}

impl OnRabbitMq {
    /// Starts a server.
    ///
    /// # Errors
    /// If no server can be started.
    pub async fn start(environment: Environment, queue: Queue) -> Result<Self> {
        let server = RabbitMq::try_start(environment).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { server, queue })
    }
}

#[async_trait]
impl Broker for OnRabbitMq {
    fn name(&self) -> &'static str {
        match self.queue {
            Queue::Classic => "amqp-classic",
            Queue::Quorum => "amqp-quorum",
        }
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        let vhost = self.server.vhost().await;
        let mut arguments = FieldTable::default();
        if self.queue == Queue::Quorum {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        }
        vhost.declare_queue_with(TOPIC, arguments).await;
        Ok(Box::new(InVhost { vhost }))
    }
}

struct InVhost {
    vhost: Vhost,
}

#[async_trait]
impl Place for InVhost {
    fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(AmqpPublisher::builder(self.vhost.uri()).build()?))
    }

    async fn publish_alone(&self, load: &Load) -> Result<Duration> {
        let connection = self.vhost.connect().await;
        let messages = shared_out(load, CALLS);
        let started = Instant::now();
        let mut channels = Vec::new();
        for messages in messages {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channels.push(tokio::spawn(async move {
                let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                let mut messages = messages.into_iter().peekable();
                while messages.peek().is_some() {
                    let mut confirms = Vec::with_capacity(WINDOW);
                    for payload in messages.by_ref().take(WINDOW) {
                        let properties = BasicProperties::default()
                            .with_delivery_mode(2)
                            .with_message_id(MessageId::new().to_string().as_str().into());
                        let published =
                            channel.basic_publish("".into(), TOPIC.into(), options, &payload, properties);
                        confirms.push(published.await?);
                    }
                    for confirm in confirms {
                        match confirm.await? {
                            Confirmation::Ack(None) => {}
                            other => bail!("a message was not confirmed: {other:?}"),
                        }
                    }
                }
                anyhow::Ok(channel)
            }));
        }
        // A dropped channel is closed; if the connection is closed meanwhile, this fails.
        let mut open = Vec::new();
        for channel in channels {
            open.push(channel.await??);
        }
        let took = started.elapsed();
        for channel in open {
            channel.close(200, "done".into()).await?;
        }
        connection.close(200, "done".into()).await?;
        Ok(took)
    }

    async fn arrivals(&self, expected: u64) -> Result<Vec<u64>> {
        let mut consumer = self.vhost.consumer(TOPIC).await;
        let mut arrivals = Vec::new();
        loop {
            let patience = if arrivals.len() as u64 >= expected { MORE } else { PATIENCE };
            let Ok(delivery) = tokio::time::timeout(patience, consumer.next()).await else {
                return Ok(arrivals);
            };
            let delivery = delivery.context("the server has cancelled the consumer")??;
            arrivals.push(number(&delivery.data)?);
        }
    }
}
