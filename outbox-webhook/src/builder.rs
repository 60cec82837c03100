//! Settings of a publisher.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::publishing::{Routing, check_limits, check_timeout};
use outbox_core::{Error, Message, PublisherCapabilities, Result};

use crate::client::{Client, Times};
use crate::connector::Connector;
use crate::destination::Destinations;
use crate::endpoint::{Endpoint, MessageUrls};
use crate::network::{Guard, Network};
use crate::publisher::WebhookPublisher;
use crate::resolve::{Resolve, System};
use crate::tls::Certificates;

/// The name of the endpoint of [`WebhookPublisherBuilder::default_endpoint`].
const DEFAULT: &str = "default";
/// A process may open some thousand connections, and a relay makes several calls at once.
const MAX_IN_FLIGHT: usize = 256;

/// Builds a [`WebhookPublisher`].
#[must_use = "a builder does nothing until it is built"]
pub struct WebhookPublisherBuilder {
    endpoints: Vec<(String, Endpoint)>,
    routing: Routing<String>,
    message_urls: Option<MessageUrls>,
    allowed_networks: Vec<Network>,
    resolver: Arc<dyn Resolve>,
    certificates: Certificates,
    requests_in_flight: usize,
    connect_timeout: Duration,
    call_timeout: Duration,
    idle_timeout: Duration,
    max_message_bytes: usize,
    max_batch_messages: Option<usize>,
    max_batch_bytes: usize,
}

impl fmt::Debug for WebhookPublisherBuilder {
    /// Without URLs, secrets, header values and keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookPublisherBuilder")
            .field("endpoints", &self.endpoints)
            .field("routing", &self.routing)
            .field("message_urls", &self.message_urls)
            .field("allowed_networks", &self.allowed_networks)
            .field("authorities", &self.certificates.authorities.len())
            .field("client_certificate", &self.certificates.identity.is_some())
            .field("requests_in_flight", &self.requests_in_flight)
            .field("connect_timeout", &self.connect_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("max_batch_messages", &self.max_batch_messages)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .finish_non_exhaustive()
    }
}

impl WebhookPublisherBuilder {
    pub(crate) fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            routing: Routing::default(),
            message_urls: None,
            allowed_networks: Vec::new(),
            resolver: Arc::new(System),
            certificates: Certificates::default(),
            requests_in_flight: 16,
            connect_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(4),
            max_message_bytes: 1 << 20,
            max_batch_messages: None,
            max_batch_bytes: 8 << 20,
        }
    }

    /// Adds an endpoint. Messages are sent to it whose route has this name, or whose topic is this name where there is no
    /// route. The name appears in errors and logs.
    pub fn endpoint(mut self, name: impl Into<String>, endpoint: Endpoint) -> Self {
        self.endpoints.push((name.into(), endpoint));
        self
    }

    /// Adds an endpoint called `default` for all topics without a route of their own. Default: none, and such a topic is the
    /// name of an endpoint.
    pub fn default_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.routing.default = Some(DEFAULT.to_owned());
        self.endpoint(DEFAULT, endpoint)
    }

    /// Sends the messages of one topic to the endpoint of this name. Goes before [`route_with`](Self::route_with).
    pub fn route(mut self, topic: impl Into<String>, endpoint: impl Into<String>) -> Self {
        self.routing.table.insert(topic.into(), endpoint.into());
        self
    }

    /// Sets a closure that returns the name of a message's endpoint. It is called for every attempt. It must be fast and must not
    /// panic. Default: none.
    pub fn route_with(mut self, rule: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        self.routing.rule = Some(Arc::new(rule));
        self
    }

    /// Allows messages to name the URL to which they are sent
    /// ([`WebhookOptions::url`](crate::WebhookOptions::url)). Default: not allowed, and such a message is a dead letter.
    pub fn message_urls(mut self, urls: MessageUrls) -> Self {
        self.message_urls = Some(urls);
        self
    }

    /// Allows requests to a network that is not a part of the public internet, such as `10.1.0.0/16` or `127.0.0.1`. It holds
    /// for URLs of the settings and of messages. Default: none; requests to private, link-local, shared, multicast and
    /// reserved addresses are refused.
    pub fn allow_network(mut self, network: Network) -> Self {
        self.allowed_networks.push(network);
        self
    }

    /// Sets what looks up the addresses of hosts. Default: the operating system.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// Adds certificate authorities to trust besides the platform's, as one or more certificates in PEM format. Default:
    /// none.
    pub fn authorities(mut self, pem: impl Into<String>) -> Self {
        self.certificates.authorities.push(pem.into());
        self
    }

    /// Sets the certificate that is shown to receivers which ask for one, with its chain, and its private key, both in PEM
    /// format. Default: none.
    pub fn client_certificate(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.certificates.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets how many requests of one [`publish`](outbox_core::Publisher::publish) call are in flight at once. A relay makes
    /// several calls at once, 4 by default. Default: 16. 1 to 256.
    pub fn requests_in_flight(mut self, requests: usize) -> Self {
        self.requests_in_flight = requests;
        self
    }

    /// Sets the time limit for a connection: looking up the host, connecting, and the handshake of TLS. After that, nothing
    /// was sent. Default: 4 seconds.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets the time limit for one call, and so for each of its requests, with connecting. After that, the outcome of a
    /// request in flight is unknown. Default: 8 seconds, which is below the 10 seconds of a relay
    /// ([`publish_timeout`](outbox_core::Settings::publish_timeout)). Raise both for receivers that need more time.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit;
        self
    }

    /// Sets how long an unused connection is kept. Default: 4 seconds: many servers close theirs after 5 seconds or later, and a
    /// request that meets a connection at its end has an unknown outcome.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// Sets the most bytes of a payload. Larger messages are dead letters and are not sent. Default: 1 MiB, which is what
    /// nginx accepts [by default](https://nginx.org/en/docs/http/ngx_http_core_module.html#client_max_body_size).
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Sets the most messages of one call. Default: [`requests_in_flight`](Self::requests_in_flight), so that no request
    /// waits for others.
    pub fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = Some(messages);
        self
    }

    /// Sets the most bytes of one call. Default: 8 MiB.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// Checks the settings. Nothing is connected yet; see [`WebhookPublisher::check`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if there is no endpoint and URLs of messages are not allowed; if a
    /// limit, URL, secret, header or certificate is invalid; if a route names an endpoint that does not exist; or if a URL has
    /// an address that is not allowed.
    pub fn build(self) -> Result<WebhookPublisher> {
        self.check()?;
        let guard = Arc::new(Guard { allowed: self.allowed_networks.clone() });
        let mut endpoints = HashMap::new();
        for (name, endpoint) in &self.endpoints {
            let destination = Arc::new(endpoint.destination(name, &guard)?);
            if endpoints.insert(name.clone(), destination).is_some() {
                return Err(Error::config("two endpoints have the same name").with("endpoint", name));
            }
        }
        if let Some(name) = self.routing.destinations().find(|name| !endpoints.contains_key(*name)) {
            return Err(Error::config("a route of topics names an endpoint that does not exist")
                .with("endpoint", name));
        }
        let message_urls = self.message_urls.as_ref().map(MessageUrls::checked).transpose()?;
        let encrypts = endpoints.values().any(|endpoint| endpoint.uri.scheme_str() == Some("https"));
        let tls = self.certificates.client_config(encrypts || message_urls.is_some())?;
        let connector = Connector::new(Arc::clone(&guard), self.resolver, tls, self.connect_timeout);
        let times = Times { idle_timeout: self.idle_timeout, call_timeout: self.call_timeout };
        Ok(WebhookPublisher {
            client: Client::new(connector, times),
            destinations: Destinations { routing: self.routing, endpoints, message_urls, guard },
            requests_in_flight: self.requests_in_flight,
            call_timeout: self.call_timeout,
            max_message_bytes: self.max_message_bytes,
            capabilities: PublisherCapabilities::default()
                .max_batch_messages(self.max_batch_messages.unwrap_or(self.requests_in_flight))
                .max_batch_bytes(self.max_batch_bytes)
                .max_message_bytes(Some(self.max_message_bytes)),
        })
    }

    fn check(&self) -> Result<()> {
        check_limits(&[
            ("requests_in_flight", self.requests_in_flight, MAX_IN_FLIGHT),
            ("max_message_bytes", self.max_message_bytes, usize::MAX),
            ("max_batch_messages", self.max_batch_messages.unwrap_or(1), usize::MAX),
            ("max_batch_bytes", self.max_batch_bytes, usize::MAX),
        ])?;
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("call_timeout", self.call_timeout)?;
        check_timeout("idle_timeout", self.idle_timeout)?;
        if self.endpoints.is_empty() && self.message_urls.is_none() {
            return Err(Error::config("there is no endpoint; add one with its URL, or allow message_urls"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
