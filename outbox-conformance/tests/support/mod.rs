//! Harnesses for the store and the publisher in memory, alone and inside of wrappers.

#![allow(dead_code)] // Each test binary uses a part of this.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::{
    EnqueueTransaction, Fault, MalformedRow, PublisherFixture, PublisherHarness, PublisherTraits, Received,
    StoreFixture, StoreHarness, StoreTraits,
};
use outbox_core::memory::{MemoryPublisher, MemoryStore, MemoryTransaction, Operation};
use outbox_core::{
    Error, ErrorKind, Message, MessageId, Options, Outcome, Position, Publisher, PublisherCapabilities,
    Result, Store, Timestamp,
};

/// Wraps the handles of one outbox.
pub(crate) type WrapStore = Box<dyn Fn(MemoryStore) -> Arc<dyn Store> + Send + Sync>;
/// Makes, for each outbox, what wraps its handles.
pub(crate) type MakeWrapStore = Arc<dyn Fn() -> WrapStore + Send + Sync>;
/// Wraps the publishers of one topic.
pub(crate) type WrapPublisher = Box<dyn Fn(MemoryPublisher) -> Arc<dyn Publisher> + Send + Sync>;
/// Makes, for each topic, what wraps its publishers.
pub(crate) type MakeWrapPublisher = Arc<dyn Fn() -> WrapPublisher + Send + Sync>;

/// The memory store, with each handle wrapped. Pauses tokio's clock, so that nothing takes time.
pub(crate) struct MemoryHarness {
    pub(crate) wrap: MakeWrapStore,
    pub(crate) traits: StoreTraits,
    pub(crate) not_applicable: Vec<&'static str>,
    /// Set where several cases share a runtime whose clock is paused.
    pub(crate) paused_already: bool,
}

impl MemoryHarness {
    pub(crate) fn new(wrap: MakeWrapStore) -> Self {
        Self { wrap, traits: StoreTraits::default(), not_applicable: Vec::new(), paused_already: false }
    }

    /// The memory store as it is.
    pub(crate) fn plain() -> Self {
        Self::new(Arc::new(|| Box::new(|store| Arc::new(store))))
    }

    pub(crate) fn fixture(&self) -> Result<MemoryFixture> {
        // The clock is the runtime's: it can be paused once, and each case has a runtime of its own.
        if !self.paused_already {
            tokio::time::pause();
        }
        let store = MemoryStore::builder().wakeups(self.traits.wakeups).build()?;
        Ok(MemoryFixture { store, wrap: (self.wrap)(), traits: self.traits.clone() })
    }
}

#[async_trait]
impl StoreHarness for MemoryHarness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        Ok(Box::new(self.fixture()?))
    }

    fn not_applicable(&self) -> &[&str] {
        &self.not_applicable
    }
}

pub(crate) struct MemoryFixture {
    pub(crate) store: MemoryStore,
    pub(crate) wrap: WrapStore,
    pub(crate) traits: StoreTraits,
}

#[async_trait]
impl StoreFixture for MemoryFixture {
    fn traits(&self) -> StoreTraits {
        self.traits.clone()
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        Ok((self.wrap)(self.store.clone()))
    }

    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>> {
        Ok(Box::new(Transaction(self.store.begin())))
    }

    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>> {
        let id = MessageId::new();
        self.store.insert_malformed(Some(id), Some("t"), Some("k"), "the column headers is no JSON object");
        self.store.insert_malformed(None, None, None, "the column message_id is no UUID");
        Ok(vec![MalformedRow::new("headers").id(id).topic("t").key("k"), MalformedRow::new("message_id")])
    }

    async fn delete_by_hand(&self, id: MessageId) -> Result<()> {
        assert!(self.store.delete_by_hand(id), "message {id} should be there");
        Ok(())
    }

    async fn replace(&self, position: Position, message: &Message) -> Result<()> {
        self.store.replace(position, message);
        Ok(())
    }

    async fn break_connections(&self) -> Result<bool> {
        let faults = self.store.faults();
        faults.lose_answers(Operation::Fetch, 1);
        faults.lose_answers(Operation::Settle, 1);
        Ok(true)
    }

    fn now(&self) -> Timestamp {
        self.store.now()
    }
}

struct Transaction(MemoryTransaction);

#[async_trait]
impl EnqueueTransaction for Transaction {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        for message in messages {
            self.0.enqueue(message);
        }
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.0.commit();
        Ok(())
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.0.rollback();
        Ok(())
    }
}

/// The memory publisher, wrapped.
pub(crate) struct PublisherMemoryHarness {
    pub(crate) wrap: MakeWrapPublisher,
    pub(crate) capabilities: PublisherCapabilities,
    pub(crate) not_applicable: Vec<&'static str>,
    /// Set where several cases share a runtime whose clock is paused.
    pub(crate) paused_already: bool,
}

impl PublisherMemoryHarness {
    /// The memory publisher as it is.
    pub(crate) fn plain() -> Self {
        Self::new(Arc::new(|| Box::new(|publisher| Arc::new(publisher))))
    }

    pub(crate) fn new(wrap: MakeWrapPublisher) -> Self {
        Self {
            wrap,
            capabilities: PublisherCapabilities::default()
                .ordered_batches(true)
                .max_message_bytes(Some(1 << 20)),
            not_applicable: Vec::new(),
            paused_already: false,
        }
    }
}

#[async_trait]
impl PublisherHarness for PublisherMemoryHarness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        if !self.paused_already {
            tokio::time::pause();
        }
        let refusing = Arc::new(AtomicBool::new(false));
        let publisher = MemoryPublisher::builder()
            .topics(["topic"])
            .capabilities(self.capabilities.clone())
            // So that there is a moment at which a call can be dropped.
            .delay(Duration::from_micros(200))
            .script(every_second(Arc::clone(&refusing)))
            .build();
        Ok(Box::new(MemoryPublisherFixture {
            publisher,
            wrap: (self.wrap)(),
            refusing,
            deaf: AtomicBool::new(false),
        }))
    }

    fn not_applicable(&self) -> &[&str] {
        &self.not_applicable
    }
}

/// Refuses every second message, while it is told to.
fn every_second(refusing: Arc<AtomicBool>) -> impl Fn(&Message, u32) -> Outcome + Send + Sync {
    let count = AtomicU64::new(0);
    move |_, _| {
        let odd = count.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        if odd && refusing.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Rejected, "not this one"));
        }
        Ok(())
    }
}

struct MemoryPublisherFixture {
    publisher: MemoryPublisher,
    wrap: WrapPublisher,
    refusing: Arc<AtomicBool>,
    /// Its confirms are lost until it is healed.
    deaf: AtomicBool,
}

#[async_trait]
impl PublisherFixture for MemoryPublisherFixture {
    fn traits(&self) -> PublisherTraits {
        // The clock is paused, but waiting in vain for a broken publisher costs processor time.
        PublisherTraits::default().deadline(Duration::from_secs(30))
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok((self.wrap)(self.publisher.clone()))
    }

    fn topic(&self) -> String {
        "topic".to_owned()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        let _ = tokio::time::timeout(within, self.publisher.wait_for(at_least as u64)).await;
        let published = self.publisher.published().into_iter();
        Ok(published
            .map(|published| {
                let message = published.message;
                Received::new(message.payload().clone())
                    .id(Some(message.id()))
                    .topic(Some(published.topic))
                    .key(message.key().map(str::to_owned))
                    .headers(message.headers().clone())
                    .content_type(message.content_type().map(str::to_owned))
            })
            .collect())
    }

    fn unroutable_topic(&self) -> Option<String> {
        Some("elsewhere".to_owned())
    }

    fn oversized_payload(&self) -> Option<usize> {
        self.publisher.capabilities().max_message_bytes.map(|most| most + 1)
    }

    fn invalid_options(&self) -> Option<Options> {
        let json = serde_json::json!({ "memory": { "topik": "t" } });
        Some(Options::from_json(json.as_object().cloned().unwrap_or_default()))
    }

    fn faults(&self) -> &[Fault] {
        &[Fault::Cut, Fault::Down, Fault::Stalled, Fault::Throttled, Fault::AnswersLost, Fault::SomeRefused]
    }

    async fn inject(&self, fault: Fault) -> Result<()> {
        match fault {
            // What a cut takes away are the confirms that are under way.
            Fault::Cut => self.publisher.lose_confirms(5),
            Fault::Down => self.publisher.down(),
            Fault::Stalled => self.publisher.pause(),
            Fault::Throttled => self.publisher.down_with(ErrorKind::Throttled),
            Fault::AnswersLost => {
                self.deaf.store(true, Ordering::Relaxed);
                self.publisher.lose_confirms(u64::MAX);
            }
            Fault::SomeRefused => self.refusing.store(true, Ordering::Relaxed),
            other => unreachable!("{other:?} is not among the faults"),
        }
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.publisher.up();
        self.publisher.resume();
        // Those of a cut are under way already, and are lost whatever happens.
        if self.deaf.swap(false, Ordering::Relaxed) {
            self.publisher.lose_confirms(0);
        }
        self.refusing.store(false, Ordering::Relaxed);
        Ok(())
    }
}
