//! A topic of one test, with a subscription.

use std::net::SocketAddr;

use anyhow::Result;

use super::Entry;
use super::local::Desk;
use super::wire::{self, AcknowledgeRequest, Client, PubsubMessage, PullRequest, PullResponse};
use crate::{names, runtime};

/// The project of all topics.
const PROJECT: &str = "outbox-test";

/// The behaviour of a server for publish requests to a topic. Its records contain what it has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It handles them normally.
    None,
    /// It answers with this gRPC code, and accepts no message.
    Code(i32),
    /// Like [`Code`](Self::Code) for every second request.
    EverySecond(i32),
    /// It accepts the messages, and then cuts the connection instead of answering.
    AnswerLost,
}

/// A topic of one test, and an ordered subscription to it. It lives as long as its server.
#[derive(Debug)]
pub struct Topic {
    address: SocketAddr,
    desk: Desk,
    id: String,
}

impl Topic {
    pub(super) async fn create(address: SocketAddr, desk: Desk) -> Self {
        let id = names::fresh();
        let topic = Self { address, desk, id };
        let name = wire::Topic { name: topic.name() };
        let made: Result<wire::Topic, _> = admin(address, "Publisher/CreateTopic", name).await;
        made.unwrap_or_else(|error| panic!("cannot create the topic {}: {error}", topic.id));
        topic.subscribe().await;
        topic
    }

    /// Creates the subscription again, after the server was killed and has lost it.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn subscribe(&self) {
        self.make(self.subscription(), true).await;
    }

    /// Creates another subscription without an order, and returns its full name.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn subscribe_without_order(&self) -> String {
        let name = format!("{}-unordered", self.subscription());
        self.make(name.clone(), false).await;
        name
    }

    async fn make(&self, name: String, enable_message_ordering: bool) {
        let subscription = wire::Subscription {
            name,
            topic: self.name(),
            ack_deadline_seconds: 600,
            enable_message_ordering,
        };
        let made: Result<wire::Subscription, _> =
            admin(self.address, "Subscriber/CreateSubscription", subscription).await;
        made.unwrap_or_else(|error| panic!("cannot subscribe to the topic {}: {error}", self.id));
    }

    /// Its id within the project.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its full name.
    pub fn name(&self) -> String {
        format!("projects/{PROJECT}/topics/{}", self.id)
    }

    fn subscription(&self) -> String {
        format!("projects/{PROJECT}/subscriptions/{}", self.id)
    }

    /// Changes the behaviour for requests to this topic.
    ///
    /// # Panics
    /// If the server cannot be instructed.
    pub fn set(&self, fault: Fault) {
        let text = match fault {
            Fault::None => String::new(),
            Fault::Code(code) => format!("code {code}"),
            Fault::EverySecond(code) => format!("every-second {code}"),
            Fault::AnswerLost => "lost".to_owned(),
        };
        self.desk.tell(&self.id, &text).unwrap_or_else(|error| panic!("cannot make {fault:?}: {error:#}"));
    }

    /// The publish requests for this topic, including refused ones, in the order in which the server received
    /// them, also before restarts.
    ///
    /// # Panics
    /// If there are no records.
    pub fn books(&self) -> Vec<Entry> {
        let name = self.name();
        let books = self.desk.books().unwrap_or_else(|error| panic!("no books: {error}"));
        books.into_iter().filter(|entry| entry.topic == name).collect()
    }

    /// A subscriber that belongs to the runtime of the caller.
    pub fn subscriber(&self) -> Subscriber {
        let client = Client::new(self.address).expect("an address makes a URL");
        Subscriber { client, subscription: self.subscription() }
    }

    /// Publishes payloads with one ordering key with a plain client, and returns the ids that the service
    /// assigned.
    ///
    /// # Errors
    /// Errors of the service.
    pub async fn publish(&self, ordering_key: &str, payloads: &[&str]) -> Result<Vec<String>, tonic::Status> {
        let message = |payload: &&str| PubsubMessage {
            data: payload.as_bytes().to_vec().into(),
            ordering_key: ordering_key.to_owned(),
            ..PubsubMessage::default()
        };
        let messages = payloads.iter().map(message).collect();
        let request = wire::PublishRequest { topic: self.name(), messages };
        let answer: wire::PublishResponse = admin(self.address, "Publisher/Publish", request).await?;
        Ok(answer.message_ids)
    }
}

/// Takes messages out of a subscription.
#[derive(Clone, Debug)]
pub struct Subscriber {
    client: Client,
    subscription: String,
}

impl Subscriber {
    /// Returns some messages, which are not redelivered; for an ordering key, one at a time. Returns none
    /// after half a second without a message.
    ///
    /// # Errors
    /// If the server does not answer, or does not know the subscription.
    pub async fn pull(&self) -> Result<Vec<PubsubMessage>, tonic::Status> {
        let request = PullRequest { subscription: self.subscription.clone(), max_messages: 1_000 };
        let pulled: PullResponse = self.client.call("Subscriber/Pull", request).await?;
        if pulled.received_messages.is_empty() {
            return Ok(Vec::new());
        }
        let (ack_ids, messages): (Vec<_>, Vec<_>) =
            pulled.received_messages.into_iter().map(|received| (received.ack_id, received.message)).unzip();
        let request = AcknowledgeRequest { subscription: self.subscription.clone(), ack_ids };
        let () = self.client.call("Subscriber/Acknowledge", request).await?;
        Ok(messages.into_iter().flatten().collect())
    }
}

/// One call on the harness's runtime, with a new connection.
async fn admin<Q, A>(address: SocketAddr, method: &'static str, request: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    runtime::run(async move {
        let client = Client::new(address).expect("an address makes a URL");
        client.call(method, request).await
    })
    .await
}
