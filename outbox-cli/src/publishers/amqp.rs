//! RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_amqp::lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use outbox_amqp::{AmqpPublisher, AmqpPublisherBuilder, Binding, Exchange, Queue, Route};
use outbox_core::{Finding, Publisher, Result};
use url::Url;

use super::{Broker, PublisherSettings, TIME};
use crate::config::{Secret, Section};

struct Amqp {
    /// At least one.
    urls: Vec<Url>,
    certificates: Certificates,
    settings: Settings,
}

/// What the files named in the settings hold.
struct Certificates {
    authorities: Option<String>,
    /// A certificate with its private key.
    identity: Option<(String, String)>,
}

/// What a builder is told. It cannot be copied itself.
#[derive(Clone, Default)]
struct Settings {
    connection_name: Option<String>,
    exchange: Option<String>,
    channels: Option<usize>,
    heartbeat: Option<Duration>,
    connect_timeout: Option<Duration>,
    confirm_timeout: Option<Duration>,
    max_message_bytes: Option<usize>,
    max_batch_messages: Option<usize>,
    max_batch_bytes: Option<usize>,
    topics: Vec<(String, Route)>,
    not_mandatory: Vec<String>,
    exchanges: Vec<Exchange>,
    queues: Vec<Queue>,
    bindings: Vec<Binding>,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    let urls = section.urls("amqp://user@host:5672/vhost");
    let password = section.secret("password");
    let certificates = Certificates {
        authorities: section.authorities("ca_file"),
        identity: section.identity("client_certificate_file", "client_key_file"),
    };
    let short = "a string of at most 255 bytes";
    let exchange_name = section.text("exchange", short, |name| name.len() <= 255);
    let settings = Settings {
        connection_name: section.any_text("connection_name"),
        topics: topics(&section.section("topics"), exchange_name.as_deref().unwrap_or_default()),
        exchange: exchange_name,
        not_mandatory: section.texts("not_mandatory"),
        channels: section.number("channels", 1..=256),
        heartbeat: section.duration("heartbeat", Duration::from_secs(1)..=Duration::from_secs(65_535)),
        connect_timeout: section.duration("connect_timeout", TIME),
        confirm_timeout: section.duration("confirm_timeout", TIME),
        max_message_bytes: section.bytes("max_message_bytes"),
        max_batch_messages: section.number("max_batch_messages", 1..=i64::MAX),
        max_batch_bytes: section.bytes("max_batch_bytes"),
        exchanges: section.sections("exchanges").into_iter().filter_map(exchange).collect(),
        queues: section.sections("queues").into_iter().filter_map(queue).collect(),
        bindings: section.sections("bindings").into_iter().filter_map(binding).collect(),
    };
    let way = ["urls", "urls_env", "urls_file"].into_iter().find(|way| section.has(way));
    let mut parsed = Vec::new();
    for url in urls? {
        let Some(url) = parse(&url, password.as_ref()) else {
            section.fault_in(
                way.unwrap_or_else(|| section.way("url")),
                "is invalid; expected amqp://user:password@host:5672/vhost or amqps://…",
            );
            return None;
        };
        parsed.push(url);
    }
    if parsed.iter().any(|url| url.scheme() == "amqp") {
        let Certificates { authorities, identity } = &certificates;
        let idle = authorities.iter().map(|_| "ca_file");
        let idle: Vec<_> = idle.chain(identity.iter().map(|_| "client_certificate_file")).collect();
        for name in &idle {
            section.fault_in(
                name,
                "has no effect on an amqp:// URL, whose connection is not encrypted; write amqps://",
            );
        }
        if !idle.is_empty() {
            return None;
        }
    }
    let amqp = Amqp { urls: parsed, certificates, settings };
    if let Err(error) = amqp.builder().build() {
        section.blame(&error);
        return None;
    }
    Some(Arc::new(amqp))
}

fn parse(url: &Secret, password: Option<&Secret>) -> Option<Url> {
    let mut url = Url::parse(url.reveal()).ok()?;
    if !["amqp", "amqps"].contains(&url.scheme()) || !url.has_host() {
        return None;
    }
    if let Some(password) = password {
        url.set_password(Some(password.reveal())).ok()?;
    }
    Some(url)
}

/// What is said of topics. What a rule does not set is as without it.
fn topics(section: &Section<'_>, exchange: &str) -> Vec<(String, Route)> {
    let mut topics = Vec::new();
    for topic in section.names() {
        let route = section.section(topic);
        let short = "a string of at most 255 bytes";
        let own = route.text("exchange", short, |name| name.len() <= 255);
        let key = route.text("routing_key", short, |name| name.len() <= 255);
        let mandatory = route.truth("mandatory").unwrap_or(true);
        let destination =
            Route::new(own.unwrap_or_else(|| exchange.to_owned()), key.unwrap_or_else(|| topic.to_owned()));
        topics.push((topic.to_owned(), destination.mandatory(mandatory)));
        route.finish();
    }
    topics
}

/// A name that has to be there.
fn required(section: &Section<'_>, name: &str) -> Option<String> {
    if !section.has(name) {
        section.fault(format!("{name} is missing"));
    }
    section.text(name, "a string of 1 to 255 bytes", |text| (1..=255).contains(&text.len()))
}

fn exchange(section: Section<'_>) -> Option<Exchange> {
    let (name, kind) = (required(&section, "name"), required(&section, "type"));
    let durable = section.truth("durable").unwrap_or(true);
    section.finish();
    Some(Exchange::new(name?, kind?).durable(durable))
}

fn queue(section: Section<'_>) -> Option<Queue> {
    let name = required(&section, "name");
    let quorum = section.choice("type", &[("quorum", true), ("classic", false)]);
    if quorum.is_none() && !section.has("type") {
        section.fault("type is missing; \"quorum\" is replicated over a cluster, \"classic\" is on one node");
    }
    section.finish();
    let name = name?;
    Some(if quorum? { Queue::quorum(name) } else { Queue::classic(name) })
}

fn binding(section: Section<'_>) -> Option<Binding> {
    let (exchange, queue) = (required(&section, "exchange"), required(&section, "queue"));
    let key = section.text("routing_key", "a string of at most 255 bytes", |text| text.len() <= 255);
    section.finish();
    Some(Binding::new(exchange?, queue?, key.unwrap_or_default()))
}

impl Amqp {
    fn builder(&self) -> AmqpPublisherBuilder {
        let settings = self.settings.clone();
        let Settings { exchange, channels, heartbeat, connect_timeout, confirm_timeout, .. } = settings;
        let Settings { max_message_bytes, max_batch_messages, max_batch_bytes, .. } = settings;
        let Settings { connection_name, topics, not_mandatory, exchanges, queues, bindings, .. } = settings;
        let (first, others) =
            self.urls.split_first().map_or(("", &[][..]), |(url, urls)| (url.as_str(), urls));
        let mut builder = AmqpPublisher::builder(first);
        builder = others.iter().fold(builder, |builder, url| builder.node(url.as_str()));
        set!(builder: exchange channels heartbeat connect_timeout confirm_timeout);
        set!(builder: max_message_bytes max_batch_messages max_batch_bytes connection_name);
        let Certificates { authorities, identity } = &self.certificates;
        if authorities.is_some() || identity.is_some() {
            let identity = identity.as_ref().map(|(certificate, key)| OwnedIdentity::PKCS8 {
                pem: certificate.clone().into_bytes(),
                key: key.clone().into_bytes(),
            });
            builder = builder.tls(OwnedTLSConfig { identity, cert_chain: authorities.clone() });
        }
        builder = not_mandatory.into_iter().fold(builder, AmqpPublisherBuilder::not_mandatory);
        builder = topics.into_iter().fold(builder, |builder, (topic, route)| builder.route(topic, route));
        builder = exchanges.into_iter().fold(builder, AmqpPublisherBuilder::declare_exchange);
        builder = queues.into_iter().fold(builder, AmqpPublisherBuilder::declare_queue);
        bindings.into_iter().fold(builder, AmqpPublisherBuilder::bind_queue)
    }
}

#[async_trait]
impl PublisherSettings for Amqp {
    fn place(&self) -> String {
        let mut nodes: Vec<String> = self.urls.iter().map(node).collect();
        nodes.dedup();
        let scheme = self.urls.first().map_or("amqp", Url::scheme);
        let mut vhosts: Vec<&str> = self.urls.iter().map(vhost).collect();
        vhosts.dedup();
        format!("{scheme} at {}, virtual host {}", nodes.join(", "), vhosts.join(", "))
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        let topics = self.settings.topics.iter().filter(|(_, route)| !route.mandatory);
        let exchanges = self.settings.not_mandatory.iter();
        let not_mandatory = exchanges
            .map(|name| format!("exchange {name}"))
            .chain(topics.map(|(topic, _)| format!("topic {topic}")))
            .collect();
        Ok(Box::new(Open { publisher: Arc::new(self.builder().build()?), not_mandatory }))
    }
}

fn node(url: &Url) -> String {
    let port = url.port().unwrap_or(if url.scheme() == "amqps" { 5671 } else { 5672 });
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

fn vhost(url: &Url) -> &str {
    match url.path().trim_start_matches('/') {
        "" => "/",
        vhost => vhost,
    }
}

struct Open {
    publisher: Arc<AmqpPublisher>,
    /// Exchanges and topics without the `mandatory` flag.
    not_mandatory: Vec<String>,
}

#[async_trait]
impl Broker for Open {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.publisher.clone()
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.publisher.check().await?;
        if self.not_mandatory.is_empty() {
            return Ok(Vec::new());
        }
        let seen = format!("not mandatory: {}", self.not_mandatory.join(", "));
        let advice = "a message that no queue takes counts as delivered and is lost; make sure that what routes these \
            messages has a queue for each of them";
        Ok(vec![Finding::warning("routing", seen, advice)])
    }
}
