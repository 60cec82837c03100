//! Google Cloud Pub/Sub.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Error, Finding, Publisher, Result};
use outbox_pubsub::google_cloud_auth::credentials::{Builder, anonymous};
use outbox_pubsub::{PubSubPublisher, PubSubPublisherBuilder, Topic};

use super::{Broker, PublisherSettings, TIME};
use crate::config::Section;

#[derive(Clone, Debug)]
struct PubSub {
    project: Option<String>,
    endpoint: Option<String>,
    emulator: Option<String>,
    topics: Vec<(String, Topic)>,
    ordering_keys: Option<bool>,
    requests_in_flight: Option<usize>,
    connect_timeout: Option<Duration>,
    call_timeout: Option<Duration>,
    max_request_messages: Option<usize>,
    max_request_bytes: Option<usize>,
    max_batch_messages: Option<usize>,
    max_batch_bytes: Option<usize>,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    let pubsub = PubSub {
        project: section.any_text("project"),
        endpoint: section.any_text("endpoint"),
        emulator: section.any_text("emulator"),
        topics: section.section("topics").named_texts(to),
        ordering_keys: section.truth("ordering_keys"),
        requests_in_flight: section.number("requests_in_flight", 1..=1_000),
        connect_timeout: section.duration("connect_timeout", TIME),
        call_timeout: section.duration("call_timeout", TIME),
        max_request_messages: section.number("max_request_messages", 1..=1_000),
        max_request_bytes: section.bytes("max_request_bytes"),
        max_batch_messages: section.number("max_batch_messages", 1..=i64::MAX),
        max_batch_bytes: section.bytes("max_batch_bytes"),
    };
    if pubsub.emulator.is_some() && pubsub.endpoint.is_some() {
        section.fault_in("endpoint", "cannot be combined with emulator; keep one of them");
        return None;
    }
    // The settings are looked into with anybody's credentials, since those of the environment take time to find.
    let builder = match &pubsub.emulator {
        Some(host) => PubSubPublisher::emulator_builder(host),
        None => PubSubPublisher::builder(anonymous::Builder::new().build()),
    };
    if let Err(error) = pubsub.publisher(builder) {
        section.blame(&error);
        return None;
    }
    Some(Arc::new(pubsub))
}

/// A topic is known by its id within the project, or by its full name.
fn to(text: String) -> Topic {
    if text.starts_with("projects/") { Topic::full(text) } else { Topic::id(text) }
}

impl PubSub {
    fn publisher(&self, mut builder: PubSubPublisherBuilder) -> Result<PubSubPublisher> {
        let Self { project, endpoint, topics, ordering_keys, requests_in_flight, .. } = self.clone();
        let Self { connect_timeout, call_timeout, max_request_messages, max_request_bytes, .. } =
            self.clone();
        let Self { max_batch_messages, max_batch_bytes, .. } = self.clone();
        set!(builder: project endpoint ordering_keys requests_in_flight connect_timeout call_timeout);
        set!(builder: max_request_messages max_request_bytes max_batch_messages max_batch_bytes);
        topics.into_iter().fold(builder, |builder, (topic, to)| builder.route(topic, to)).build()
    }
}

#[async_trait]
impl PublisherSettings for PubSub {
    fn place(&self) -> String {
        let project = self.project.as_deref().unwrap_or("of each topic");
        match self.emulator.as_ref().or(self.endpoint.as_ref()) {
            Some(endpoint) => format!("pubsub at {endpoint}, project {project}"),
            None => format!("pubsub, project {project}"),
        }
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        let builder = match &self.emulator {
            Some(host) => PubSubPublisher::emulator_builder(host),
            None => {
                let credentials = Builder::default().build().map_err(|_| {
                    // The library's text may hold parts of files of credentials.
                    Error::config(
                        "no credentials for Google were found; set GOOGLE_APPLICATION_CREDENTIALS, or run where there \
                         is a service account",
                    )
                })?;
                PubSubPublisher::builder(credentials)
            }
        };
        Ok(Box::new(Open(Arc::new(self.publisher(builder)?))))
    }
}

struct Open(Arc<PubSubPublisher>);

#[async_trait]
impl Broker for Open {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.0.clone()
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.0.check().await?;
        let unordered = self.0.unordered_subscriptions().await?;
        if unordered.is_empty() {
            return Ok(Vec::new());
        }
        let seen = format!("without message ordering: {}", unordered.join(", "));
        let advice = "their consumers see the messages of a key in any order; if that matters to them, make the \
            subscriptions anew with message ordering enabled, which cannot be changed later";
        Ok(vec![Finding::warning("subscriptions", seen, advice)])
    }
}
