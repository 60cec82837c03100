//! The publisher in memory, with every call delayed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
use outbox_core::memory::MemoryPublisher;
use outbox_core::{Message, Options, Outcome, Publisher, PublisherCapabilities, Result};

use crate::pace::Pace;
use crate::support::PublisherMemoryHarness;

/// Longer than all delays of a case together. It passes on a paused clock.
const DEADLINE: Duration = Duration::from_secs(3600);

pub(crate) struct SlowHarness {
    inner: PublisherMemoryHarness,
    pace: Arc<Pace>,
}

impl SlowHarness {
    pub(crate) fn new(pace: Arc<Pace>) -> Self {
        let for_publishers = pace.clone();
        let inner = PublisherMemoryHarness::new(Arc::new(move || {
            let pace = for_publishers.clone();
            Box::new(move |inner| Arc::new(SlowPublisher { inner, pace: pace.clone() }))
        }));
        Self { inner, pace }
    }
}

#[async_trait]
impl PublisherHarness for SlowHarness {
    async fn create(&self) -> Result<Box<dyn PublisherFixture>> {
        let inner = self.inner.create().await?;
        Ok(Box::new(SlowFixture { inner, pace: self.pace.clone() }))
    }
}

struct SlowFixture {
    inner: Box<dyn PublisherFixture>,
    pace: Arc<Pace>,
}

#[async_trait]
impl PublisherFixture for SlowFixture {
    fn traits(&self) -> PublisherTraits {
        self.inner.traits().deadline(DEADLINE)
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        self.pace.step().await;
        self.inner.publisher().await
    }

    fn topic(&self) -> String {
        self.inner.topic()
    }

    async fn received(&self, at_least: usize, within: Duration) -> Result<Vec<Received>> {
        self.pace.step().await;
        let received = self.inner.received(at_least, within).await;
        self.pace.step().await;
        received
    }

    fn unroutable_topic(&self) -> Option<String> {
        self.inner.unroutable_topic()
    }

    fn oversized_payload(&self) -> Option<usize> {
        self.inner.oversized_payload()
    }

    fn invalid_options(&self) -> Option<Options> {
        self.inner.invalid_options()
    }

    fn visible_options(&self) -> Option<(Options, BTreeMap<String, String>)> {
        self.inner.visible_options()
    }

    fn faults(&self) -> &[Fault] {
        self.inner.faults()
    }

    async fn inject(&self, fault: Fault) -> Result<()> {
        self.pace.step().await;
        self.inner.inject(fault).await?;
        self.pace.step().await;
        Ok(())
    }

    async fn heal(&self) -> Result<()> {
        self.pace.step().await;
        self.inner.heal().await?;
        self.pace.step().await;
        Ok(())
    }
}

struct SlowPublisher {
    inner: MemoryPublisher,
    pace: Arc<Pace>,
}

#[async_trait]
impl Publisher for SlowPublisher {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        self.pace.step().await;
        let outcomes = self.inner.publish(batch).await;
        self.pace.step().await;
        outcomes
    }

    async fn close(&self) {
        self.pace.step().await;
        self.inner.close().await;
        self.pace.step().await;
    }
}
