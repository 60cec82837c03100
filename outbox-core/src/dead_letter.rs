//! Messages that could not be delivered, and looking after them.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::message::{Message, MessageId};
use crate::store::{Count, Position};
use crate::time::Timestamp;

/// How many are listed at a time for counting them.
const COUNT_PAGE: usize = 500;

/// A message that could not be delivered.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Where it stood, and where it will stand again after a redrive unless another message has that position by then. Not unique: a
    /// database that loses its latest commits assigns their positions again.
    pub position: Position,
    /// The id, if it is readable.
    pub id: Option<MessageId>,
    /// The topic, if it is readable.
    pub topic: Option<String>,
    /// The ordering key.
    pub key: Option<String>,
    /// How many attempts were counted.
    pub attempts: u32,
    /// The last error.
    pub error: String,
    /// Whether the later messages of its key wait for it.
    pub blocks_key: bool,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// When it was given up.
    pub died_at: Timestamp,
    /// The message, if the row is readable.
    pub message: Option<Message>,
}

/// Which dead letters. Conditions add up; the default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterFilter {
    /// Only these positions.
    pub positions: Option<Vec<Position>>,
    /// Only this message.
    pub id: Option<MessageId>,
    /// Only this topic.
    pub topic: Option<String>,
    /// Only this key.
    pub key: Option<String>,
    /// Only those whose error contains this text.
    pub error_contains: Option<String>,
    /// Only those that died at least so long ago.
    pub older_than: Option<Duration>,
}

impl DeadLetterFilter {
    /// All dead letters.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only these positions.
    #[must_use]
    pub fn positions(mut self, positions: impl IntoIterator<Item = Position>) -> Self {
        self.positions = Some(positions.into_iter().collect());
        self
    }

    /// Only this message.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Only this topic.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only those whose error contains `text`, letter for letter.
    #[must_use]
    pub fn error_contains(mut self, text: impl Into<String>) -> Self {
        self.error_contains = Some(text.into());
        self
    }

    /// Only those that died at least so long ago, by the database's clock.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }
}

/// Looking after dead letters.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Lists dead letters in position order, those after `after`, at most `limit`, except that all dead letters at the last position
    /// belong to the list: the next page begins behind that position.
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// Counts them, no further than `limit`.
    ///
    /// By default it lists them; a store that can count without reading messages does that.
    async fn count(&self, filter: &DeadLetterFilter, limit: u64) -> Result<Count> {
        let (mut counted, mut after) = (0_u64, None);
        while counted <= limit {
            let page = self.list(filter, after, COUNT_PAGE).await?;
            counted += page.len() as u64;
            after = page.last().map(|letter| letter.position);
            if page.len() < COUNT_PAGE {
                break;
            }
        }
        Ok(Count::limited(counted, limit))
    }

    /// Puts the first `limit` of them, in position order, back to be delivered: due at once, at their old
    /// position, with their attempts counted anew. Says how many. They go on blocking their keys until delivered
    /// if they did so as dead letters; other messages of those keys that were due wait behind them.
    ///
    /// If another message has the old position, the database has lost its latest commits and assigned their positions again. The dead
    /// letter is older than everything that was enqueued since, so it gets a free position before all undelivered messages of its
    /// partition.
    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64>;

    /// Deletes the first `limit` of them, in position order, and lets their keys go on. Says how many.
    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64>;
}
