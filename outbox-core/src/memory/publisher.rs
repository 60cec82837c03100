//! The memory publisher.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::message::{Message, MessageId, PublisherOptions};
use crate::publisher::{Outcome, Publisher, PublisherCapabilities, fail_all};

/// Per-message options of the [`MemoryPublisher`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// Where to publish, instead of the message's topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

impl PublisherOptions for MemoryOptions {
    const PUBLISHER: &'static str = "memory";
}

/// A message as its consumer would have received it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Published {
    /// Where it was published.
    pub topic: String,
    /// The message.
    pub message: Message,
    /// When.
    pub at: Instant,
    /// Which call of [`Publisher::publish`] it was in, counted from 1.
    pub call: u64,
    /// How often the publisher had been given the message by then, this time included.
    pub attempt: u32,
}

type Script = Arc<dyn Fn(&Message, u32) -> Outcome + Send + Sync>;
type ConfirmScript = Arc<dyn Fn(&Message, u32) -> bool + Send + Sync>;
type DelayScript = Arc<dyn Fn(&[Message]) -> Duration + Send + Sync>;

/// A publisher that publishes to a list in memory. Clones share the list.
///
/// By default it confirms everything at once, to any topic, and keeps the order of keys within a call.
#[derive(Clone)]
pub struct MemoryPublisher {
    shared: Arc<Shared>,
}

struct Shared {
    capabilities: PublisherCapabilities,
    topics: Option<HashSet<String>>,
    record: bool,
    script: Option<Script>,
    confirms: Option<ConfirmScript>,
    delay: Option<DelayScript>,
    state: Mutex<State>,
    /// How many messages were published.
    published: watch::Sender<u64>,
    /// How many calls have begun.
    calls: watch::Sender<u64>,
    paused: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    published: Vec<Published>,
    attempts: HashMap<MessageId, u32>,
    down: Option<ErrorKind>,
    lost_confirms: u64,
    running: usize,
    most_running: usize,
    closed: u64,
}

/// Settings of a [`MemoryPublisher`].
#[must_use = "a builder does nothing until it is built"]
pub struct MemoryPublisherBuilder {
    capabilities: PublisherCapabilities,
    topics: Option<HashSet<String>>,
    record: bool,
    script: Option<Script>,
    confirms: Option<ConfirmScript>,
    delay: Option<DelayScript>,
}

impl MemoryPublisherBuilder {
    /// Sets what it says it can do, and keeps to. Default: [`PublisherCapabilities::default`] with
    /// [`ordered_batches`](PublisherCapabilities::ordered_batches).
    pub fn capabilities(mut self, capabilities: PublisherCapabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Sets the topics that exist; messages to others are unroutable. Default: all.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = Some(topics.into_iter().map(Into::into).collect());
        self
    }

    /// Sets whether published messages are kept. Default: `true`; without, they are only counted, for tests of
    /// more messages than fit into memory.
    pub fn record(mut self, record: bool) -> Self {
        self.record = record;
        self
    }

    /// Decides about each message, given how often the publisher has been given it, this time included.
    ///
    /// On `Ok` it is published; on an error, of whatever verdict, it is not. See
    /// [`confirm_if`](Self::confirm_if) for messages that are published and not confirmed.
    pub fn script(mut self, script: impl Fn(&Message, u32) -> Outcome + Send + Sync + 'static) -> Self {
        self.script = Some(Arc::new(script));
        self
    }

    /// Decides whether the confirm of a published message arrives. If not, its outcome is
    /// [`ErrorKind::Interrupted`], although it was published.
    pub fn confirm_if(mut self, confirms: impl Fn(&Message, u32) -> bool + Send + Sync + 'static) -> Self {
        self.confirms = Some(Arc::new(confirms));
        self
    }

    /// Sets how long each call takes before anything is published. Default: no time.
    pub fn delay(self, delay: Duration) -> Self {
        self.delay_with(move |_| delay)
    }

    /// Sets how long a call takes before anything is published, by its batch.
    pub fn delay_with(mut self, delay: impl Fn(&[Message]) -> Duration + Send + Sync + 'static) -> Self {
        self.delay = Some(Arc::new(delay));
        self
    }

    /// Makes the publisher.
    pub fn build(self) -> MemoryPublisher {
        let Self { capabilities, topics, record, script, confirms, delay } = self;
        MemoryPublisher {
            shared: Arc::new(Shared {
                capabilities,
                topics,
                record,
                script,
                confirms,
                delay,
                state: Mutex::default(),
                published: watch::Sender::new(0),
                calls: watch::Sender::new(0),
                paused: watch::Sender::new(false),
            }),
        }
    }
}

impl fmt::Debug for MemoryPublisherBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPublisherBuilder")
            .field("capabilities", &self.capabilities)
            .field("topics", &self.topics)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

impl MemoryPublisher {
    /// A publisher that confirms everything.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Settings other than the default ones.
    pub fn builder() -> MemoryPublisherBuilder {
        MemoryPublisherBuilder {
            capabilities: PublisherCapabilities::default().ordered_batches(true),
            topics: None,
            record: true,
            script: None,
            confirms: None,
            delay: None,
        }
    }

    /// What was published, in order.
    pub fn published(&self) -> Vec<Published> {
        self.lock().published.clone()
    }

    /// The ids of what was published, in order.
    pub fn published_ids(&self) -> Vec<MessageId> {
        self.lock().published.iter().map(|published| published.message.id()).collect()
    }

    /// The payloads of what was published with this key, in order.
    pub fn payloads_of(&self, key: &str) -> Vec<bytes::Bytes> {
        let state = self.lock();
        let of_key = state.published.iter().filter(|published| published.message.key() == Some(key));
        of_key.map(|published| published.message.payload().clone()).collect()
    }

    /// How many messages were published, duplicates included.
    pub fn count(&self) -> u64 {
        *self.shared.published.borrow()
    }

    /// Waits until at least `count` messages were published, duplicates included.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn wait_for(&self, count: u64) {
        // The sender lives as long as this, so waiting cannot fail.
        let _ = self.shared.published.subscribe().wait_for(|published| *published >= count).await;
    }

    /// How many calls of [`Publisher::publish`] have begun.
    pub fn calls(&self) -> u64 {
        *self.shared.calls.borrow()
    }

    /// Waits until at least `count` calls of [`Publisher::publish`] have begun.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn wait_for_calls(&self, count: u64) {
        let _ = self.shared.calls.subscribe().wait_for(|calls| *calls >= count).await;
    }

    /// How many calls are running now.
    pub fn running(&self) -> usize {
        self.lock().running
    }

    /// The most calls that ever ran at the same time.
    pub fn most_running(&self) -> usize {
        self.lock().most_running
    }

    /// How often [`Publisher::close`] was called.
    pub fn closed(&self) -> u64 {
        self.lock().closed
    }

    /// Makes every call fail for all its messages with [`ErrorKind::Unavailable`], until [`up`](Self::up).
    pub fn down(&self) {
        self.down_with(ErrorKind::Unavailable);
    }

    /// Makes every call fail for all its messages with an error of this kind, until [`up`](Self::up).
    pub fn down_with(&self, kind: ErrorKind) {
        self.lock().down = Some(kind);
    }

    /// Ends [`down`](Self::down).
    pub fn up(&self) {
        self.lock().down = None;
    }

    /// Makes calls wait before anything is published, until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.shared.paused.send_replace(true);
    }

    /// Ends [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.paused.send_replace(false);
    }

    /// Loses the confirms of the next `messages` messages: they are published, and their outcome is
    /// [`ErrorKind::Interrupted`].
    pub fn lose_confirms(&self, messages: u64) {
        self.lock().lost_confirms = messages;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A script of the caller that panics leaves whole entries behind.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_batch(&self, batch: &[Message]) -> Result<(), Error> {
        let capabilities = &self.shared.capabilities;
        if batch.len() > capabilities.max_batch_messages {
            return Err(Error::new(ErrorKind::Internal, "the batch has more messages than one call takes")
                .with("messages", batch.len())
                .with("max_batch_messages", capabilities.max_batch_messages));
        }
        let bytes: usize = batch.iter().map(Message::size).sum();
        if batch.len() > 1 && bytes > capabilities.max_batch_bytes {
            return Err(Error::new(ErrorKind::Internal, "the batch has more bytes than one call takes")
                .with("bytes", bytes)
                .with("max_batch_bytes", capabilities.max_batch_bytes));
        }
        Ok(())
    }

    fn publish_one(&self, message: &Message, call: u64) -> Outcome {
        let shared = &*self.shared;
        let attempt = {
            let mut state = self.lock();
            if shared.record || shared.script.is_some() || shared.confirms.is_some() {
                let attempts = state.attempts.entry(message.id()).or_default();
                *attempts += 1;
                *attempts
            } else {
                1
            }
        };
        let size = message.payload().len();
        if let Some(largest) = shared.capabilities.max_message_bytes.filter(|largest| size > *largest) {
            return Err(Error::new(ErrorKind::TooLarge, "the payload is larger than the publisher takes")
                .with("bytes", size)
                .with("max_message_bytes", largest));
        }
        let options: MemoryOptions = message.options().get()?.unwrap_or_default();
        let topic = options.topic.unwrap_or_else(|| message.topic().to_owned());
        if shared.topics.as_ref().is_some_and(|topics| !topics.contains(&topic)) {
            return Err(
                Error::new(ErrorKind::Unroutable, "nobody takes messages of this topic").with("topic", topic)
            );
        }
        if let Some(script) = &shared.script {
            script(message, attempt)?;
        }
        let confirmed = shared.confirms.as_ref().is_none_or(|confirms| confirms(message, attempt));
        let lost = {
            let mut state = self.lock();
            let lost = state.lost_confirms > 0;
            state.lost_confirms = state.lost_confirms.saturating_sub(1);
            if shared.record {
                let message = message.clone();
                state.published.push(Published { topic, message, at: Instant::now(), call, attempt });
            }
            lost
        };
        shared.published.send_modify(|count| *count += 1);
        if lost || !confirmed {
            return Err(Error::new(ErrorKind::Interrupted, "the confirm was lost"));
        }
        Ok(())
    }
}

impl Default for MemoryPublisher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPublisher")
            .field("capabilities", &self.shared.capabilities)
            .field("published", &self.count())
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

/// Counts a running call down, also when its future is dropped.
struct Running<'a>(&'a MemoryPublisher);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

#[async_trait]
impl Publisher for MemoryPublisher {
    fn name(&self) -> &'static str {
        MemoryOptions::PUBLISHER
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.shared.capabilities.clone()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        {
            let mut state = self.lock();
            state.running += 1;
            state.most_running = state.most_running.max(state.running);
        }
        let _running = Running(self);
        let mut call = 0;
        self.shared.calls.send_modify(|calls| {
            *calls += 1;
            call = *calls;
        });

        if let Some(delay) = &self.shared.delay {
            let delay = delay(batch);
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
        // The sender lives as long as this, so waiting cannot fail.
        let _ = self.shared.paused.subscribe().wait_for(|paused| !*paused).await;

        // From here on nothing waits: a call that is dropped has published nothing.
        let down = self.lock().down;
        if let Some(kind) = down {
            return fail_all(batch, || Error::new(kind, "the memory publisher was told to be down"));
        }
        if let Err(error) = self.check_batch(batch) {
            let text = error.to_string();
            return fail_all(batch, || Error::new(ErrorKind::Internal, text.clone()));
        }
        let mut failed_keys = HashSet::new();
        batch
            .iter()
            .map(|message| {
                let key = message.key().filter(|_| self.shared.capabilities.ordered_batches);
                if key.is_some_and(|key| failed_keys.contains(key)) {
                    return Err(Error::new(
                        ErrorKind::Rejected,
                        "not sent, because an earlier message of its key failed",
                    ));
                }
                let outcome = self.publish_one(message, call);
                if let (Err(_), Some(key)) = (&outcome, key) {
                    failed_keys.insert(key);
                }
                outcome
            })
            .collect()
    }

    async fn close(&self) {
        self.lock().closed += 1;
    }
}
