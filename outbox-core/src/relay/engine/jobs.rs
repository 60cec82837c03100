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
use crate::message::Message;
use crate::publisher::{Outcome, Publisher, fail_all};
use crate::relay::CallId;
use crate::store::{
    Batch, FetchLimit, Membership, Partition, Position, Reader, RelayId, Settle, Stats, Store,
};

/// What a task came back with.
pub(super) enum Done {
    Heartbeat {
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
        answer: Result<()>,
    },
    Announced {
        idle: bool,
        answer: Result<()>,
    },
    Maintained {
        purged: u64,
        answer: Result<()>,
    },
    Measured {
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
    pub(super) fn heartbeat(&mut self, ttl: Duration) {
        let (store, relay, sent) = (self.store.clone(), self.relay, Instant::now());
        self.running.spawn(async move {
            // A heartbeat that takes longer than the lease it asks for is worthless, and a hung one must not
            // keep the next from being sent.
            let call = in_time(ttl, store.heartbeat(relay, ttl));
            Done::Heartbeat { sent, answer: guarded("heartbeat", call).await }
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
        due: Vec<Position>,
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
            let attempt = AssertUnwindSafe(publisher.publish(&messages)).catch_unwind();
            let outcomes = match tokio::time::timeout(timeout, attempt).await {
                Ok(Ok(outcomes)) if outcomes.len() == messages.len() => outcomes,
                Ok(Ok(outcomes)) => fail_all(&messages, || {
                    Error::new(
                        ErrorKind::Internal,
                        "the publisher answered with the wrong number of outcomes",
                    )
                    .with("messages", messages.len())
                    .with("outcomes", outcomes.len())
                    .with_verdict(Verdict::Unknown)
                }),
                Ok(Err(panic)) => fail_all(&messages, || {
                    // Which message it choked on shows when they are sent again, in the end each one alone.
                    panicked("publish", &*panic).with_scope(Scope::Endpoint)
                }),
                Err(_) => fail_all(&messages, || {
                    Error::new(ErrorKind::Timeout, "the broker did not confirm within the publish timeout")
                        .with("timeout", format_args!("{timeout:?}"))
                        .with_scope(Scope::Endpoint)
                }),
            };
            Done::Published { call, messages, outcomes }
        };
        self.running.spawn(task.instrument(span));
    }

    pub(super) fn settle(&mut self, batch: Vec<Settle>, keep_delivered: bool) {
        let (store, relay, limit) = (self.store.clone(), self.relay, self.store_timeout);
        let span = tracing::debug_span!("outbox.settle", messages = batch.len());
        let task = async move {
            let call = in_time(limit, store.settle(relay, &batch, keep_delivered));
            Done::Settled { answer: guarded("settle", call).await }
        };
        self.running.spawn(task.instrument(span));
    }

    pub(super) fn announce(&mut self, idle: bool) {
        let (store, relay, limit) = (self.store.clone(), self.relay, self.store_timeout);
        self.running.spawn(async move {
            let call = in_time(limit, store.set_idle(relay, idle));
            Done::Announced { idle, answer: guarded("set_idle", call).await }
        });
    }

    /// Purges what is past its retention and repairs what nobody else would, a bounded batch at a time.
    pub(super) fn maintain(&mut self, partitions: Vec<Partition>, retention: Option<Duration>, batch: usize) {
        let (store, relay, limit) = (self.store.clone(), self.relay, self.store_timeout);
        self.running.spawn(async move {
            let mut purged = 0;
            let answer = guarded("maintain", async {
                in_time(limit, store.repair(relay, &partitions, batch)).await?;
                if let Some(age) = retention {
                    loop {
                        let rows = in_time(limit, store.purge(age, batch)).await?;
                        purged += rows;
                        if rows < batch as u64 {
                            break;
                        }
                    }
                }
                Ok(())
            });
            let answer = answer.await;
            Done::Maintained { purged, answer }
        });
    }

    pub(super) fn measure(&mut self, limit: u64) {
        let (store, timeout) = (self.store.clone(), self.store_timeout);
        self.running.spawn(async move {
            let call = in_time(timeout, store.stats(limit));
            Done::Measured { answer: guarded("stats", call).await }
        });
    }
}
