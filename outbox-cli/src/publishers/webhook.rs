//! Webhooks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Finding, Publisher, Result};
use outbox_webhook::{Endpoint, MessageUrls, Network, WebhookPublisher, WebhookPublisherBuilder};
use url::Url;

use super::{Broker, PublisherSettings, TIME};
use crate::config::{Secret, Section};

/// The name of the endpoint whose fields are those of the publisher's section itself.
const DEFAULT: &str = "default";
/// The ways to write a URL.
const URL: [&str; 3] = ["url", "url_env", "url_file"];

struct Webhook {
    endpoints: Vec<Receiver>,
    message_urls: Option<MessageUrls>,
    authorities: Option<String>,
    /// A certificate with its private key.
    identity: Option<(String, String)>,
    settings: Settings,
}

/// One endpoint.
struct Receiver {
    name: String,
    url: Secret,
    secrets: Vec<Secret>,
    headers: Vec<(String, Secret)>,
}

/// Settings that are not secrets.
#[derive(Clone)]
struct Settings {
    topics: Vec<(String, String)>,
    allowed_networks: Vec<Network>,
    requests_in_flight: Option<usize>,
    connect_timeout: Option<Duration>,
    call_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    max_message_bytes: Option<usize>,
    max_batch_messages: Option<usize>,
    max_batch_bytes: Option<usize>,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    // Each part is read whatever is wrong with the others, so that all faults are found at once.
    let allowed_networks = networks(section);
    let allowed = allowed_networks.as_deref().unwrap_or_default();
    let mut endpoints = Vec::new();
    let named = section.section("endpoints");
    let has_default = URL.into_iter().any(|way| section.has(way));
    // Without any other place to send messages to, it must be there.
    if has_default || (named.names().is_empty() && !section.has("message_urls")) {
        endpoints.push(receiver(section, DEFAULT, allowed));
    }
    for name in named.names() {
        let endpoint = named.section(name);
        endpoints.push(receiver(&endpoint, name, allowed));
        endpoint.finish();
    }
    let message_urls = message_urls(section);
    let settings = Settings {
        topics: section.section("topics").named_texts(|endpoint| endpoint),
        allowed_networks: allowed.to_vec(),
        requests_in_flight: section.number("requests_in_flight", 1..=256),
        connect_timeout: section.duration("connect_timeout", TIME),
        call_timeout: section.duration("call_timeout", TIME),
        idle_timeout: section.duration("idle_timeout", TIME),
        max_message_bytes: section.bytes("max_message_bytes"),
        max_batch_messages: section.number("max_batch_messages", 1..=i64::MAX),
        max_batch_bytes: section.bytes("max_batch_bytes"),
    };
    let authorities = section.authorities("ca_file");
    let identity = section.identity("client_certificate_file", "client_key_file");
    allowed_networks?;
    let endpoints = endpoints.into_iter().collect::<Option<Vec<_>>>()?;
    let webhook = Webhook { endpoints, message_urls: message_urls?, authorities, identity, settings };
    if webhook.has_idle_certificates(section) {
        return None;
    }
    if let Err(error) = webhook.builder().build() {
        section.blame(&error);
        return None;
    }
    Some(Arc::new(webhook))
}

/// The fields of an endpoint. `None` if something is wrong with them, which has been noted.
fn receiver(section: &Section<'_>, name: &str, allowed: &[Network]) -> Option<Receiver> {
    let (secrets, headers) = (secrets(section), headers(&section.section("headers")));
    let url = section.url("https://host/path")?;
    let receiver = Receiver { name: name.to_owned(), url, secrets: secrets?, headers };
    match receiver.endpoint().check(allowed) {
        Ok(()) => Some(receiver),
        Err(error) => {
            section.blame(&error);
            None
        }
    }
}

/// The current one first.
fn secrets(section: &Section<'_>) -> Option<Vec<Secret>> {
    let is_there = |name: &str| ["", "_env", "_file"].iter().any(|way| section.has(&format!("{name}{way}")));
    let mut secrets = Vec::new();
    let mut complete = true;
    for name in ["secret", "old_secret"] {
        let secret = section.secret(name);
        complete &= secret.is_some() || !is_there(name);
        secrets.extend(secret);
    }
    if complete && is_there("old_secret") && !is_there("secret") {
        section.fault("old_secret has no effect without secret, which is the new one");
        complete = false;
    }
    complete.then_some(secrets)
}

/// Headers by their names. Each value is a secret, which may be in a variable or a file.
fn headers(section: &Section<'_>) -> Vec<(String, Secret)> {
    let base =
        |name| ["_env", "_file"].into_iter().find_map(|way| str::strip_suffix(name, way)).unwrap_or(name);
    let mut names: Vec<&str> = section.names().into_iter().map(base).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter_map(|name| Some((name.to_owned(), section.secret(name)?))).collect()
}

/// Whether messages may name URLs. `None` if something is wrong, which has been noted.
fn message_urls(section: &Section<'_>) -> Option<Option<MessageUrls>> {
    let is_there = section.has("message_urls");
    let allowed = section.section("message_urls");
    let (secrets, plaintext) = (secrets(&allowed), allowed.truth("plaintext").unwrap_or(false));
    let urls = secrets.map(|secrets| {
        let urls = MessageUrls::new().plaintext(plaintext);
        secrets.iter().fold(urls, |urls, secret| urls.secret(secret.reveal()))
    });
    let checked = urls.filter(|urls| match urls.check() {
        Ok(()) => true,
        Err(error) => {
            allowed.blame(&error);
            false
        }
    });
    allowed.finish();
    checked.map(|urls| is_there.then_some(urls))
}

fn networks(section: &Section<'_>) -> Option<Vec<Network>> {
    let parsed: Result<Vec<Network>> =
        section.texts("allowed_networks").iter().map(|text| text.parse()).collect();
    match parsed {
        Ok(networks) => Some(networks),
        Err(error) => {
            section.fault_in("allowed_networks", error.report());
            None
        }
    }
}

impl Receiver {
    fn endpoint(&self) -> Endpoint {
        let endpoint = Endpoint::new(self.url.reveal());
        let endpoint =
            self.secrets.iter().fold(endpoint, |endpoint, secret| endpoint.secret(secret.reveal()));
        let headers = self.headers.iter();
        headers.fold(endpoint, |endpoint, (name, value)| endpoint.header(name, value.reveal()))
    }

    fn is_encrypted(&self) -> bool {
        Url::parse(self.url.reveal()).is_ok_and(|url| url.scheme() == "https")
    }
}

impl Webhook {
    fn builder(&self) -> WebhookPublisherBuilder {
        let mut builder = WebhookPublisher::builder();
        for receiver in &self.endpoints {
            builder = match &*receiver.name {
                DEFAULT => builder.default_endpoint(receiver.endpoint()),
                name => builder.endpoint(name, receiver.endpoint()),
            };
        }
        if let Some(urls) = &self.message_urls {
            builder = builder.message_urls(urls.clone());
        }
        if let Some(pem) = &self.authorities {
            builder = builder.authorities(pem);
        }
        if let Some((certificate, key)) = &self.identity {
            builder = builder.client_certificate(certificate, key);
        }
        let Settings { topics, allowed_networks, requests_in_flight, connect_timeout, .. } =
            self.settings.clone();
        let Settings { call_timeout, idle_timeout, max_message_bytes, .. } = self.settings;
        let Settings { max_batch_messages, max_batch_bytes, .. } = self.settings;
        set!(builder: requests_in_flight connect_timeout call_timeout idle_timeout);
        set!(builder: max_message_bytes max_batch_messages max_batch_bytes);
        builder = allowed_networks.into_iter().fold(builder, WebhookPublisherBuilder::allow_network);
        topics.into_iter().fold(builder, |builder, (topic, endpoint)| builder.route(topic, endpoint))
    }

    /// Whether certificates are named that no connection uses, which is noted.
    fn has_idle_certificates(&self, section: &Section<'_>) -> bool {
        if self.message_urls.is_some() || self.endpoints.iter().any(Receiver::is_encrypted) {
            return false;
        }
        let authorities = self.authorities.iter().map(|_| "ca_file");
        let idle: Vec<_> =
            authorities.chain(self.identity.iter().map(|_| "client_certificate_file")).collect();
        for name in &idle {
            section.fault_in(
                name,
                "has no effect on http:// URLs, whose connections are not encrypted; write https://",
            );
        }
        !idle.is_empty()
    }

    /// Endpoints to which requests go without encryption, or without a signature.
    fn weak(&self) -> Vec<Finding> {
        let named = |is_weak: &dyn Fn(&Receiver) -> bool| {
            let names =
                self.endpoints.iter().filter(|endpoint| is_weak(endpoint)).map(|endpoint| &*endpoint.name);
            names.collect::<Vec<_>>().join(", ")
        };
        let plain = named(&|endpoint| !endpoint.is_encrypted());
        let unsigned = named(&|endpoint| endpoint.secrets.is_empty() && endpoint.headers.is_empty());
        let mut findings = Vec::new();
        if !plain.is_empty() {
            findings.push(Finding::warning(
                "encryption",
                format!("requests are not encrypted: {plain}"),
                "messages can be read and changed on the way; use https:// URLs",
            ));
        }
        if !unsigned.is_empty() {
            findings.push(Finding::warning(
                "signatures",
                format!("neither a secret nor headers: {unsigned}"),
                "the receiver cannot tell these requests from those of others; set a secret",
            ));
        }
        findings
    }
}

#[async_trait]
impl PublisherSettings for Webhook {
    fn place(&self) -> String {
        let mut hosts: Vec<String> = self
            .endpoints
            .iter()
            .filter_map(|endpoint| Url::parse(endpoint.url.reveal()).ok())
            .map(|url| match (url.host_str().unwrap_or_default(), url.port()) {
                (host, Some(port)) => format!("{host}:{port}"),
                (host, None) => host.to_owned(),
            })
            .collect();
        hosts.sort();
        hosts.dedup();
        if self.message_urls.is_some() {
            hosts.push("URLs of messages".to_owned());
        }
        format!("webhook to {}", hosts.join(", "))
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        Ok(Box::new(Open { publisher: Arc::new(self.builder().build()?), weak: self.weak() }))
    }
}

struct Open {
    publisher: Arc<WebhookPublisher>,
    weak: Vec<Finding>,
}

#[async_trait]
impl Broker for Open {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.publisher.clone()
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.publisher.check().await?;
        Ok(self.weak.clone())
    }
}
