//! One virtual host per test.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use tokio::sync::Mutex;
use url::Url;

use crate::http;
use crate::names;
use crate::proxy::Proxy;
use crate::runtime;

/// A virtual host of one test. It is deleted with this value, with everything in it.
///
/// The methods that contact the server share one connection. It is opened when it is first needed, and opened
/// again when it is broken.
pub struct Vhost {
    uri: Url,
    name: String,
    management: http::Client,
    connection: Mutex<Option<Connection>>,
}

impl std::fmt::Debug for Vhost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vhost").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Vhost {
    pub(super) async fn create(server: &Url, management: &http::Client) -> Result<Self> {
        let name = names::fresh();
        // The user who creates a virtual host has all permissions in it.
        management.request("PUT", &format!("/api/vhosts/{name}"), None).await?;
        let mut uri = server.clone();
        uri.set_path(&name);
        Ok(Self { uri, name, management: management.clone(), connection: Mutex::default() })
    }

    /// The virtual host's name, which needs no escapes in a URI.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The virtual host's AMQP URI, with a user who has all permissions in it.
    pub fn uri(&self) -> &str {
        self.uri.as_str()
    }

    /// The same through a proxy in front of the server.
    pub fn uri_through(&self, proxy: &Proxy) -> String {
        crate::proxy::through(&self.uri, proxy)
    }

    /// Opens a new connection for the caller.
    ///
    /// # Panics
    /// If the server refuses it.
    pub async fn connect(&self) -> Connection {
        self.try_connect().await.unwrap_or_else(|error| panic!("cannot connect to RabbitMQ: {error:#}"))
    }

    async fn try_connect(&self) -> Result<Connection> {
        Ok(Connection::connect(self.uri(), ConnectionProperties::default()).await?)
    }

    /// Opens a new channel on the shared connection.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn channel(&self) -> Channel {
        self.try_channel()
            .await
            .unwrap_or_else(|error| panic!("cannot open a channel to RabbitMQ: {error:#}"))
    }

    async fn try_channel(&self) -> Result<Channel> {
        let mut connection = self.connection.lock().await;
        // The connection notices late that the server is gone, so a failure here leads to a new connection.
        if let Some(open) = connection.as_ref().filter(|open| open.status().connected())
            && let Ok(channel) = open.create_channel().await
        {
            return Ok(channel);
        }
        let channel = connection.insert(self.try_connect().await?).create_channel().await?;
        Ok(channel)
    }

    /// Declares this durable queue if it is missing. The default exchange routes to it by its name.
    ///
    /// # Panics
    /// If the queue exists with other properties.
    pub async fn declare_queue(&self, queue: &str) {
        self.declare_queue_with(queue, FieldTable::default()).await;
    }

    /// Like [`declare_queue`](Self::declare_queue), with arguments such as `x-max-length`.
    ///
    /// # Panics
    /// If the queue exists with other properties.
    pub async fn declare_queue_with(&self, queue: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let declared = self.channel().await.queue_declare(queue.into(), options, arguments).await;
        declared.unwrap_or_else(|error| panic!("cannot declare queue {queue}: {error}"));
    }

    /// Makes an exchange send messages with a matching routing key to a queue.
    ///
    /// # Panics
    /// If the exchange or the queue does not exist.
    pub async fn bind_queue(&self, queue: &str, exchange: &str, routing_key: &str) {
        let channel = self.channel().await;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.into(), exchange.into(), routing_key.into(), options, FieldTable::default())
            .await
            .unwrap_or_else(|error| panic!("cannot bind queue {queue} to exchange {exchange}: {error}"));
    }

    /// Returns the number of messages that wait in a queue. Unacknowledged messages of a consumer do not
    /// count.
    ///
    /// # Panics
    /// If the queue does not exist.
    pub async fn queue_depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = self.channel().await.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.unwrap_or_else(|error| panic!("no queue {queue}: {error}")).message_count()
    }

    /// Empties a queue, and returns the number of its messages.
    ///
    /// # Panics
    /// If the queue does not exist.
    pub async fn purge_queue(&self, queue: &str) -> u32 {
        let purged = self.channel().await.queue_purge(queue.into(), QueuePurgeOptions::default()).await;
        purged.unwrap_or_else(|error| panic!("cannot purge queue {queue}: {error}"))
    }

    /// A consumer without acknowledgements: messages sent to it have left the queue.
    ///
    /// # Panics
    /// If the queue does not exist.
    pub async fn consumer(&self, queue: &str) -> Consumer {
        consumer_on(&self.channel().await, queue).await
    }

    /// Takes the next `count` messages out of a queue, in the order in which they arrive. If there are more,
    /// more than these leave the queue.
    ///
    /// # Panics
    /// When `deadline` has passed and fewer messages have arrived.
    pub async fn consume(&self, queue: &str, count: usize, deadline: Duration) -> Vec<Delivery> {
        let channel = self.channel().await;
        let mut consumer = consumer_on(&channel, queue).await;
        let mut deliveries = Vec::with_capacity(count);
        let all = async {
            while deliveries.len() < count {
                let delivery = consumer.next().await.context("the server has cancelled the consumer")??;
                deliveries.push(delivery);
            }
            // Wait for the answer, otherwise the server could send the next message of the queue to this
            // consumer.
            channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            anyhow::Ok(())
        };
        match tokio::time::timeout(deadline, all).await {
            Ok(Ok(())) => deliveries,
            Ok(Err(error)) => panic!("cannot consume from queue {queue}: {error:#}"),
            Err(_) => {
                panic!("{} of {count} messages arrived in queue {queue} in {deadline:?}", deliveries.len())
            }
        }
    }
}

async fn consumer_on(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
    consumer.unwrap_or_else(|error| panic!("cannot consume from queue {queue}: {error}"))
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let (management, name) = (self.management.clone(), std::mem::take(&mut self.name));
        // The test continues or has ended. If deleting does not finish, the whole server ends with the test
        // process, or `delete_old` finds the virtual host later.
        runtime::spawn(async move {
            let _ = delete(&management, &name).await;
        });
    }
}

async fn delete(management: &http::Client, name: &str) -> Result<()> {
    management.request("DELETE", &format!("/api/vhosts/{name}"), None).await?;
    Ok(())
}

/// Deletes the virtual hosts of former test processes from a server that outlives them.
pub(super) async fn delete_old(management: &http::Client) -> Result<()> {
    let answer = management.request("GET", "/api/vhosts?columns=name", None).await?;
    // The harness's names need no escapes, so the text between quotes is the name.
    for name in answer.split('"').filter(|text| names::is_left_over(text)) {
        delete(management, name).await?;
    }
    Ok(())
}
