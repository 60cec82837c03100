//! The publisher: sorts a batch into windows, runs them, and draws conclusions for the next call.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    Error, ErrorKind, Message, MessageId, Outcome, Publisher, PublisherCapabilities, Result, Verdict,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::NAME;
use crate::builder::AmqpPublisherBuilder;
use crate::check;
use crate::connections::Connections;
use crate::error::{Stage, is_not_found, judge, text};
use crate::exchanges::{self, Unusable};
use crate::link::Link;
use crate::outgoing::{ExchangeSpec, Outgoing};
use crate::quarantine::Quarantine;
use crate::routing::Routing;
use crate::verdict::{Complaint, blocked};
use crate::window;

/// Publishes to RabbitMQ, or another broker that speaks AMQP 0-9-1 with publisher confirms.
///
/// It connects when it is first used and again after a failure, and runs on tokio. Cheap to share behind an
/// [`Arc`]; dropping it closes the connection.
///
/// # Cancel safety
/// When a [`publish`](Publisher::publish) future is dropped, its channel is closed and none of its messages will
/// begin to be sent. If one of them is half written at that moment, the whole connection is cut, and calls running
/// at the same time have an unknown outcome.
pub struct AmqpPublisher {
    pub(crate) connections: Connections,
    pub(crate) routing: Routing,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) confirm_timeout: Duration,
    pub(crate) capabilities: PublisherCapabilities,
    pub(crate) max_message_bytes: usize,
    pub(crate) quarantine: Quarantine,
}

impl fmt::Debug for AmqpPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpPublisher")
            .field("connections", &self.connections)
            .field("routing", &self.routing)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl AmqpPublisher {
    /// Starts a publisher to the broker at `uri`, such as `amqp://user:password@host:5672/vhost` or `amqps://…`. A
    /// virtual host `/` is written `%2f` or left out together with the slash before it.
    ///
    /// The URI is a secret: it is in no error, log or `Debug` form; the host and the virtual host are.
    pub fn builder(uri: &str) -> AmqpPublisherBuilder {
        AmqpPublisherBuilder::from_uri(uri)
    }

    /// Starts a publisher whose connections are made by the caller's own code.
    pub fn with_connector(connector: impl crate::Connector) -> AmqpPublisherBuilder {
        AmqpPublisherBuilder::from_connector(Arc::new(connector))
    }

    /// Connects now, and declares the configured topology, instead of with the first call: for a service that wants
    /// to learn at its start whether its settings are right.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], [`ErrorKind::Permission`] or [`ErrorKind::NotFound`] (the virtual host), all
    /// with [`Scope::Endpoint`](outbox_core::Scope::Endpoint).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn connect(&self) -> Result<()> {
        self.connections
            .get()
            .await
            .map(drop)
            .map_err(|failure| failure.to_error(&self.connections.dialer().endpoint))
    }

    /// Connects, and looks for everything that the settings lead to: that each exchange is there and this user may publish
    /// to it, and that the queues which topics name are there. Where a closure routes, or a message's own options do,
    /// nobody knows before there is a message.
    ///
    /// No message is sent: whether the user may publish is tried in a transaction of the broker's that is taken back.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), or what is missing first: [`ErrorKind::NotFound`] or [`ErrorKind::Permission`] with
    /// the name of the exchange or queue.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn check(&self) -> Result<()> {
        let link = self
            .connections
            .get()
            .await
            .map_err(|failure| failure.to_error(&self.connections.dialer().endpoint))?;
        let limit = Instant::now() + self.confirm_timeout;
        match tokio::time::timeout_at(limit, check::run(&link, &self.routing)).await {
            Ok(checked) => checked.map_err(|error| self.locate(error)),
            Err(_) => {
                link.cut();
                Err(self.locate(Error::new(ErrorKind::Timeout, "the broker did not answer in time")))
            }
        }
    }

    async fn publish_ready(&self, ready: Vec<Outgoing<'_>>, outcomes: &mut Outcomes) {
        // One call, one channel. The semaphore is never closed.
        let Ok(_permit) = self.calls.acquire().await else { return };
        let deadline = Instant::now() + self.confirm_timeout;
        let link = match self.connections.get().await {
            Ok(link) => link,
            Err(failure) => {
                return outcomes.fail_all(ready, || failure.to_error(&self.connections.dialer().endpoint));
            }
        };
        if let Some(reason) = link.blocked() {
            return outcomes.fail_all(ready, || self.locate(blocked(&reason)));
        }
        let ready = outcomes.keep(ready, |message| message.fits(link.frame_max()));
        let ready = self.keep_with_exchange(&link, ready, deadline, outcomes).await;
        for window in plan(ready, |message| self.quarantine.holds(message.id, &message.exchange.name)) {
            self.run(&link, window, deadline, outcomes).await;
        }
    }

    /// Gives an outcome to the messages whose exchange cannot be used, and keeps the others.
    async fn keep_with_exchange<'a>(
        &self,
        link: &Link,
        ready: Vec<Outgoing<'a>>,
        deadline: Instant,
        outcomes: &mut Outcomes,
    ) -> Vec<Outgoing<'a>> {
        let specs = ready.iter().map(|message| &message.exchange);
        let unusable = Box::pin(exchanges::ensure(link, &self.connections, specs, deadline)).await;
        outcomes.keep(ready, |message| match unusable.get(&message.exchange) {
            None => Ok(()),
            Some(Unusable::Failed(error)) => {
                Err(self.locate(judge(error, Stage::Exchange).with("exchange", &message.exchange.name)))
            }
            Some(Unusable::TimedOut) => Err(self.locate(Error::new(
                ErrorKind::Unavailable,
                "the message was not sent: the broker did not answer in time whether its exchange exists",
            ))),
        })
    }

    /// Runs one window and remembers what it teaches.
    async fn run(
        &self,
        link: &Arc<Link>,
        window: Vec<Outgoing<'_>>,
        deadline: Instant,
        outcomes: &mut Outcomes,
    ) {
        let lease = match tokio::time::timeout_at(deadline, link.lease()).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => {
                return outcomes.fail_all(window, || self.locate(judge(&error, Stage::Before)));
            }
            Err(_) => {
                // Not even a new channel: the broker does not answer at all.
                link.cut();
                return outcomes.fail_all(window, || {
                    self.locate(Error::new(
                        ErrorKind::Unavailable,
                        "the message was not sent: the broker did not open a channel in time",
                    ))
                });
            }
        };
        let sent: Vec<(usize, MessageId, ExchangeSpec)> =
            window.iter().map(|message| (message.index, message.id, message.exchange.clone())).collect();
        let answers = Box::pin(window::run(lease, window, deadline)).await;
        if let Some(complaint) = &answers.complaint {
            self.draw_conclusions(link, complaint, &sent);
        }
        for ((index, id, _), outcome) in sent.into_iter().zip(answers.outcomes) {
            if outcome.is_ok() {
                self.quarantine.clear(id);
            }
            outcomes.set(index, outcome.map_err(|error| self.locate(error)));
        }
    }

    /// Takes care that the message the broker complained about does not fail its neighbours again.
    fn draw_conclusions(
        &self,
        link: &Link,
        complaint: &Complaint,
        sent: &[(usize, MessageId, ExchangeSpec)],
    ) {
        let suspects = || complaint.suspects.iter().filter_map(|place| sent.get(*place));
        // The broker quotes the name of the exchange it means, if it means one.
        let said = text(&complaint.error);
        let named: HashSet<&str> = suspects()
            .map(|(_, _, exchange)| exchange.name.as_str())
            .filter(|name| !name.is_empty() && said.contains(&format!("exchange '{name}'")))
            .collect();
        if sent.len() > 1 {
            link.retire();
        }
        warn!(error = %complaint.error, suspects = complaint.suspects.len(), "the broker refused a message");
        if is_not_found(&complaint.error) {
            // The next call looks it up again, and so finds out which messages are concerned.
            for (_, _, exchange) in suspects() {
                if named.is_empty() || named.contains(exchange.name.as_str()) {
                    link.exchanges().forget(&exchange.name);
                }
            }
        } else if named.is_empty() {
            suspects().for_each(|(_, id, _)| self.quarantine.suspect(*id));
        } else {
            named.into_iter().for_each(|name| self.quarantine.suspect_exchange(name));
        }
    }

    fn locate(&self, error: Error) -> Error {
        self.connections.dialer().endpoint.locate(error)
    }
}

#[async_trait]
impl Publisher for AmqpPublisher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.capabilities.clone()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut outcomes = Outcomes::new(batch.len());
        let mut ready = Vec::with_capacity(batch.len());
        for (index, message) in batch.iter().enumerate() {
            match Outgoing::new(index, message, &self.routing, self.max_message_bytes) {
                Ok(outgoing) => ready.push(outgoing),
                Err(error) => outcomes.set(index, Err(error)),
            }
        }
        if !ready.is_empty() {
            Box::pin(self.publish_ready(ready, &mut outcomes)).await;
        }
        outcomes.finish()
    }

    async fn close(&self) {
        self.connections.close().await;
        debug!("closed");
    }
}

/// Sorts messages into windows: suspects alone, the others together, but with no message id twice in a window, since
/// a returned message is recognised by it.
fn plan<'a>(ready: Vec<Outgoing<'a>>, alone: impl Fn(&Outgoing<'_>) -> bool) -> Vec<Vec<Outgoing<'a>>> {
    let mut together: Vec<(HashSet<MessageId>, Vec<Outgoing<'a>>)> = Vec::new();
    let mut singles = Vec::new();
    for message in ready {
        if alone(&message) {
            singles.push(vec![message]);
            continue;
        }
        match together.iter_mut().find(|(ids, _)| !ids.contains(&message.id)) {
            Some((ids, window)) => {
                ids.insert(message.id);
                window.push(message);
            }
            None => together.push((HashSet::from([message.id]), vec![message])),
        }
    }
    together.into_iter().map(|(_, window)| window).chain(singles).collect()
}

/// The outcomes of a batch, filled in as they become known.
struct Outcomes(Vec<Option<Outcome>>);

impl Outcomes {
    fn new(len: usize) -> Self {
        Self((0..len).map(|_| None).collect())
    }

    fn set(&mut self, index: usize, outcome: Outcome) {
        if let Some(place) = self.0.get_mut(index) {
            *place = Some(outcome);
        }
    }

    fn fail_all(&mut self, messages: Vec<Outgoing<'_>>, error: impl Fn() -> Error) {
        for message in messages {
            self.set(message.index, Err(error()));
        }
    }

    /// Keeps the messages that pass the check, and gives the others its error.
    fn keep<'a>(
        &mut self,
        messages: Vec<Outgoing<'a>>,
        check: impl Fn(&Outgoing<'_>) -> Result<()>,
    ) -> Vec<Outgoing<'a>> {
        messages
            .into_iter()
            .filter_map(|message| match check(&message) {
                Ok(()) => Some(message),
                Err(error) => {
                    self.set(message.index, Err(error));
                    None
                }
            })
            .collect()
    }

    fn finish(self) -> Vec<Outcome> {
        let forgotten = || {
            Err(Error::new(ErrorKind::Internal, "the publisher forgot a message; this is a bug in it")
                .with_verdict(Verdict::Unknown))
        };
        self.0.into_iter().map(|outcome| outcome.unwrap_or_else(forgotten)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_twice_in_a_window_and_suspects_are_alone() {
        let twin = MessageId::new();
        let messages: Vec<Message> = [Some(twin), None, Some(twin), None, Some(twin)]
            .into_iter()
            .map(|id| Message::bytes("t", "").id(id.unwrap_or_default()).build().unwrap())
            .collect();
        let suspect = messages[3].id();
        let ready = messages
            .iter()
            .enumerate()
            .map(|(index, message)| Outgoing::new(index, message, &Routing::default(), 1).unwrap())
            .collect();
        let windows: Vec<Vec<usize>> = plan(ready, |message| message.id == suspect)
            .into_iter()
            .map(|window| window.into_iter().map(|message| message.index).collect())
            .collect();
        assert_eq!(windows, [vec![0, 1], vec![2], vec![4], vec![3]]);
    }
}
