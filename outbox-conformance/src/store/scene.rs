//! The common setup of store cases: one relay that owns everything, and shorthands for its calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{
    Batch, Content, DeadLetters, FetchLimit, Fetched, Message, Partition, Position, Reader, RelayId, RowId,
    Settle, Settlement, Store, Timestamp,
};

use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::{StoreFixture, StoreTraits};

/// A lease, a delay or an age that no case reaches, however slow the machine is.
pub(super) const LONG: Duration = Duration::from_secs(24 * 3600);

/// Maximum difference between times of the same clock that comes from its ticks and from rounding.
pub(super) const ROUNDING: Duration = Duration::from_millis(50);

/// More than the size of any case's outbox, and less than any overflow.
pub(super) const EVERYTHING: FetchLimit = FetchLimit { messages: 10_000, bytes: 1 << 30 };

/// The pause between two checks of a condition that will soon hold.
const PAUSE: Duration = Duration::from_millis(10);

/// How long no further row may be returned before a case concludes that none will.
const QUIET: Duration = Duration::from_millis(150);

/// Minimum number of fetches in that time. On a slow machine a single fetch may take longer than that.
const QUIET_FETCHES: usize = 3;

pub(super) struct Scene<'a> {
    pub(super) fixture: &'a dyn StoreFixture,
    pub(super) traits: StoreTraits,
    pub(super) store: Arc<dyn Store>,
    pub(super) relay: RelayId,
    pub(super) reader: Box<dyn Reader>,
    pub(super) partitions: Vec<Partition>,
    in_flight: BTreeSet<RowId>,
}

impl<'a> Scene<'a> {
    pub(super) async fn new(fixture: &'a dyn StoreFixture) -> Result<Self, Stop> {
        let store = fixture.store().await?;
        let relay = RelayId::new();
        let membership = store.heartbeat(relay, LONG).await?;
        ensure_eq!(
            membership.owned.len(),
            membership.partitions,
            "partitions owned by the only relay of a new outbox"
        );
        let mut scene = Self {
            fixture,
            traits: fixture.traits(),
            reader: store.reader(),
            store,
            relay,
            partitions: membership.owned,
            in_flight: BTreeSet::new(),
        };
        scene.assign_all();
        Ok(scene)
    }

    pub(super) fn assign_all(&mut self) {
        for partition in &self.partitions {
            self.reader.assign(*partition);
        }
    }

    /// Restarts the relay, with a new id and a new reader.
    pub(super) async fn restart(&mut self) -> CaseResult {
        self.store.leave(self.relay).await?;
        self.relay = RelayId::new();
        let owned = self.store.heartbeat(self.relay, LONG).await?.owned;
        ensure_eq!(owned.len(), self.partitions.len(), "partitions after the former relay left");
        self.reader = self.store.reader();
        self.in_flight.clear();
        self.assign_all();
        Ok(())
    }

    /// Enqueues messages in a separate transaction.
    pub(super) async fn enqueue(&mut self, messages: &[Message]) -> CaseResult {
        enqueue(self.fixture, messages).await
    }

    /// Enqueues messages with this key and these payloads.
    pub(super) async fn enqueue_keyed(&mut self, key: &str, payloads: &[&str]) -> CaseResult {
        let messages: Result<Vec<_>, _> = payloads.iter().map(|payload| keyed(key, payload)).collect();
        self.enqueue(&messages?).await
    }

    /// Enqueues and fetches messages with this key and these payloads.
    pub(super) async fn fetch_keyed(&mut self, key: &str, payloads: &[&str]) -> Result<Vec<Fetched>, Stop> {
        self.enqueue_keyed(key, payloads).await?;
        let rows = self.expect(payloads.len()).await?;
        ensure_eq!(names(&rows), payloads, "the rows just enqueued");
        Ok(rows)
    }

    pub(super) async fn fetch(&mut self) -> Result<Batch, Stop> {
        self.fetch_at_most(EVERYTHING).await
    }

    pub(super) async fn fetch_at_most(&mut self, limit: FetchLimit) -> Result<Batch, Stop> {
        let in_flight: Vec<RowId> = self.in_flight.iter().copied().collect();
        let batch = self.reader.fetch(limit, &in_flight).await?;
        self.in_flight.extend(batch.rows.iter().filter(|row| row.due).map(Fetched::row));
        Ok(batch)
    }

    /// Fetches until this many rows have been returned; more rows are a failure.
    pub(super) async fn expect(&mut self, count: usize) -> Result<Vec<Fetched>, Stop> {
        let deadline = self.deadline();
        let mut rows = Vec::new();
        while rows.len() < count {
            let batch = self.fetch().await?;
            if batch.rows.is_empty() {
                let seen = rows.len();
                deadline
                    .pause(self.fixture, || format!("{count} rows, of which {seen} were returned"))
                    .await?;
            }
            rows.extend(batch.rows);
        }
        ensure_eq!(rows.len(), count, "number of rows, which are {:?}", names(&rows));
        Ok(rows)
    }

    /// Fetches a single row, whichever is returned first.
    pub(super) async fn expect_one(&mut self) -> Result<Fetched, Stop> {
        let deadline = self.deadline();
        loop {
            let limit = FetchLimit { messages: 1, ..EVERYTHING };
            if let Some(row) = self.fetch_at_most(limit).await?.rows.into_iter().next() {
                return Ok(row);
            }
            deadline.pause(self.fixture, || "a row".to_owned()).await?;
        }
    }

    /// Fetches until exactly these payloads have been returned, in this order.
    pub(super) async fn expect_names(&mut self, expected: &[&str]) -> Result<Vec<Fetched>, Stop> {
        let rows = self.expect(expected.len()).await?;
        ensure_eq!(names(&rows), expected, "rows");
        Ok(rows)
    }

    /// Fails if a row is returned within a short time.
    pub(super) async fn expect_nothing(&mut self) -> CaseResult {
        let until = self.fixture.now().saturating_add(QUIET);
        for fetches in 1.. {
            let rows = self.fetch().await?.rows;
            ensure!(rows.is_empty(), "no row should be returned, but {:?} was", names(&rows));
            if fetches >= QUIET_FETCHES && self.fixture.now() >= until {
                break;
            }
            self.fixture.pass_time(PAUSE * 2).await;
        }
        Ok(())
    }

    pub(super) async fn settle(&mut self, batch: &[Settle]) -> CaseResult {
        self.store.settle(self.relay, batch, false).await?;
        for settle in batch {
            self.in_flight.remove(&settle.row());
        }
        Ok(())
    }

    pub(super) async fn deliver(&mut self, rows: &[Fetched]) -> CaseResult {
        let batch: Vec<Settle> = rows.iter().map(delivered).collect();
        self.settle(&batch).await
    }

    /// Works like a relay until this many messages are delivered: in order, holding blocked ones. Returns the
    /// delivered payloads in order.
    pub(super) async fn deliver_until(&mut self, count: usize) -> Result<Vec<String>, Stop> {
        let deadline = self.deadline();
        let mut names = Vec::new();
        while names.len() < count {
            let rows = self.fetch().await?.rows;
            let before = names.len();
            names.extend(rows.iter().filter(|row| !row.blocked).map(name));
            let settle = |row: &Fetched| if row.blocked { held(row) } else { delivered(row) };
            let batch: Vec<Settle> = rows.iter().map(settle).collect();
            self.settle(&batch).await?;
            if names.len() == before {
                let what = || format!("{count} deliverable rows, of which {before} were returned");
                deadline.pause(self.fixture, what).await?;
            }
        }
        ensure_eq!(names.len(), count, "number of delivered rows, which are {names:?}");
        Ok(names)
    }

    /// Fails unless the outbox is empty.
    pub(super) async fn expect_drained(&mut self) -> CaseResult {
        self.expect_nothing().await?;
        let stats = self.store.stats(1000).await?;
        ensure_eq!(stats.backlog.value, 0, "backlog after everything was delivered");
        Ok(())
    }

    pub(super) fn dead_letters(&self) -> Result<&dyn DeadLetters, Stop> {
        dead_letters(&*self.store, &self.traits)
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline::new(self.fixture)
    }
}

pub(super) fn dead_letters<'s>(
    store: &'s dyn Store,
    traits: &StoreTraits,
) -> Result<&'s dyn DeadLetters, Stop> {
    if !traits.dead_letters {
        return Err(Stop::NotApplicable("the store cannot manage dead letters".to_owned()));
    }
    store
        .dead_letters()
        .ok_or_else(|| Stop::Failed("the store should be able to manage dead letters".to_owned()))
}

pub(super) fn needs_concurrent_writers(fixture: &dyn StoreFixture) -> CaseResult {
    if fixture.traits().concurrent_writers {
        return Ok(());
    }
    Err(Stop::NotApplicable("the store has one writer at a time, so nothing commits late".to_owned()))
}

pub(super) async fn enqueue(fixture: &dyn StoreFixture, messages: &[Message]) -> CaseResult {
    let mut transaction = fixture.begin().await?;
    transaction.enqueue(messages).await?;
    transaction.commit().await?;
    Ok(())
}

pub(super) fn keyed(key: &str, payload: &str) -> outbox_core::Result<Message> {
    Message::bytes("topic", payload.to_owned()).key(key).build()
}

pub(super) fn unkeyed(payload: &str) -> outbox_core::Result<Message> {
    Message::bytes("topic", payload.to_owned()).build()
}

/// Repeats a check until it succeeds, up to the deadline of the store.
pub(super) struct Deadline {
    until: Timestamp,
}

impl Deadline {
    pub(super) fn new(fixture: &dyn StoreFixture) -> Self {
        Self { until: fixture.now().saturating_add(fixture.traits().deadline) }
    }

    /// Waits a moment, or fails if it took too long.
    pub(super) async fn pause(&self, fixture: &dyn StoreFixture, what: impl Fn() -> String) -> CaseResult {
        ensure!(fixture.now() < self.until, "waited without success for {}", what());
        fixture.pass_time(PAUSE).await;
        Ok(())
    }
}

/// The message of a row that should be readable.
pub(super) fn message(row: &Fetched) -> Result<&Message, Stop> {
    match &row.content {
        Content::Message(message) => Ok(message),
        Content::Malformed { reason, .. } => {
            Err(Stop::Failed(format!("row {} should be readable: {reason}", row.position)))
        }
    }
}

/// Cases distinguish messages by their payload.
pub(super) fn name(row: &Fetched) -> String {
    match &row.content {
        Content::Message(message) => String::from_utf8_lossy(message.payload()).into_owned(),
        Content::Malformed { reason, .. } => format!("<malformed: {reason}>"),
    }
}

pub(super) fn names(rows: &[Fetched]) -> Vec<String> {
    rows.iter().map(name).collect()
}

pub(super) fn sorted_names(rows: &[Fetched]) -> Vec<String> {
    let mut names = names(rows);
    names.sort();
    names
}

pub(super) fn find<'r>(rows: &'r [Fetched], wanted: &str) -> Result<&'r Fetched, Stop> {
    rows.iter()
        .find(|row| name(row) == wanted)
        .ok_or_else(|| Stop::Failed(format!("row {wanted} should be among {:?}", names(rows))))
}

fn settle(row: &Fetched, settlement: Settlement) -> Settle {
    Settle::of(row, settlement)
}

pub(super) fn delivered(row: &Fetched) -> Settle {
    settle(row, Settlement::Delivered)
}

pub(super) fn held(row: &Fetched) -> Settle {
    settle(row, Settlement::Held)
}

/// Retry, blocking its key.
pub(super) fn retry(row: &Fetched, after: Duration) -> Settle {
    let error = format!("error of {}", name(row));
    settle(row, Settlement::Retry { after, attempts: row.attempts + 1, error, block_key: true })
}

/// Retry, leaving its key free.
pub(super) fn retry_aside(row: &Fetched, after: Duration) -> Settle {
    let error = format!("error of {}", name(row));
    settle(row, Settlement::Retry { after, attempts: row.attempts + 1, error, block_key: false })
}

pub(super) fn dead(row: &Fetched, block_key: bool) -> Settle {
    let error = format!("error of {}", name(row));
    settle(row, Settlement::Dead { attempts: row.attempts + 1, error, block_key })
}

/// Fails unless the rows of each key are in position order.
pub(super) fn check_order(rows: &[Fetched]) -> CaseResult {
    let mut last: BTreeMap<&str, Position> = BTreeMap::new();
    for row in rows {
        let Some(key) = row.key() else { continue };
        if let Some(before) = last.insert(key, row.position) {
            let position = row.position;
            ensure!(before < position, "row {position} of key {key:?} was returned after row {before}");
        }
    }
    Ok(())
}
