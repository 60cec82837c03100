//! The common setup of publisher cases: a publisher, a topic, and its consumer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{Message, MessageBuilder, MessageId, Outcome, Publisher, PublisherCapabilities};
use tokio::time::Instant;

use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::publisher_harness::{PublisherFixture, PublisherTraits, Received};

/// How long no further message may arrive before a case concludes that none will.
const QUIET: Duration = Duration::from_millis(300);

/// The pause between two attempts at something that must work soon.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Scene<'a> {
    pub(super) fixture: &'a dyn PublisherFixture,
    pub(super) traits: PublisherTraits,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) capabilities: PublisherCapabilities,
}

impl<'a> Scene<'a> {
    pub(super) async fn new(fixture: &'a dyn PublisherFixture) -> Result<Self, Stop> {
        let publisher = fixture.publisher().await?;
        let capabilities = publisher.capabilities();
        Ok(Self { fixture, traits: fixture.traits(), publisher, capabilities })
    }

    pub(super) fn message(&self, payload: impl Into<bytes::Bytes>) -> MessageBuilder {
        Message::bytes(self.fixture.topic(), payload)
    }

    /// `count` messages over `keys` keys, with their number as payload.
    pub(super) fn numbered(&self, count: usize, keys: usize) -> outbox_core::Result<Vec<Message>> {
        (0..count).map(|i| self.message(i.to_string()).key(format!("k{}", i % keys)).build()).collect()
    }

    /// Publishes a batch, in calls that the capabilities allow, and fails unless each message has an outcome.
    pub(super) async fn publish(&self, batch: &[Message]) -> Result<Vec<Outcome>, Stop> {
        let mut outcomes = Vec::new();
        for call in self.calls(batch) {
            let answered = tokio::time::timeout(self.traits.deadline, self.publisher.publish(call)).await;
            let answered = answered
                .map_err(|_| Stop::Failed(format!("a call took longer than {:?}", self.traits.deadline)))?;
            ensure_eq!(answered.len(), call.len(), "number of outcomes of one call");
            outcomes.extend(answered);
        }
        Ok(outcomes)
    }

    /// Splits a batch into calls within the limits of the capabilities.
    pub(super) fn calls<'m>(&self, batch: &'m [Message]) -> Vec<&'m [Message]> {
        let PublisherCapabilities { ordered_batches, max_batch_messages, max_batch_bytes, .. } =
            self.capabilities;
        let mut calls = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (i, message) in batch.iter().enumerate() {
            // Without ordered batches a call may contain a key only once.
            let repeated = !ordered_batches
                && message.key().is_some()
                && batch[start..i].iter().any(|other| other.key() == message.key());
            let full = i - start >= max_batch_messages || bytes + message.size() > max_batch_bytes;
            if i > start && (full || repeated) {
                calls.push(&batch[start..i]);
                (start, bytes) = (i, 0);
            }
            bytes += message.size();
        }
        if start < batch.len() {
            calls.push(&batch[start..]);
        }
        calls
    }

    /// Publishes a batch in which every message must be confirmed.
    pub(super) async fn publish_all(&self, batch: &[Message]) -> CaseResult {
        for (message, outcome) in batch.iter().zip(self.publish(batch).await?) {
            if let Err(error) = outcome {
                return Err(Stop::Failed(format!("{message:?} should be confirmed: {}", error.report())));
            }
        }
        Ok(())
    }

    /// Publishes repeatedly until all messages of a batch have been confirmed, as the relay does around an
    /// outage. Fails if that takes longer than the broker may take.
    pub(super) async fn publish_until_confirmed(&self, batch: &[Message]) -> CaseResult {
        let start = Instant::now();
        let mut left = batch.to_vec();
        loop {
            let outcomes = self.publish(&left).await?;
            let last = outcomes.iter().find_map(|outcome| outcome.as_ref().err()).map(|error| error.report());
            left = left
                .into_iter()
                .zip(outcomes)
                .filter(|(_, outcome)| outcome.is_err())
                .map(|(message, _)| message)
                .collect();
            let Some(last) = last else { return Ok(()) };
            ensure!(
                start.elapsed() < self.traits.deadline,
                "after {:?} {} messages are still not confirmed: {last}",
                start.elapsed(),
                left.len()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the messages that the consumer has received, once there are at least this many.
    pub(super) async fn received(&self, at_least: usize) -> Result<Vec<Received>, Stop> {
        let received = self.fixture.received(at_least, self.traits.deadline).await?;
        ensure!(
            received.len() >= at_least,
            "{at_least} messages should have arrived, but {} did within {:?}",
            received.len(),
            self.traits.deadline
        );
        Ok(received)
    }

    /// Fails unless exactly these messages have arrived, in any order and any number of times.
    pub(super) async fn expect_arrived(&self, expected: &[Message]) -> CaseResult {
        let wanted: BTreeSet<MessageId> = expected.iter().map(Message::id).collect();
        let start = Instant::now();
        let mut at_least = wanted.len();
        loop {
            let received = self.received(at_least).await?;
            let arrived: BTreeSet<MessageId> = received.iter().filter_map(|received| received.id).collect();
            if wanted.is_subset(&arrived) {
                let extra = arrived.difference(&wanted).count();
                ensure_eq!(extra, 0, "number of messages that arrived but should not have");
                return Ok(());
            }
            let missing = wanted.difference(&arrived).count();
            ensure!(
                start.elapsed() < self.traits.deadline,
                "{missing} of {} messages have not arrived",
                wanted.len()
            );
            at_least = received.len() + 1;
        }
    }

    /// Returns the messages that the consumer has received, once all of these have arrived and a short time
    /// has passed. A broker without an order may deliver a message long after a later one, so a case that
    /// asserts the arrival of a message waits for that message.
    pub(super) async fn received_after(&self, awaited: &[Message]) -> Result<Vec<Received>, Stop> {
        let wanted: BTreeSet<MessageId> = awaited.iter().map(Message::id).collect();
        let received = self
            .received_when("messages that were confirmed have not arrived", |received| {
                let arrived: BTreeSet<MessageId> =
                    received.iter().filter_map(|received| received.id).collect();
                wanted.is_subset(&arrived)
            })
            .await?;
        Ok(self.fixture.received(received.len() + 1, QUIET).await?)
    }

    /// Returns the messages that the consumer has received, once the condition holds for them. If it never
    /// does, the case fails with `missing`.
    pub(super) async fn received_when(
        &self,
        missing: &str,
        condition: impl Fn(&[Received]) -> bool,
    ) -> Result<Vec<Received>, Stop> {
        let start = Instant::now();
        let mut at_least = 0;
        loop {
            let received = self.fixture.received(at_least, self.traits.deadline).await?;
            if condition(&received) {
                return Ok(received);
            }
            ensure!(start.elapsed() < self.traits.deadline, "{missing}");
            at_least = received.len() + 1;
        }
    }

    /// Fails if more messages than this arrive within a short time.
    pub(super) async fn expect_no_more_than(&self, count: usize) -> CaseResult {
        let received = self.fixture.received(count + 1, QUIET).await?;
        ensure!(received.len() <= count, "{} messages have arrived, {count} should have", received.len());
        Ok(())
    }
}

/// Returns the error of the outcome that should be a failure.
pub(super) fn failure<'o>(outcome: &'o Outcome, what: &str) -> Result<&'o outbox_core::Error, Stop> {
    match outcome {
        Ok(()) => Err(Stop::Failed(format!("{what} was confirmed"))),
        Err(error) => Ok(error),
    }
}

pub(super) fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(Message::id).collect()
}
