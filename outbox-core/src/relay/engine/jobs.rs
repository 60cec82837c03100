//! The work that runs beside the engine: each call to the store or the publisher is a task of its own, and comes
//! back to the engine as a [`Done`]. The only place where tasks are spawned.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use crate::error::{Error, ErrorKind, Result, Scope, Verdict};
use crate::identity::RowId;
use crate::message::Message;
use crate::publisher::{Outcome, Publisher, fail_all};
use crate::relay::CallId;
use crate::store::{Batch, FetchLimit, Membership, Partition, Reader, RelayId, Settle, Stats, Store};

/// What a task came back with.
pub(super) enum Done {
    Heartbeat {
        number: u64,
        sent: Instant,
        answer: Result<Membership>,
    },
    Released {
        partitions: Vec<Partition>,
        answer: Result<()>,
    },
    /// The reader is missing if its call panicked; it is then replaced.
    Fetched {
        reader: Option<Box<dyn Reader>>,
        number: u64,
        answer: Result<Batch>,
    },
    Published {
        call: CallId,
        messages: Arc<Vec<Message>>,
        outcomes: Vec<Outcome>,
    },
    Settled {
        id: u64,
        answer: Result<()>,
    },
    SetIdle {
        /// The one that was valid when the call began.
        membership: u64,
        idle: bool,
        answer: Result<()>,
    },
    Repaired {
        answer: Result<u64>,
    },
    Purged {
        answer: Result<u64>,
    },
    Counted {
        answer: Result<Stats>,
    },
}

/// Waits for a store no longer than this.
async fn in_time<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        let error = Error::new(ErrorKind::Timeout, "the store did not answer");
        Err(error.with("timeout", format_args!("{limit:?}")))
    })
}

/// Runs a future and turns a panic of somebody else's backend into an error.
async fn guarded<T>(operation: &'static str, future: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(future).catch_unwind().await.unwrap_or_else(|panic| Err(panicked(operation, &*panic)))
}

fn panicked(operation: &'static str, panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned());
    Error::new(ErrorKind::Internal, "the backend panicked; this is a bug in it")
        .with("operation", operation)
        .with("panic", text)
        .with_verdict(Verdict::Unknown)
}

/// Starts tasks for the engine.
pub(super) struct Jobs<S, P> {
    pub(super) store: Arc<S>,
    pub(super) publisher: Arc<P>,
    pub(super) relay: RelayId,
    /// For one call to the store.
    pub(super) store_timeout: Duration,
    pub(super) running: JoinSet<Done>,
}

impl<S: Store, P: Publisher> Jobs<S, P> {
    pub(super) fn heartbeat(&mut self, number: u64, ttl: Duration, timeout: Duration) {
        let (store, relay, sent) = (self.store.clone(), self.relay, Instant::now());
        self.running.spawn(async move {
            let call = in_time(timeout, store.heartbeat(relay, ttl));
            Done::Heartbeat { number, sent, answer: guarded("heartbeat", call).await }
        });
    }

    pub(super) fn release(&mut self, partitions: Vec<Partition>) {
        let (store, relay, limit) = (self.store.clone(), self.relay, self.store_timeout);
        let span = tracing::debug_span!("outbox.release", partitions = partitions.len());
        let task = async move {
            let answer = guarded("release", in_time(limit, store.release(relay, &partitions))).await;
            Done::Released { partitions, answer }
        };
        self.running.spawn(task.instrument(span));
    }

    pub(super) fn fetch(
        &mut self,
        mut reader: Box<dyn Reader>,
        number: u64,
        limit: FetchLimit,
        due: Vec<RowId>,
    ) {
        let span = tracing::debug_span!("outbox.fetch", limit = limit.messages);
        let timeout = self.store_timeout;
        let task = async move {
            let call = async {
                let answer = in_time(timeout, reader.fetch(limit, &due)).await;
                (reader, answer)
            };
            match AssertUnwindSafe(call).catch_unwind().await {
                Ok((reader, answer)) => Done::Fetched { reader: Some(reader), number, answer },
                Err(panic) => Done::Fetched { reader: None, number, answer: Err(panicked("fetch", &*panic)) },
            }
        };
        self.running.spawn(task.instrument(span));
    }

    pub(super) fn publish(&mut self, call: CallId, messages: Arc<Vec<Message>>, timeout: Duration) {
        let publisher = self.publisher.clone();
        let span = tracing::debug_span!("outbox.publish", messages = messages.len());
        let task = async move {
            // The call is dropped in here when its time is over, and may panic then.
            let attempt = async { tokio::time::timeout(timeout, publisher.publish(&messages)).await };
            let outcomes = match AssertUnwindSafe(attempt).catch_unwind().await {
                Ok(Ok(outcomes)) if outcomes.len() == messages.len() => outcomes,
                Ok(Ok(outcomes)) => fail_all(&messages, || {
                    Error::new(
                        ErrorKind::Internal,
                        "the publisher returned a wrong number of outcomes; this is a bug in it",
                    )
                    .with("messages", messages.len())
                    .with("outcomes", outcomes.len())
                    .with_verdict(Verdict::Unknown)
                    .with_scope(Scope::Endpoint)
                }),
                Ok(Err(_)) => fail_all(&messages, || {
                    Error::new(ErrorKind::Timeout, "the broker did not confirm within the publish timeout")
                        .with("timeout", format_args!("{timeout:?}"))
                        .with_scope(Scope::Endpoint)
                }),
                Err(panic) => fail_all(&messages, || {
                    // Which message it choked on shows when they are sent again, in the end each one alone.
                    panicked("publish", &*panic).with_scope(Scope::Endpoint)
                }),
            };
            Done::Published { call, messages, outcomes }
        };
        self.running.spawn(task.instrument(span));
    }

    pub(super) fn settle(&mut self, id: u64, batch: Vec<Settle>, keep_delivered: bool) {
        let (store, relay, limit) = (self.store.clone(), self.relay, self.store_timeout);
        let span = tracing::debug_span!("outbox.settle", messages = batch.len());
        let task = async move {
            let call = in_time(limit, store.settle(relay, &batch, keep_delivered));
            Done::Settled { id, answer: guarded("settle", call).await }
        };
        self.running.spawn(task.instrument(span));
    }

    pub(super) fn set_idle(&mut self, membership: u64, idle: bool) {
        let (store, relay, limit) = (self.store.clone(), self.relay, self.store_timeout);
        self.running.spawn(async move {
            let call = in_time(limit, store.set_idle(relay, idle));
            Done::SetIdle { membership, idle, answer: guarded("set_idle", call).await }
        });
    }

    pub(super) fn repair(&mut self, partitions: Vec<Partition>, batch: usize) {
        let (store, relay, limit) = (self.store.clone(), self.relay, self.store_timeout);
        self.running.spawn(async move {
            let call = in_time(limit, store.repair(relay, &partitions, batch));
            Done::Repaired { answer: guarded("repair", call).await }
        });
    }

    pub(super) fn purge(&mut self, age: Duration, batch: usize) {
        let (store, limit) = (self.store.clone(), self.store_timeout);
        self.running.spawn(async move {
            let call = in_time(limit, store.purge(age, batch));
            Done::Purged { answer: guarded("purge", call).await }
        });
    }

    pub(super) fn stats(&mut self, limit: u64) {
        let (store, timeout) = (self.store.clone(), self.store_timeout);
        self.running.spawn(async move {
            let call = in_time(timeout, store.stats(limit));
            Done::Counted { answer: guarded("stats", call).await }
        });
    }
}
