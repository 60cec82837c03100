//! The publisher: makes requests of a batch, runs some at a time, and collects the outcomes.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use google_cloud_auth::credentials::{CacheableResource, Credentials};
use outbox_core::publishing::{Routing, answered};
use outbox_core::{Error, ErrorKind, Message, Outcome, Publisher, PublisherCapabilities, Result};
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;

use crate::NAME;
use crate::builder::PubSubPublisherBuilder;
use crate::call::Call;
use crate::check::Looker;
use crate::link::Link;
use crate::outgoing::{Outgoing, Rules};
use crate::plan::{Limits, plan};
use crate::routing::Topic;
use crate::verdict::Failure;

/// Where Google's tools say that there is an emulator.
const EMULATOR: &str = "PUBSUB_EMULATOR_HOST";

/// Publishes to Google Cloud Pub/Sub.
///
/// It connects when it is first used and again after a failure, and runs on tokio. Cheap to share behind an
/// [`Arc`](std::sync::Arc); dropping it closes the connection.
///
/// # Cancel safety
/// When a [`publish`](Publisher::publish) future is dropped, none of its messages will begin to be sent. Requests that
/// are on their way are cancelled, and the service may have taken them.
pub struct PubSubPublisher {
    pub(crate) link: Link,
    pub(crate) credentials: Credentials,
    pub(crate) project: Option<String>,
    pub(crate) routing: Routing<Topic>,
    pub(crate) ordering_keys: bool,
    pub(crate) limits: Limits,
    pub(crate) requests_in_flight: usize,
    pub(crate) call_timeout: Duration,
    pub(crate) capabilities: PublisherCapabilities,
}

impl fmt::Debug for PubSubPublisher {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubPublisher")
            .field("link", &self.link)
            .field("project", &self.project)
            .field("routing", &self.routing)
            .field("ordering_keys", &self.ordering_keys)
            .field("limits", &self.limits)
            .field("requests_in_flight", &self.requests_in_flight)
            .field("call_timeout", &self.call_timeout)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl PubSubPublisher {
    /// Starts a publisher with these credentials, made by
    /// [`google_cloud_auth`](crate::google_cloud_auth::credentials).
    pub fn builder(credentials: Credentials) -> PubSubPublisherBuilder {
        PubSubPublisherBuilder::new(credentials)
    }

    /// Starts a publisher for an emulator at `host`, such as `localhost:8085`: without encryption, and without
    /// credentials.
    pub fn emulator_builder(host: &str) -> PubSubPublisherBuilder {
        PubSubPublisherBuilder::of_emulator(host)
    }

    /// Starts a publisher for the emulator that the environment variable `PUBSUB_EMULATOR_HOST` names. Nothing else in
    /// this crate reads the environment.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the variable is not set.
    pub fn builder_from_emulator_env() -> Result<PubSubPublisherBuilder> {
        match std::env::var(EMULATOR) {
            Ok(host) if !host.is_empty() => Ok(Self::emulator_builder(&host)),
            _ => Err(Error::config("the environment variable PUBSUB_EMULATOR_HOST names no emulator")),
        }
    }

    /// Gets a token and connects now, instead of with the first call: for a service that wants to learn at its start
    /// whether its settings are right. Whether the topics exist does not show.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] and [`ErrorKind::Permission`], both with
    /// [`Scope::Endpoint`](outbox_core::Scope::Endpoint).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn connect(&self) -> Result<()> {
        let deadline = Instant::now() + self.call_timeout;
        self.headers(deadline).await.map_err(|failure| failure.to_error())?;
        match timeout_at(deadline, self.link.connect()).await {
            Ok(connected) => connected.map_err(|source| {
                Error::new(ErrorKind::Unavailable, "Pub/Sub cannot be reached").with_source(source)
            }),
            Err(_) => {
                Err(Error::new(ErrorKind::Unavailable, "Pub/Sub cannot be reached within call_timeout"))
            }
        }
    }

    /// Looks at the topics that the settings name: whether they are there. Where the settings name none, it asks whether the
    /// service answers and knows the credentials. Nobody knows before there is a message where a closure or a topic's name
    /// leads.
    ///
    /// It needs the right `pubsub.topics.get`. Whether the credentials may publish does not show.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), or what is wrong first: [`ErrorKind::NotFound`] or [`ErrorKind::Permission`]
    /// with the name of the topic.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn check(&self) -> Result<()> {
        self.looker().await?.run(self).await
    }

    /// The full names of subscriptions that do not keep the order of keys, because they were made without message ordering:
    /// those of the topics that the settings name, as far as the credentials may look at them (which takes
    /// `pubsub.topics.get` and `pubsub.subscriptions.get`). Without ordering keys there is no order to keep, and so there
    /// are none.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn unordered_subscriptions(&self) -> Result<Vec<String>> {
        if !self.ordering_keys {
            return Ok(Vec::new());
        }
        self.looker().await?.unordered(self).await
    }

    async fn looker(&self) -> Result<Looker> {
        let deadline = Instant::now() + self.call_timeout;
        self.connect().await?;
        let headers = self.headers(deadline).await.map_err(|failure| failure.to_error())?;
        Ok(Looker::new(self.link.lease().channel, headers, deadline))
    }

    /// What shows who we are. The credentials keep their token, and get a new one in time.
    async fn headers(&self, deadline: Instant) -> Result<MetadataMap, Failure> {
        match timeout_at(deadline, self.credentials.headers(http::Extensions::new())).await {
            Ok(Ok(CacheableResource::New { data, .. })) => Ok(MetadataMap::from_headers(data)),
            // Only to be expected by those who have asked before.
            Ok(Ok(CacheableResource::NotModified)) => Err(Failure::NoCredentials { passing: true }),
            // Its text may hold answers of the authorities, and those anything.
            Ok(Err(error)) => Err(Failure::NoCredentials { passing: error.is_transient() }),
            Err(_) => Err(Failure::NoCredentials { passing: true }),
        }
    }

    /// Publishes what has passed the checks. What has no outcome afterwards was forgotten.
    async fn publish_ready(&self, ready: Vec<Outgoing>, outcomes: &mut [Option<Outcome>]) {
        let deadline = Instant::now() + self.call_timeout;
        let headers = match self.headers(deadline).await {
            Ok(headers) => headers,
            Err(failure) => {
                ready.iter().for_each(|message| outcomes[message.index] = Some(Err(failure.to_error())));
                return;
            }
        };
        let call = Call::new(&self.link, headers, deadline);
        let call = &call;
        // Made ahead, and begun by being polled: a stream of closures would not be `Send`.
        let all: Vec<_> =
            plan(ready, self.ordering_keys, self.limits).into_iter().map(|chain| call.run(chain)).collect();
        let mut running = futures_util::stream::iter(all).buffer_unordered(self.requests_in_flight);
        while let Some(answers) = running.next().await {
            for (index, outcome) in answers {
                outcomes[index] = Some(outcome);
            }
        }
    }
}

#[async_trait]
impl Publisher for PubSubPublisher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.capabilities.clone()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let rules = Rules {
            routing: &self.routing,
            project: self.project.as_deref(),
            ordering_keys: self.ordering_keys,
            max_request_bytes: self.limits.bytes,
        };
        let mut outcomes: Vec<Option<Outcome>> = batch.iter().map(|_| None).collect();
        let mut ready = Vec::with_capacity(batch.len());
        // Keys of which nothing more may be sent.
        let mut failed = HashSet::new();
        for (index, message) in batch.iter().enumerate() {
            let key = message.key().filter(|_| self.ordering_keys);
            if key.is_some_and(|key| failed.contains(key)) {
                outcomes[index] = Some(Err(Failure::Behind.to_error()));
                continue;
            }
            match Outgoing::new(index, message, rules) {
                Ok(outgoing) => ready.push(outgoing),
                Err(error) => {
                    outcomes[index] = Some(Err(error));
                    failed.extend(key);
                }
            }
        }
        if !ready.is_empty() {
            Box::pin(self.publish_ready(ready, &mut outcomes)).await;
        }
        answered(outcomes)
    }

    async fn close(&self) {
        self.link.close();
    }
}
