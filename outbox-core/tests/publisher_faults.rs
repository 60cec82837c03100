//! Publishers with bugs, under paused time: the relay goes on and counts no attempt.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use outbox_core::memory::{MemoryPublisher, MemoryStore};
use outbox_core::relay::{Relay, RetryPolicy};
use outbox_core::{Event, Message, Outcome, Publisher, PublisherCapabilities, Received, Store};
use support::*;

/// What a [`Buggy`] publisher does wrong.
#[derive(Clone, Copy, Debug)]
enum Bug {
    /// It returns one outcome less than it was given messages.
    OutcomeMissing,
    /// It returns one outcome more.
    OutcomeInvented,
    /// Its future never completes, and panics when it is dropped.
    PanicsWhenDropped,
}

/// A publisher with a bug in its first calls.
struct Buggy {
    bug: Bug,
    calls_left: AtomicU64,
    inner: MemoryPublisher,
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a bug in the publisher");
    }
}

#[async_trait]
impl Publisher for Buggy {
    fn name(&self) -> &'static str {
        "buggy"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let decrease = |left: u64| left.checked_sub(1);
        if self.calls_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, decrease).is_err() {
            return self.inner.publish(batch).await;
        }
        match self.bug {
            Bug::OutcomeMissing => batch.iter().skip(1).map(|_| Ok(())).collect(),
            Bug::OutcomeInvented => batch.iter().chain(batch.first()).map(|_| Ok(())).collect(),
            Bug::PanicsWhenDropped => {
                let _bug = PanicsWhenDropped;
                std::future::pending().await
            }
        }
    }
}

async fn is_survived(bug: Bug) {
    let store = MemoryStore::new();
    let inner = MemoryPublisher::new();
    let publisher = Buggy { bug, calls_left: AtomicU64::new(8), inner: inner.clone() };
    let mut settings = settings();
    settings.retry = RetryPolicy::default().max_attempts(2);
    let relay = Relay::builder(store.clone(), publisher).settings(settings).build().unwrap().spawn();
    let mut events = relay.events();
    for number in 0..2_000 {
        store.enqueue(&message(Some(&format!("key-{}", number % 100)), number));
    }
    drained(&store).await;
    relay.shutdown().await.unwrap();
    assert_eq!(store.stats(10).await.unwrap().dead_letters.value, 0, "{bug:?}");
    assert_eq!(inner.count(), 2_000, "{bug:?}");
    assert_ordered(&inner);
    while let Some(event) = events.recv().await {
        if let Received::Event(Event::Retrying { delivery, .. }) = event {
            panic!("{bug:?} counted as attempt {} of {}", delivery.attempts, delivery.position);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_number_of_outcomes_counts_no_attempt() {
    is_survived(Bug::OutcomeMissing).await;
    is_survived(Bug::OutcomeInvented).await;
}

#[tokio::test(start_paused = true)]
async fn a_future_that_panics_when_it_is_dropped_frees_its_call() {
    is_survived(Bug::PanicsWhenDropped).await;
}
