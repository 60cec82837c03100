//! Enqueueing that breaks one rule each.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
use outbox_core::memory::{MemoryStore, MemoryTransaction};
use outbox_core::{Message, MessageId, Options, Position, Result, Store, Timestamp};

use crate::Found;
use crate::support::{MemoryFixture, MemoryHarness};

/// The defect of the transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    IsVisibleBeforeTheCommit,
    ShowsPartOfATransaction,
    CommitsInsteadOfRollingBack,
    CommitsWhenDropped,
    ForgetsToCommit,
    WaitsForEarlierTransactions,
    ReversesMessages,
    LosesHeaders,
    LosesOptions,
    LosesContentTypes,
    MakesNewIds,
    CutsPayloads,
    TakesEmptyKeysForNone,
    IgnoresCase,
    IgnoresDeliveryTimes,
    RoundsDeliveryTimes,
    LosesOverdueMessages,
    SchedulesTheWholeKey,
}

const DEFECTS: &[(Defect, &str)] = &[
    (Defect::IsVisibleBeforeTheCommit, "enqueueing::committed_messages_exist"),
    (Defect::ShowsPartOfATransaction, "enqueueing::a_transaction_is_all_or_nothing"),
    (Defect::CommitsInsteadOfRollingBack, "enqueueing::rolled_back_messages_do_not_exist"),
    (Defect::CommitsWhenDropped, "enqueueing::abandoned_transactions_leave_nothing"),
    (Defect::ForgetsToCommit, "enqueueing::committed_messages_exist"),
    (Defect::WaitsForEarlierTransactions, "reading::open_transactions_hold_up_nobody"),
    (Defect::ReversesMessages, "enqueueing::positions_grow_in_enqueue_order"),
    (Defect::LosesHeaders, "enqueueing::every_field_survives"),
    (Defect::LosesOptions, "enqueueing::every_field_survives"),
    (Defect::LosesContentTypes, "enqueueing::every_field_survives"),
    (Defect::MakesNewIds, "enqueueing::every_field_survives"),
    (Defect::CutsPayloads, "enqueueing::extreme_values_survive"),
    (Defect::TakesEmptyKeysForNone, "enqueueing::extreme_values_survive"),
    (Defect::IgnoresCase, "enqueueing::extreme_values_survive"),
    (Defect::IgnoresDeliveryTimes, "due::scheduled_messages_wait_for_their_time"),
    (Defect::RoundsDeliveryTimes, "enqueueing::every_field_survives"),
    (Defect::LosesOverdueMessages, "due::past_delivery_times_are_now"),
    (Defect::SchedulesTheWholeKey, "due::scheduled_messages_hold_up_nobody"),
];

pub(crate) fn all() -> Vec<Found<dyn StoreHarness>> {
    let found = |(defect, case): &(Defect, &'static str)| -> Found<dyn StoreHarness> {
        (format!("{defect:?}"), case, Arc::new(Harness(*defect)))
    };
    DEFECTS.iter().map(found).collect()
}

struct Harness(Defect);

#[async_trait]
impl StoreHarness for Harness {
    async fn create(&self) -> Result<Box<dyn StoreFixture>> {
        let mut harness = MemoryHarness::plain();
        harness.traits = crate::impatient();
        let inner = harness.fixture()?;
        Ok(Box::new(Fixture { inner, defect: self.0, waiting: Arc::default() }))
    }
}

/// Transactions that are open, by their number, and those that wait for them with their rows.
#[derive(Default)]
struct Waiting {
    begun: usize,
    open: Vec<usize>,
    done: Vec<(usize, MemoryTransaction)>,
}

struct Fixture {
    inner: MemoryFixture,
    defect: Defect,
    waiting: Arc<Mutex<Waiting>>,
}

#[async_trait]
impl StoreFixture for Fixture {
    fn traits(&self) -> StoreTraits {
        self.inner.traits()
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        self.inner.store().await
    }

    async fn begin(&self) -> Result<Box<dyn EnqueueTransaction>> {
        let number = {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.begun += 1;
            let number = waiting.begun;
            waiting.open.push(number);
            number
        };
        Ok(Box::new(Transaction {
            transaction: Some(self.inner.store.begin()),
            store: self.inner.store.clone(),
            defect: self.defect,
            enqueued: 0,
            number,
            waiting: self.waiting.clone(),
        }))
    }

    async fn insert_malformed(&self) -> Result<Vec<MalformedRow>> {
        self.inner.insert_malformed().await
    }

    async fn delete_by_hand(&self, id: MessageId) -> Result<()> {
        self.inner.delete_by_hand(id).await
    }

    async fn replace(&self, position: Position, message: &Message) -> Result<()> {
        self.inner.replace(position, message).await
    }

    async fn break_connections(&self) -> Result<bool> {
        self.inner.break_connections().await
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }
}

struct Transaction {
    transaction: Option<MemoryTransaction>,
    store: MemoryStore,
    defect: Defect,
    enqueued: usize,
    number: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[async_trait]
impl EnqueueTransaction for Transaction {
    async fn enqueue(&mut self, messages: &[Message]) -> Result<()> {
        let mut messages = messages.to_vec();
        if self.defect == Defect::ReversesMessages {
            messages.reverse();
        }
        for message in messages {
            let Some(message) = self.spoil(message) else { continue };
            self.enqueued += 1;
            let early = self.defect == Defect::IsVisibleBeforeTheCommit
                || self.defect == Defect::ShowsPartOfATransaction && self.enqueued == 7;
            if early {
                self.store.enqueue(&message);
            } else if let Some(transaction) = &mut self.transaction {
                transaction.enqueue(&message);
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        if self.defect == Defect::ForgetsToCommit {
            self.transaction = None;
        }
        self.finish(true);
        Ok(())
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        let commit = self.defect == Defect::CommitsInsteadOfRollingBack;
        self.finish(commit);
        Ok(())
    }
}

impl Transaction {
    fn finish(&mut self, commit: bool) {
        let mut waiting = self.waiting.lock().unwrap();
        waiting.open.retain(|open| *open != self.number);
        if let Some(transaction) = self.transaction.take().filter(|_| commit) {
            waiting.done.push((self.number, transaction));
        }
        let patient = self.defect == Defect::WaitsForEarlierTransactions;
        let oldest = waiting.open.iter().min().copied().filter(|_| patient).unwrap_or(usize::MAX);
        for (number, transaction) in std::mem::take(&mut waiting.done) {
            if number < oldest {
                transaction.commit();
            } else {
                waiting.done.push((number, transaction));
            }
        }
    }

    fn spoil(&self, message: Message) -> Option<Message> {
        let now = self.store.now();
        let mut payload = message.payload().clone();
        let mut topic = message.topic().to_owned();
        let mut key = message.key().map(str::to_owned);
        let mut id = message.id();
        let mut content_type = message.content_type().map(str::to_owned);
        let mut headers = message.headers().clone();
        let mut options = message.options().clone();
        let mut deliver_at = message.deliver_at();
        match self.defect {
            Defect::LosesHeaders => headers.clear(),
            Defect::LosesOptions => options = Options::new(),
            Defect::LosesContentTypes => content_type = None,
            Defect::MakesNewIds => id = MessageId::new(),
            Defect::CutsPayloads => payload.truncate(65_535),
            Defect::TakesEmptyKeysForNone => key = key.filter(|key| !key.is_empty()),
            Defect::IgnoresCase => topic = topic.to_lowercase(),
            Defect::IgnoresDeliveryTimes => deliver_at = None,
            Defect::RoundsDeliveryTimes => {
                deliver_at = deliver_at.map(|at| Timestamp::from_micros(at.as_micros() / 1000 * 1000));
            }
            Defect::LosesOverdueMessages if deliver_at.is_some_and(|at| at < now) => return None,
            Defect::SchedulesTheWholeKey if message.key() == Some("k") => {
                deliver_at = Some(now.saturating_add(Duration::from_secs(3600)));
            }
            _ => {}
        }
        let mut builder = Message::bytes(topic, payload).id(id).headers(headers).raw_options(options);
        if let Some(key) = key {
            builder = builder.key(key);
        }
        if let Some(content_type) = content_type {
            builder = builder.content_type(content_type);
        }
        if let Some(at) = deliver_at {
            builder = builder.deliver_at(at);
        }
        Some(builder.build().unwrap())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let commit = self.defect == Defect::CommitsWhenDropped;
        self.finish(commit);
    }
}
