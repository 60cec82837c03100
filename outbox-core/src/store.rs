//! The database side: leases, fetching, settling, purging.
//!
//! # States of a message
//! ```text
//!             enqueue                       deliver_at in the future
//!                │                                    │
//!                ▼                                    ▼
//!              READY ◄───────────┐                SCHEDULED
//!                │               │                    │ its time comes
//!  an earlier    │ fetch         │ nothing in front   │
//!  message of    ├───────────────┼────────────────────┘
//!  its key is    │               │
//!  in trouble    ▼   settle: held│
//!             (relay) ────────► HELD ──► released when the one in front is delivered, discarded, …
//!                │
//!                ├── settle: retry ──► RETRYING ──► due again after its backoff
//!                ├── settle: dead ───► dead letter ──► redrive ──► due at once, same position
//!                └── settle: delivered ──► gone, or kept for the retention time
//! ```
//! A message that is *retrying*, *held*, or dead while its key waits for it **blocks** its key: every later
//! message of the key (by position) is held. The store keeps this in the database, so that it outlives the relay.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::dead_letter::{DeadLetterFilter, DeadLetters};
use crate::error::Result;
use crate::identity::{Identity, RowId};
use crate::inspection::{Inspection, Waiting};
use crate::message::{Message, MessageId};
use crate::time::Timestamp;

/// The store's order of messages: assigned on enqueue, growing, and unique among the undelivered messages of a partition.
///
/// A position is an order and not an identity: a database that loses its latest commits assigns their positions again. See
/// [`Identity`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub i64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A slice of keys, counted from zero. The database computes it from the key, or from the id where there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Partition(pub u16);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one run of one relay. A restarted relay is a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelayId(pub Uuid);

impl RelayId {
    /// A new id.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for RelayId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a heartbeat came back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The partitions this relay holds a lease on, for the whole requested time from the moment of the call.
    pub owned: Vec<Partition>,
    /// How many of them it should hold now, given how many relays are alive. If it holds more, it stops working
    /// on the surplus, settles what is in flight there, and gives it back by [`Store::release`].
    pub share: usize,
    /// How many relays are alive, this one included.
    pub relays: usize,
    /// How many partitions there are. Constant for the life of the tables.
    pub partitions: usize,
    /// Whether this call made the relay a member: it was new, or its membership had ended before this call. What
    /// [`Store::set_idle`] said before is forgotten then, and other relays may have owned its partitions in between. A store that
    /// does not keep [`set_idle`](Store::set_idle) may leave it false.
    pub joined: bool,
}

/// A row as it was fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where it stands.
    pub position: Position,
    /// Which message it is, of all that are or were at this position.
    pub identity: Identity,
    /// The partition the database computed for it.
    pub partition: Partition,
    /// How many attempts have been counted so far.
    pub attempts: u32,
    /// When it was enqueued, by the database's clock.
    pub enqueued_at: Timestamp,
    /// How long ago it was enqueued when it was fetched, both by the database's clock.
    pub age: Duration,
    /// Whether it came because its time had come (`available_at` was set), rather than as a fresh row.
    pub due: bool,
    /// Whether it must be settled as [`Settlement::Held`] because an earlier message blocks its key.
    pub blocked: bool,
    /// The message, or what is wrong with the row. Such a row goes to the dead letters as it is.
    pub content: Content,
}

/// A readable message, or the remains of an unreadable one.
#[derive(Clone, Debug)]
pub enum Content {
    /// A message to publish.
    Message(Message),
    /// A row that somebody else wrote and that cannot be understood.
    Malformed {
        /// The id, if at least that is readable.
        id: Option<MessageId>,
        /// The topic, if readable.
        topic: Option<String>,
        /// The ordering key, if readable.
        key: Option<String>,
        /// What is wrong with which column, for a person to act on.
        reason: String,
    },
}

impl Fetched {
    /// The row: its position and its identity.
    pub fn row(&self) -> RowId {
        RowId::new(self.position, self.identity)
    }

    /// The ordering key, where there is a readable one.
    pub fn key(&self) -> Option<&str> {
        match &self.content {
            Content::Message(message) => message.key(),
            Content::Malformed { key, .. } => key.as_deref(),
        }
    }

    /// Bytes counted against the limit of bytes in flight.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Message(message) => message.size(),
            Content::Malformed { .. } => 0,
        }
    }
}

/// How much one fetch may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimit {
    /// At most this many rows, except that a store may always bring one row per partition.
    pub messages: usize,
    /// At most this many payload bytes, except that a store may always bring one row per partition.
    pub bytes: usize,
}

/// What one fetch brought.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The rows. Those of one key come in position order; between keys any order is fine.
    pub rows: Vec<Fetched>,
    /// Whether another fetch right now would probably bring more.
    pub more: bool,
    /// How long until the next scheduled or retrying row of the reader's partitions becomes due, if any is
    /// waiting. Zero if one is due already and did not fit.
    pub next_due: Option<Duration>,
}

/// What to write about one fetched row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Where the row stands.
    pub position: Position,
    /// Which message it is, as it was fetched. Another message at this position is left alone.
    pub identity: Identity,
    /// Its partition.
    pub partition: Partition,
    /// What became of it.
    pub settlement: Settlement,
}

impl Settle {
    /// Settles a fetched row.
    pub fn of(row: &Fetched, settlement: Settlement) -> Self {
        Self { position: row.position, identity: row.identity, partition: row.partition, settlement }
    }

    /// The row: its position and its identity.
    pub fn row(&self) -> RowId {
        RowId::new(self.position, self.identity)
    }
}

/// What became of a fetched row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The broker confirmed it. The row goes away, or into the delivered messages if they are kept.
    Delivered,
    /// It failed and is to be tried again.
    Retry {
        /// When, from the moment of settling, by the database's clock.
        after: Duration,
        /// The count of attempts to store. Absolute, so that settling twice does no harm.
        attempts: u32,
        /// The error to store beside it.
        error: String,
        /// Whether it blocks the later messages of its key until it is delivered.
        block_key: bool,
    },
    /// An earlier message of its key blocks it. Whatever was due behind it waits for it from now on. If, when this is
    /// written, nothing in front of it blocks the key any more, the row becomes due at once instead: of the rows of a key
    /// that were held for nothing, in whatever calls and order, the first one comes first. Counts as no attempt. A relay also settles
    /// rows like this of a key that has too many rows in its memory, while ready rows of the key are in front of them.
    Held,
    /// It failed for good and goes to the dead letters.
    Dead {
        /// The count of attempts to store.
        attempts: u32,
        /// The error to store beside it.
        error: String,
        /// Whether it goes on blocking the later messages of its key until it is redriven or discarded.
        block_key: bool,
    },
}

/// Counts and ages for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Undelivered messages in the store: ready, scheduled, retrying and held.
    pub backlog: Count,
    /// Dead letters.
    pub dead_letters: Count,
    /// How long ago the undelivered message with the lowest position was enqueued, scheduled ones excepted.
    pub lag: Option<Duration>,
}

/// A count that stops somewhere, because counting millions of rows is not free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many were counted.
    pub value: u64,
    /// Whether the counting stopped at the limit, so that there are at least that many.
    pub at_least: bool,
}

impl Count {
    /// From the result of a count that was asked to stop after `limit + 1`.
    pub fn limited(counted: u64, limit: u64) -> Self {
        Self { value: counted.min(limit), at_least: counted > limit }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.value, if self.at_least { "+" } else { "" })
    }
}

/// A database with an outbox in it, as the relay sees it.
///
/// Enqueueing is not here: it belongs to the caller's transaction, and each store crate has a function typed for
/// its driver.
///
/// # The contract
/// - **Clock.** Leases, due times and ages follow the database's clock only.
/// - **Ownership.** At any time a partition has at most one relay with an unexpired lease. An expired lease can
///   be taken by anybody; a live one by nobody.
/// - **Identity.** A settlement concerns the row with its position *and* its [`Identity`]. If another message is at the position by
///   then, nothing of that one changes, whatever is settled.
/// - **Settling** is idempotent and atomic per call. [`Settlement::Delivered`] takes effect whoever owns the
///   partition, since the broker has the message. The others take effect only while this relay owns the
///   partition and the row is still there, so that a relay that lost its lease cannot disturb the new owner.
/// - **Blocking.** When a blocking message is delivered, or dies without blocking on, the same call makes the
///   held messages of its key due again, in position order, at least the first of them and at most 500 of a key at
///   a time; delivering those makes the next ones due. While a message is retrying or dead and blocking, no later message of its key is due.
///   A message that blocked its key and is settled as retrying without blocking (the setting was changed) lets
///   its key go on by the next [`repair`](Self::repair) at the latest.
/// - **Errors** leave nothing half done. The relay repeats a failed call, so a call that has failed has either taken
///   effect by then or does not take it any more: not even if its connection is cut, and what it has sent arrives
///   later. A transaction sees to that, since it ends with its connection, and holds its locks until it does.
/// - **No lock for long.** A relay may vanish or stand still in the middle of a call. Whatever the call has locked must be free
///   again after some seconds, without the relay's doing.
///
/// # Cancel safety
/// The relay drops these futures when it is aborted, or when they take longer than
/// [`store_timeout`](crate::Settings::store_timeout). A dropped call may or may not have taken effect; it must not leave a
/// transaction open on a connection that is used again, nor keep a connection that nobody answers on.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// A short stable name for metrics and logs, such as `postgres`.
    fn name(&self) -> &'static str;

    /// Announces that `relay` is alive until `ttl` from now, extends its leases to then, and takes free or
    /// expired partitions while it holds less than its share.
    ///
    /// The shares of all live relays add up to all partitions and differ by one at most.
    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership>;

    /// Gives up the leases on these partitions, so that other relays can take them at once. Those this relay
    /// does not hold are left alone.
    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()>;

    /// Gives up everything and leaves the group, so that the shares of the others grow at once.
    async fn leave(&self, relay: RelayId) -> Result<()>;

    /// A new reader, with no partitions.
    fn reader(&self) -> Box<dyn Reader>;

    /// Writes what became of fetched rows. With `keep_delivered`, delivered rows are kept until they are purged.
    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()>;

    /// Deletes at most `limit` delivered rows that were kept and are older than `older_than`; says how many.
    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64>;

    /// Puts right what nobody else would: held rows of these partitions whose blocking message is gone (deleted by
    /// hand, say) become due. At most `limit` of them; says how many. Cheap when there is nothing to do.
    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64>;

    /// Counts and ages, counting at most `limit` rows of each kind.
    async fn stats(&self, limit: u64) -> Result<Stats>;

    /// Wake-ups, if the store has a way to tell that something was committed. They are hints: correctness never
    /// rests on them.
    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        Ok(None)
    }

    /// Tells the store whether this relay sleeps, so that enqueuers need not wake it while it is busy. Stores
    /// whose wake-ups cost nothing ignore it. Forgotten when the relay's heartbeat ends.
    async fn set_idle(&self, _relay: RelayId, _idle: bool) -> Result<()> {
        Ok(())
    }

    /// Administration of dead letters, if the store offers it.
    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        None
    }

    /// Looking at the store, for people, if it offers that.
    fn inspection(&self) -> Option<&dyn Inspection> {
        None
    }
}

/// Reads the rows of some partitions, each row once.
///
/// # The contract
/// - After [`assign`](Self::assign), reading starts at the partition's lowest position.
/// - A row that is *ready* is returned once. A row that is *due* is returned whenever it is due and is not in `in_flight`, where
///   it is named by position and identity. Nothing else is returned.
/// - **No ready row is skipped.** Databases hand out positions before commit, so a row can appear below
///   positions already returned. It is still returned, and **before any row of the same key that was enqueued
///   after it was committed**. Reading past a cursor alone breaks this.
/// - A store may also leave out a due row that has the position of one in `in_flight` and another identity. It comes as soon as that one
///   is settled.
/// - **No due row before a ready one of its key** that is in front of it and was not returned yet. A relay may have settled the due row
///   as held and died before it delivered the ready ones.
/// - A ready row behind a message that blocks its key, and a due row that is not itself blocking and is behind
///   one, is returned with [`Fetched::blocked`] set.
/// - After an error, or if the future was dropped, the next call returns what this one would have.
#[async_trait]
pub trait Reader: Send {
    /// Begins to read a partition from its start.
    fn assign(&mut self, partition: Partition);

    /// Stops reading a partition.
    fn revoke(&mut self, partition: Partition);

    /// Brings what is ready or due. `in_flight` are the rows that came as due and are not settled.
    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch>;
}

/// A stream of hints that something was committed.
#[async_trait]
pub trait Wakeups: Send {
    /// Waits for the next hint. Several may be folded into one, and one that comes between two calls is kept for
    /// the next. After an error the relay polls, and calls again
    /// after a while.
    ///
    /// # Cancel safety
    /// Dropping the future loses no hint that arrives later.
    async fn wait(&mut self) -> Result<()>;
}

/// Comfort on top of [`Store`].
#[async_trait]
pub trait StoreExt: Store {
    /// Waits until nothing undelivered is left (dead letters do not count), looking every `interval`.
    ///
    /// Waits for ever if something else keeps enqueueing; put a timeout around it.
    ///
    /// # Errors
    /// The first error of [`Store::stats`].
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    async fn drained(&self, interval: Duration) -> Result<()> {
        loop {
            if self.stats(1).await?.backlog.value == 0 {
                return Ok(());
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Returns whether a relay can deliver nothing more: no message is undelivered, or each one waits behind a dead letter of
    /// its key, which has to be redriven or discarded first.
    ///
    /// A message that is scheduled or retrying is to be delivered. Without [`Store::inspection`] and [`Store::dead_letters`] every
    /// undelivered message counts as one that is. Reads the undelivered messages only while they are all blocked.
    ///
    /// # Errors
    /// The first error of the store.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    async fn nothing_deliverable(&self) -> Result<bool> {
        if self.stats(1).await?.backlog.value == 0 {
            return Ok(true);
        }
        let (Some(inspection), Some(dead_letters)) = (self.inspection(), self.dead_letters()) else {
            return Ok(false);
        };
        // The first row alone tells most of the time.
        let (mut limit, mut after) = (1, None);
        let mut walls: Option<HashMap<String, Position>> = None;
        loop {
            let Some(rows) = inspection.peek(after, limit).await? else { return Ok(false) };
            if rows.iter().any(|row| !row.blocks_key) {
                return Ok(false);
            }
            let walls = match &mut walls {
                Some(walls) => walls,
                none => none.insert(blocking_dead_letters(dead_letters).await?),
            };
            let is_behind = |row: &Waiting| {
                let wall = row.key.as_ref().and_then(|key| walls.get(key));
                wall.is_some_and(|position| *position < row.position)
            };
            if !rows.iter().all(is_behind) {
                return Ok(false);
            }
            if rows.len() < limit {
                return Ok(true);
            }
            (limit, after) = (PAGE, rows.last().map(|row| row.position));
        }
    }
}

/// Rows read at a time by [`StoreExt::nothing_deliverable`].
const PAGE: usize = 500;

/// Returns the first dead letter of each key that is blocked by one.
async fn blocking_dead_letters(dead_letters: &dyn DeadLetters) -> Result<HashMap<String, Position>> {
    let (mut first, mut after) = (HashMap::new(), None);
    loop {
        let page = dead_letters.list(&DeadLetterFilter::all(), after, PAGE).await?;
        after = page.last().map(|letter| letter.position);
        let is_last = page.len() < PAGE;
        for letter in page.into_iter().filter(|letter| letter.blocks_key) {
            if let Some(key) = letter.key {
                first.entry(key).or_insert(letter.position);
            }
        }
        if is_last {
            return Ok(first);
        }
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    async fn heartbeat(&self, relay: RelayId, ttl: Duration) -> Result<Membership> {
        (**self).heartbeat(relay, ttl).await
    }

    async fn release(&self, relay: RelayId, partitions: &[Partition]) -> Result<()> {
        (**self).release(relay, partitions).await
    }

    async fn leave(&self, relay: RelayId) -> Result<()> {
        (**self).leave(relay).await
    }

    fn reader(&self) -> Box<dyn Reader> {
        (**self).reader()
    }

    async fn settle(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        (**self).settle(relay, batch, keep_delivered).await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        (**self).purge(older_than, limit).await
    }

    async fn repair(&self, relay: RelayId, partitions: &[Partition], limit: usize) -> Result<u64> {
        (**self).repair(relay, partitions, limit).await
    }

    async fn stats(&self, limit: u64) -> Result<Stats> {
        (**self).stats(limit).await
    }

    async fn wakeups(&self) -> Result<Option<Box<dyn Wakeups>>> {
        (**self).wakeups().await
    }

    async fn set_idle(&self, relay: RelayId, idle: bool) -> Result<()> {
        (**self).set_idle(relay, idle).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        (**self).dead_letters()
    }

    fn inspection(&self) -> Option<&dyn Inspection> {
        (**self).inspection()
    }
}
