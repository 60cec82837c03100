//! NATS JetStream.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Finding, Publisher, Result};
use outbox_nats::{NatsPublisher, NatsPublisherBuilder, Tls};
use url::Url;

use super::{Broker, PublisherSettings, TIME};
use crate::config::{Secret, Section};

struct Nats {
    /// At least one.
    urls: Vec<Url>,
    token: Option<Secret>,
    nkey: Option<Secret>,
    credentials: Option<Secret>,
    tls: Tls,
    settings: Settings,
}

/// The settings of a builder, which cannot be cloned.
#[derive(Clone, Default)]
struct Settings {
    connection_name: Option<String>,
    inbox_prefix: Option<String>,
    subject: Option<String>,
    topics: Vec<(String, String)>,
    expect_stream: Option<String>,
    connections: Option<usize>,
    connect_timeout: Option<Duration>,
    ack_timeout: Option<Duration>,
    max_message_bytes: Option<usize>,
    max_batch_messages: Option<usize>,
    max_batch_bytes: Option<usize>,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    let urls = section.urls("nats://user@host:4222");
    let password = section.secret("password");
    let (token, nkey) = (section.secret("token"), section.secret("nkey"));
    let credentials = section.secret("credentials");
    let mut tls = Tls::new();
    if let Some(authorities) = section.authorities("ca_file") {
        tls = tls.authorities(authorities);
    }
    if let Some((certificate, key)) = section.identity("client_certificate_file", "client_key_file") {
        tls = tls.identity(certificate, key);
    }
    let settings = Settings {
        connection_name: section.any_text("connection_name"),
        inbox_prefix: section.any_text("inbox_prefix"),
        subject: section.any_text("subject"),
        topics: section.section("topics").named_texts(|subject| subject),
        expect_stream: section.any_text("expect_stream"),
        connections: section.number("connections", 1..=64),
        connect_timeout: section.duration("connect_timeout", TIME),
        ack_timeout: section.duration("ack_timeout", TIME),
        max_message_bytes: section.bytes("max_message_bytes"),
        max_batch_messages: section.number("max_batch_messages", 1..=i64::MAX),
        max_batch_bytes: section.bytes("max_batch_bytes"),
    };
    let way = ["urls", "urls_env", "urls_file"].into_iter().find(|way| section.has(way));
    let mut parsed = Vec::new();
    for url in urls? {
        let Some(url) = parse(&url, password.as_ref()) else {
            section.fault_in(
                way.unwrap_or_else(|| section.way("url")),
                "is invalid; expected nats://host:4222, nats://user@host:4222 or tls://…, with a user if there is a password",
            );
            return None;
        };
        parsed.push(url);
    }
    let nats = Nats { urls: parsed, token, nkey, credentials, tls, settings };
    if let Err(error) = nats.builder().build() {
        section.blame(&error);
        return None;
    }
    Some(Arc::new(nats))
}

fn parse(url: &Secret, password: Option<&Secret>) -> Option<Url> {
    let mut url = Url::parse(url.reveal()).ok()?;
    if !["nats", "tls"].contains(&url.scheme()) || !url.has_host() {
        return None;
    }
    if let Some(password) = password {
        if url.username().is_empty() {
            return None;
        }
        url.set_password(Some(password.reveal())).ok()?;
    }
    Some(url)
}

impl Nats {
    fn builder(&self) -> NatsPublisherBuilder {
        let settings = self.settings.clone();
        let Settings { connection_name, inbox_prefix, subject, topics, expect_stream, .. } = settings;
        let Settings { connections, connect_timeout, ack_timeout, .. } = settings;
        let Settings { max_message_bytes, max_batch_messages, max_batch_bytes, .. } = settings;
        let (first, others) =
            self.urls.split_first().map_or(("", &[][..]), |(url, urls)| (url.as_str(), urls));
        let mut builder = NatsPublisher::builder(first).tls(self.tls.clone());
        builder = others.iter().fold(builder, |builder, url| builder.server(url.as_str()));
        let (token, nkey) = (self.token.as_ref().map(Secret::reveal), self.nkey.as_ref().map(Secret::reveal));
        let credentials = self.credentials.as_ref().map(Secret::reveal);
        set!(builder: token nkey credentials);
        set!(builder: connection_name inbox_prefix subject expect_stream connections connect_timeout ack_timeout);
        set!(builder: max_message_bytes max_batch_messages max_batch_bytes);
        topics.into_iter().fold(builder, |builder, (topic, subject)| builder.route(topic, subject))
    }
}

#[async_trait]
impl PublisherSettings for Nats {
    fn place(&self) -> String {
        let mut servers: Vec<String> = self.urls.iter().map(server).collect();
        servers.dedup();
        let scheme = self.urls.first().map_or("nats", Url::scheme);
        format!("NATS ({scheme}) at {}", servers.join(", "))
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        Ok(Box::new(Open(Arc::new(self.builder().build()?))))
    }
}

fn server(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(4222))
}

struct Open(Arc<NatsPublisher>);

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
