//! RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_amqp::lapin::tcp::OwnedTLSConfig;
use outbox_amqp::{AmqpPublisher, AmqpPublisherBuilder, Binding, Exchange, Queue, Route};
use outbox_core::{Finding, Publisher, Result};
use url::Url;

use super::{Broker, PublisherSettings, TIME};
use crate::config::{Secret, Section};

struct Amqp {
    url: Url,
    certificates: Option<String>,
    settings: Settings,
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
    exchanges: Vec<Exchange>,
    queues: Vec<Queue>,
    bindings: Vec<Binding>,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    let url = section.url("amqp://user@host:5672/vhost");
    let password = section.secret("password");
    let certificates = section.any_text("ca_file").and_then(|path| match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            section.fault_in("ca_file", format!("the file {path} cannot be read: {error}"));
            None
        }
    });
    let short = "a string of at most 255 bytes";
    let settings = Settings {
        connection_name: section.any_text("connection_name"),
        exchange: section.text("exchange", short, |name| name.len() <= 255),
        channels: section.number("channels", 1..=256),
        heartbeat: section.duration("heartbeat", Duration::from_secs(1)..=Duration::from_secs(65_535)),
        connect_timeout: section.duration("connect_timeout", TIME),
        confirm_timeout: section.duration("confirm_timeout", TIME),
        max_message_bytes: section.bytes("max_message_bytes"),
        max_batch_messages: section.number("max_batch_messages", 1..=i64::MAX),
        max_batch_bytes: section.bytes("max_batch_bytes"),
        topics: topics(&section.section("topics")),
        exchanges: section.sections("exchanges").into_iter().filter_map(exchange).collect(),
        queues: section.sections("queues").into_iter().filter_map(queue).collect(),
        bindings: section.sections("bindings").into_iter().filter_map(binding).collect(),
    };
    let Some(url) = parse(&url?, password.as_ref()) else {
        section.fault_in(
            section.way("url"),
            "is invalid; expected amqp://user:password@host:5672/vhost or amqps://…",
        );
        return None;
    };
    let amqp = Amqp { url, certificates, settings };
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

fn topics(section: &Section<'_>) -> Vec<(String, Route)> {
    let mut topics = Vec::new();
    for topic in section.names() {
        let route = section.section(topic);
        let short = "a string of at most 255 bytes";
        let exchange = route.text("exchange", short, |name| name.len() <= 255).unwrap_or_default();
        // As without a route of its own.
        let key = route.text("routing_key", short, |name| name.len() <= 255);
        topics.push((topic.to_owned(), Route::new(exchange, key.unwrap_or_else(|| topic.to_owned()))));
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
        let Settings { connection_name, topics, exchanges, queues, bindings, .. } = settings;
        let mut builder = AmqpPublisher::builder(self.url.as_str());
        set!(builder: exchange channels heartbeat connect_timeout confirm_timeout);
        set!(builder: max_message_bytes max_batch_messages max_batch_bytes connection_name);
        if let Some(chain) = &self.certificates {
            builder = builder.tls(OwnedTLSConfig { identity: None, cert_chain: Some(chain.clone()) });
        }
        builder = topics.into_iter().fold(builder, |builder, (topic, route)| builder.route(topic, route));
        builder = exchanges.into_iter().fold(builder, AmqpPublisherBuilder::declare_exchange);
        builder = queues.into_iter().fold(builder, AmqpPublisherBuilder::declare_queue);
        bindings.into_iter().fold(builder, AmqpPublisherBuilder::bind_queue)
    }
}

#[async_trait]
impl PublisherSettings for Amqp {
    fn place(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().unwrap_or(if self.url.scheme() == "amqps" { 5671 } else { 5672 });
        let vhost = match self.url.path().trim_start_matches('/') {
            "" => "/",
            vhost => vhost,
        };
        format!("{} at {host}:{port}, virtual host {vhost}", self.url.scheme())
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        Ok(Box::new(Open(Arc::new(self.builder().build()?))))
    }
}

struct Open(Arc<AmqpPublisher>);

#[async_trait]
impl Broker for Open {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.0.clone()
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.0.check().await?;
        Ok(Vec::new())
    }
}
