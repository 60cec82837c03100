//! Settings of a publisher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use google_cloud_auth::credentials::Credentials;
use outbox_core::publishing::{Routing, check_limits, check_timeout};
use outbox_core::{Error, Message, PublisherCapabilities, Result};
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::link::Link;
use crate::plan::Limits;
use crate::publisher::PubSubPublisher;
use crate::routing::{Topic, is_project};

/// The service, wherever the topic is.
const SERVICE: &str = "https://pubsub.googleapis.com";
/// Tells Google what we are.
const USER_AGENT: &str = concat!("outbox-pubsub/", env!("CARGO_PKG_VERSION"));
/// A request: <https://cloud.google.com/pubsub/quotas#resource_limits>.
const MAX_MESSAGES: usize = 1_000;
const MAX_BYTES: usize = 10_000_000;
/// More requests at a time than this need more than one connection.
const MAX_IN_FLIGHT: usize = 1_000;
/// A name and a port, or an address and a port; and what stands before it in a URL, if it does.
const PLAINTEXT: &str = "http://";

enum Transport {
    /// As it was given; looked into by `build`, so that a mistake in it is an error like any other.
    Uri(String),
    /// Of an emulator, without the scheme.
    Plaintext(String),
    Ready(Box<Endpoint>),
}

/// Builds a [`PubSubPublisher`]. Every setting has a default.
#[must_use = "a builder does nothing until it is built"]
pub struct PubSubPublisherBuilder {
    credentials: Credentials,
    transport: Transport,
    project: Option<String>,
    routing: Routing<Topic>,
    ordering_keys: bool,
    requests_in_flight: usize,
    connect_timeout: Duration,
    call_timeout: Duration,
    max_request_messages: usize,
    max_request_bytes: usize,
    max_batch_messages: usize,
    max_batch_bytes: usize,
}

impl fmt::Debug for PubSubPublisherBuilder {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubPublisherBuilder")
            .field("project", &self.project)
            .field("routing", &self.routing)
            .field("ordering_keys", &self.ordering_keys)
            .field("requests_in_flight", &self.requests_in_flight)
            .field("connect_timeout", &self.connect_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("max_request_messages", &self.max_request_messages)
            .field("max_request_bytes", &self.max_request_bytes)
            .field("max_batch_messages", &self.max_batch_messages)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .finish_non_exhaustive()
    }
}

impl PubSubPublisherBuilder {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            transport: Transport::Uri(SERVICE.to_owned()),
            project: None,
            routing: Routing::default(),
            ordering_keys: true,
            requests_in_flight: 32,
            connect_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_secs(8),
            max_request_messages: MAX_MESSAGES,
            max_request_bytes: MAX_BYTES,
            max_batch_messages: MAX_MESSAGES,
            max_batch_bytes: 8 << 20,
        }
    }

    pub(crate) fn of_emulator(host: &str) -> Self {
        let credentials = google_cloud_auth::credentials::anonymous::Builder::new().build();
        let host = host.strip_prefix(PLAINTEXT).unwrap_or(host).trim_end_matches('/').to_owned();
        Self { transport: Transport::Plaintext(host), ..Self::new(credentials) }
    }

    /// Sets the URL of the service, such as `https://europe-west1-pubsub.googleapis.com` for
    /// [one region](https://cloud.google.com/pubsub/docs/reference/service_apis_overview). It must be
    /// `https`, since a token goes with every request; for an emulator see [`PubSubPublisher::emulator_builder`].
    /// Default: `https://pubsub.googleapis.com`.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.transport = Transport::Uri(url.into());
        self
    }

    /// Sets the transport as a whole: URL, TLS with a client certificate or an authority of your own, proxies, HTTP/2.
    /// Goes in place of [`endpoint`](Self::endpoint) and [`connect_timeout`](Self::connect_timeout).
    pub fn transport(mut self, endpoint: Endpoint) -> Self {
        self.transport = Transport::Ready(Box::new(endpoint));
        self
    }

    /// Sets the project of topics that are known by their ids. Default: none, and topics have full names.
    pub fn project(mut self, project: impl Into<String>) -> Self {
        self.project = Some(project.into());
        self
    }

    /// Sends one topic of the outbox to a topic of Pub/Sub. Goes before [`route_with`](Self::route_with).
    pub fn route(mut self, topic: impl Into<String>, to: Topic) -> Self {
        self.routing.table.insert(topic.into(), to);
        self
    }

    /// Sets a closure that gives the topic of a message. It is called for every attempt, and must be quick and not panic.
    /// Default: none, and a message's topic is an id or a full name.
    pub fn route_with(mut self, rule: impl Fn(&Message) -> Topic + Send + Sync + 'static) -> Self {
        self.routing.rule = Some(Arc::new(rule));
        self
    }

    /// Sets whether a message's key is sent as ordering key. Default: `true`.
    ///
    /// `false` is for topics whose subscriptions have no message ordering: requests then hold messages of many keys and
    /// so are fuller, and the key travels in an attribute. The messages of a key are still published one after the other,
    /// but what Pub/Sub delivers has no order.
    pub fn ordering_keys(mut self, on: bool) -> Self {
        self.ordering_keys = on;
        self
    }

    /// Sets how many requests of one [`publish`](outbox_core::Publisher::publish) call are on their way at once. With
    /// ordering keys each key has a request of its own. A relay makes several calls at once. Default: 32. 1 to 1000.
    pub fn requests_in_flight(mut self, requests: usize) -> Self {
        self.requests_in_flight = requests;
        self
    }

    /// Sets how long connecting may take. Default: 4 seconds.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets how long one call may take in all, with getting a token and connecting. After that the outcome of what was
    /// sent is unknown, and what was not yet sent is not. Default: 8 seconds, less than the 10 a relay allows by default,
    /// so that the relay hears what is known; a relay starts no call that its lease would not outlast.
    ///
    /// Nothing is sent twice within a call, so this is the limit of retries as well.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit;
        self
    }

    /// Sets the most messages of one request. Default: 1000, which is
    /// [the most of Pub/Sub](https://cloud.google.com/pubsub/quotas#resource_limits).
    pub fn max_request_messages(mut self, messages: usize) -> Self {
        self.max_request_messages = messages;
        self
    }

    /// Sets the most bytes of one request, as it is on the wire. A message that does not fit into a request alone is
    /// refused before it is sent. Default: 10 000 000, which is
    /// [the most of Pub/Sub](https://cloud.google.com/pubsub/quotas#resource_limits).
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Sets the most messages of one call, which makes as many requests of it as it takes. Default: 1000.
    pub fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = messages;
        self
    }

    /// Sets the most bytes of one call. Default: 8 MiB.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// Checks the settings. Nothing is connected yet; see [`PubSubPublisher::connect`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) for a limit out of bounds, a URL that cannot be understood
    /// or is not `https`, or a project or topic that no project or topic can be called.
    pub fn build(self) -> Result<PubSubPublisher> {
        self.check()?;
        let endpoint = self.endpoint_of_transport()?;
        Ok(PubSubPublisher {
            link: Link::new(endpoint),
            credentials: self.credentials,
            project: self.project,
            routing: self.routing,
            ordering_keys: self.ordering_keys,
            limits: Limits { messages: self.max_request_messages, bytes: self.max_request_bytes },
            requests_in_flight: self.requests_in_flight,
            call_timeout: self.call_timeout,
            // One after the other where there is no ordering key: then nothing stops what is behind a failure.
            capabilities: PublisherCapabilities::default()
                .ordered_batches(self.ordering_keys)
                .max_batch_messages(self.max_batch_messages)
                .max_batch_bytes(self.max_batch_bytes)
                .max_message_bytes(Some(self.max_request_bytes)),
        })
    }

    fn endpoint_of_transport(&self) -> Result<Endpoint> {
        let impossible = || {
            Error::config(
                "the endpoint cannot be understood; expected https://pubsub.googleapis.com or the like",
            )
        };
        let (endpoint, tls) = match &self.transport {
            Transport::Ready(endpoint) => return Ok((**endpoint).clone()),
            Transport::Plaintext(host) => {
                let endpoint = Endpoint::from_shared(format!("{PLAINTEXT}{host}")).map_err(|_| {
                    Error::config("the emulator is a host and a port, such as localhost:8085")
                })?;
                (endpoint, false)
            }
            Transport::Uri(url) => {
                if url.starts_with(PLAINTEXT) {
                    return Err(Error::config(
                        "the endpoint must be https, since a token goes with every request; emulator_builder is for \
                         emulators",
                    ));
                }
                if !url.starts_with("https://") {
                    return Err(impossible());
                }
                (Endpoint::from_shared(url.clone()).map_err(|_| impossible())?, true)
            }
        };
        let endpoint = endpoint.user_agent(USER_AGENT).map_err(|_| impossible())?;
        let endpoint = endpoint.connect_timeout(self.connect_timeout).tcp_nodelay(true);
        if !tls {
            return Ok(endpoint);
        }
        endpoint
            .tls_config(ClientTlsConfig::new().with_native_roots())
            .map_err(|source| Error::config("TLS cannot be set up").with_source(source))
    }

    fn check(&self) -> Result<()> {
        let limits = [
            ("requests_in_flight", self.requests_in_flight, MAX_IN_FLIGHT),
            ("max_request_messages", self.max_request_messages, MAX_MESSAGES),
            ("max_request_bytes", self.max_request_bytes, MAX_BYTES),
            ("max_batch_messages", self.max_batch_messages, usize::MAX),
            ("max_batch_bytes", self.max_batch_bytes, usize::MAX),
        ];
        check_limits(&limits)?;
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("call_timeout", self.call_timeout)?;
        let project = self.project.as_deref();
        if let Some(project) = project.filter(|project| !is_project(project)) {
            return Err(Error::config("no project can have this id").with("project", project));
        }
        for topic in self.routing.destinations() {
            topic
                .resolve(project)
                .map_err(|source| Error::config("a route leads nowhere").with_source(source))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
