//! Publish calls in flight, and what their outcomes mean.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Scope, Verdict};
use crate::event::Delivery;
use crate::message::Message;
use crate::relay::CallId;
use crate::relay::settings::{KeyOrder, Settings};
use crate::relay::window::{Meta, Row, Rows};
use crate::store::{Content, Position, Settle, Settlement};

/// A publish call in flight. Its messages are with the task and come back with the outcomes.
pub(super) struct Call {
    pub(super) metas: Vec<Meta>,
    pub(super) started: Instant,
    /// Whether it held as many messages as a call might.
    pub(super) is_full: bool,
}

#[derive(Default)]
pub(super) struct Calls {
    next: u64,
    running: HashMap<CallId, Call>,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    /// The call that begins next.
    pub(super) fn next(&self) -> CallId {
        CallId(self.next)
    }

    pub(super) fn begin(&mut self, rows: Rows, is_full: bool) -> (CallId, Arc<Vec<Message>>) {
        let id = CallId(self.next);
        self.next += 1;
        let (mut metas, mut messages) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for row in rows {
            // Unreadable rows are settled on arrival and never wait for a call.
            let Row { meta, content } = *row;
            if let Content::Message(message) = content {
                metas.push(meta);
                messages.push(message);
            }
        }
        self.running.insert(id, Call { metas, started: Instant::now(), is_full });
        (id, Arc::new(messages))
    }

    pub(super) fn end(&mut self, id: CallId) -> Option<Call> {
        self.running.remove(&id)
    }
}

/// What to do with one message of a call that has ended.
pub(super) enum Ruling {
    Delivered,
    /// The endpoint failed: back to the queue, no attempt counted.
    PutBack(Error),
    /// The message failed: count the attempt.
    Failed(Error),
}

/// Judges one outcome.
pub(super) fn judge(outcome: Result<(), Error>) -> Ruling {
    match outcome {
        Ok(()) => Ruling::Delivered,
        Err(error) if error.scope() == Scope::Message => Ruling::Failed(error),
        Err(error) => Ruling::PutBack(error),
    }
}

/// A settlement on its way into the store, with what the events will say about it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) row: Row,
    pub(super) settlement: Settlement,
    pub(super) confirmed_after: Duration,
    pub(super) publish_time: Duration,
}

impl Pending {
    pub(super) fn new(row: Row, settlement: Settlement, publish_time: Duration, now: Instant) -> Self {
        let confirmed_after = row.meta.age + now.duration_since(row.meta.fetched_at);
        Self { row, settlement, confirmed_after, publish_time }
    }

    pub(super) fn settle(&self) -> Settle {
        let meta = &self.row.meta;
        Settle {
            position: meta.position,
            identity: meta.identity,
            partition: meta.partition,
            settlement: self.settlement.clone(),
        }
    }

    /// The key that is blocked in memory until this settlement is recorded, and the position behind which it is.
    pub(super) fn block(&self) -> Option<(Arc<str>, Position)> {
        match &self.settlement {
            Settlement::Held
            | Settlement::Retry { block_key: true, .. }
            | Settlement::Dead { block_key: true, .. } => {
                Some((self.row.meta.key.clone()?, self.row.meta.position))
            }
            _ => None,
        }
    }

    pub(super) fn delivery(&self) -> Arc<Delivery> {
        let meta = &self.row.meta;
        let (attempts, error) = match &self.settlement {
            Settlement::Delivered => (meta.attempts + 1, None),
            Settlement::Retry { attempts, error, .. } | Settlement::Dead { attempts, error, .. } => {
                (*attempts, Some(error.clone()))
            }
            Settlement::Held => (meta.attempts, None),
        };
        let (id, topic) = match &self.row.content {
            Content::Message(message) => (Some(message.id()), Some(message.topic().to_owned())),
            Content::Malformed { id, topic, .. } => (*id, topic.clone()),
        };
        Arc::new(Delivery {
            id,
            position: meta.position,
            topic,
            key: meta.key.as_deref().map(str::to_owned),
            attempts,
            error,
            since_enqueued: self.confirmed_after,
            publish_time: self.publish_time,
        })
    }
}

/// What is stored about a failed message, and whether it blocks its key.
pub(super) fn failure(
    meta: &Meta,
    error: &Error,
    settings: &Settings,
    rng: &mut fastrand::Rng,
) -> (Settlement, bool) {
    // A broker that asks a part of its messages to wait, as a busy shard does, finds no fault with them.
    let throttled = error.kind() == ErrorKind::Throttled && error.verdict() == Verdict::Retry;
    let attempts = if throttled { meta.attempts } else { meta.attempts.saturating_add(1) };
    let used_up = !throttled && attempts >= settings.retry.max_attempts;
    let dead = error.verdict() == Verdict::Permanent || used_up;
    let block_key = meta.key.is_some()
        && match settings.key_order {
            KeyOrder::Strict => true,
            KeyOrder::SkipDead => !dead,
            KeyOrder::Progress => false,
        };
    let error_text = limited(error.report());
    let settlement = if dead {
        Settlement::Dead { attempts, error: error_text, block_key }
    } else {
        let after = settings.retry.wait(attempts.max(1), error.retry_after(), rng);
        Settlement::Retry { after, attempts, error: error_text, block_key }
    };
    (settlement, block_key)
}

/// Stored errors are for people: a page is enough, and no broker's answer may fill the database.
fn limited(mut text: String) -> String {
    const LONGEST: usize = 4_000;
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    // PostgreSQL keeps no NUL in a text.
    text.replace('\0', "\u{fffd}")
}
