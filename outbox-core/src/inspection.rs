//! Looking at a store: for people who run an outbox, not for the relay.

use std::borrow::Cow;

use async_trait::async_trait;

use crate::error::Result;
use crate::message::{Message, MessageId};
use crate::store::{Content, Partition, Position, RelayId};
use crate::time::Timestamp;

/// Looking at a store beyond what a relay needs. Nothing here changes anything.
///
/// Every part is optional: `None` means that this store does not know. A command line or a dashboard shows what there
/// is.
#[async_trait]
pub trait Inspection: Send + Sync {
    /// Who shares the outbox, and who holds what.
    async fn group(&self) -> Result<Option<Group>> {
        Ok(None)
    }

    /// The undelivered messages in position order, those after `after`, at most `limit`. Those of transactions that are
    /// still open are not among them.
    async fn peek(&self, _after: Option<Position>, _limit: usize) -> Result<Option<Vec<Waiting>>> {
        Ok(None)
    }

    /// The database's clock.
    async fn clock(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// Looks for what is wrong with the database as far as an outbox is concerned: rights, indexes, settings, long
    /// transactions. Every check says what it saw, also where all is well.
    ///
    /// It is cheap enough for a database at work, and needs no rights beyond those of a relay; what it may not look at it
    /// says to be [`Health::Unknown`].
    async fn diagnose(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

/// The relays that share an outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// The relays whose heartbeat has not run out.
    pub relays: Vec<RelayId>,
    /// Each partition, and who holds an unexpired lease on it.
    pub partitions: Vec<(Partition, Option<RelayId>)>,
}

impl Group {
    /// What a store has found.
    pub fn new(relays: Vec<RelayId>, partitions: Vec<(Partition, Option<RelayId>)>) -> Self {
        Self { relays, partitions }
    }
}

/// An undelivered message, as somebody who looks sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Waiting {
    /// Where it stands.
    pub position: Position,
    /// The partition the database computed for it.
    pub partition: Partition,
    /// The id, if it is readable.
    pub id: Option<MessageId>,
    /// The topic, if it is readable.
    pub topic: Option<String>,
    /// The ordering key, if it is readable.
    pub key: Option<String>,
    /// How many attempts were counted.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: Option<String>,
    /// Whether the later messages of its key wait for it.
    pub blocks_key: bool,
    /// When it may go: its delivery time, its next attempt, or far away while an earlier message of its key is in the
    /// way. `None` if it may go at once.
    pub available_at: Option<Timestamp>,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// The message, if the row is readable.
    pub message: Option<Message>,
}

impl Waiting {
    /// A row of which nothing else is known yet.
    pub fn new(position: Position, partition: Partition, enqueued_at: Timestamp) -> Self {
        Self {
            position,
            partition,
            id: None,
            topic: None,
            key: None,
            attempts: 0,
            error: None,
            blocks_key: false,
            available_at: None,
            enqueued_at,
            message: None,
        }
    }

    /// With what is in the row, readable or not.
    #[must_use]
    pub fn with(mut self, content: Content) -> Self {
        match content {
            Content::Message(message) => {
                self.id = Some(message.id());
                self.topic = Some(message.topic().to_owned());
                self.key = message.key().map(str::to_owned);
                self.message = Some(message);
            }
            Content::Malformed { id, topic, key, reason } => {
                self.id = id;
                self.topic = topic;
                self.key = key;
                self.error = self.error.or(Some(reason));
            }
        }
        self
    }
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Health {
    /// As it should be.
    Good,
    /// It works, and will not for ever, or not well.
    Warning,
    /// It does not work.
    Problem,
    /// It could not be looked at.
    Unknown,
}

/// What one check saw.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at, in one to three words.
    pub check: Cow<'static, str>,
    /// How it is.
    pub health: Health,
    /// What was seen, with figures.
    pub seen: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn good(check: impl Into<Cow<'static, str>>, seen: impl Into<String>) -> Self {
        Self { check: check.into(), health: Health::Good, seen: seen.into(), advice: None }
    }

    /// Something that should be changed.
    pub fn warning(
        check: impl Into<Cow<'static, str>>,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check: check.into(), health: Health::Warning, seen: seen.into(), advice: Some(advice.into()) }
    }

    /// Something that must be changed.
    pub fn problem(
        check: impl Into<Cow<'static, str>>,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check: check.into(), health: Health::Problem, seen: seen.into(), advice: Some(advice.into()) }
    }

    /// Something that could not be looked at, and why.
    pub fn unknown(check: impl Into<Cow<'static, str>>, seen: impl Into<String>) -> Self {
        Self { check: check.into(), health: Health::Unknown, seen: seen.into(), advice: None }
    }
}
