//! Settings of a publisher.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::ConnectOptions;
use outbox_core::publishing::{Routing, check_limits, check_timeout};
use outbox_core::{Error, Message, PublisherCapabilities, Result};

use crate::connections::Connections;
use crate::dial::{Dialer, Login, parse};
use crate::options::is_stream_name;
use crate::publisher::NatsPublisher;
use crate::subject;
use crate::tls::Tls;

/// Every connection has a thread.
const MAX_CONNECTIONS: usize = 64;
/// The server refuses a larger `max_payload`
/// (<https://docs.nats.io/running-a-nats-service/configuration#limits>).
const MAX_PAYLOAD: usize = 64 << 20;
/// The default `max_payload` of the server.
const DEFAULT_PAYLOAD: usize = 1 << 20;
/// The reply subject stands on one line of the protocol with the subject of the message.
const MAX_INBOX_PREFIX: usize = 255;

/// Builds a [`NatsPublisher`]. Every setting but the URL has a default.
#[must_use = "a builder does nothing until it is built"]
pub struct NatsPublisherBuilder {
    urls: Vec<String>,
    /// Options of the connection, or the reason why they cannot be used.
    options: Result<ConnectOptions>,
    /// Whether a method has set the login, which takes the place of that of the URL.
    has_login: bool,
    inbox_prefix: Option<String>,
    tls: Tls,
    routing: Routing<String>,
    expected_stream: Option<String>,
    connections: usize,
    connect_timeout: Duration,
    ack_timeout: Duration,
    max_message_bytes: usize,
    max_batch_messages: usize,
    max_batch_bytes: usize,
}

impl fmt::Debug for NatsPublisherBuilder {
    /// Without URLs and options, which hold the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsPublisherBuilder")
            .field("inbox_prefix", &self.inbox_prefix)
            .field("tls", &self.tls)
            .field("routing", &self.routing)
            .field("expected_stream", &self.expected_stream)
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("ack_timeout", &self.ack_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("max_batch_messages", &self.max_batch_messages)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .finish_non_exhaustive()
    }
}

impl NatsPublisherBuilder {
    pub(crate) fn new(url: String) -> Self {
        let capabilities = PublisherCapabilities::default();
        Self {
            urls: vec![url],
            options: Ok(ConnectOptions::new().name("outbox")),
            has_login: false,
            inbox_prefix: None,
            tls: Tls::default(),
            routing: Routing::default(),
            expected_stream: None,
            connections: 4,
            connect_timeout: Duration::from_secs(4),
            ack_timeout: Duration::from_secs(8),
            max_message_bytes: DEFAULT_PAYLOAD,
            max_batch_messages: capabilities.max_batch_messages,
            max_batch_bytes: capabilities.max_batch_bytes,
        }
    }

    /// Adds another server of the same cluster. Each connection goes to one of the servers, chosen at random; if it cannot be
    /// reached, to the next one. The login of the first URL applies to all.
    pub fn server(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Logs in with this user and password. They take the place of those in the URL.
    pub fn user_and_password(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        self.with_login(|options| Ok(options.user_and_password(user, password)))
    }

    /// Logs in with this token. It takes the place of one in the URL.
    pub fn token(self, token: impl Into<String>) -> Self {
        let token = token.into();
        self.with_login(|options| Ok(options.token(token)))
    }

    /// Logs in with the key pair of this seed, which begins with `SU`.
    pub fn nkey(self, seed: impl Into<String>) -> Self {
        let seed = seed.into();
        self.with_login(|options| Ok(options.nkey(seed)))
    }

    /// Logs in with the contents of a credentials file (`.creds`), which holds a JWT and the seed of a key pair.
    pub fn credentials(self, contents: &str) -> Self {
        self.with_login(|options| {
            options.credentials(contents).map_err(|_| {
                // Nothing of the credentials belongs in an error.
                Error::config("the credentials cannot be read; expected the contents of a .creds file")
            })
        })
    }

    /// Starts from connection options of the client library, for what has no setting here, such as a callback for the login.
    /// Call it before the other settings of the connection. Time limits, TLS, reconnecting and the event callback of the
    /// options are not used: the publisher sets its own.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.options = Ok(options);
        self
    }

    /// Sets the name of the connections that the server shows. Default: `outbox`.
    pub fn connection_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.with_options(|options| Ok(options.name(name)))
    }

    /// Sets the first part of the subjects to which the server sends acknowledgements. The user must be allowed to
    /// subscribe to all subjects below it. Default: `_INBOX`.
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = Some(prefix.into());
        self
    }

    /// Sets what encrypted connections trust and show. Connections are encrypted if the URL begins with `tls://` or the server
    /// demands it. Default: the authorities of the platform, and no certificate.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Sets the subject of all topics without a [`route`](Self::route). `{topic}` in it stands for the topic:
    /// `shop.{topic}`. Default: `{topic}`.
    pub fn subject(mut self, template: impl Into<String>) -> Self {
        self.routing.default = Some(template.into());
        self
    }

    /// Sets the subject of one topic. It takes precedence over [`route_with`](Self::route_with) and
    /// [`subject`](Self::subject).
    pub fn route(mut self, topic: impl Into<String>, subject: impl Into<String>) -> Self {
        self.routing.table.insert(topic.into(), subject.into());
        self
    }

    /// Sets a closure that returns the subject of a message. It takes precedence over [`subject`](Self::subject), is called for
    /// every attempt, and must be quick and not panic.
    pub fn route_with(mut self, rule: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        self.routing.rule = Some(Arc::new(rule));
        self
    }

    /// Sets the stream that must store the messages. The server refuses a message whose subject belongs to another stream.
    /// The option `stream` of a message takes precedence. Default: any stream.
    pub fn expect_stream(mut self, name: impl Into<String>) -> Self {
        self.expected_stream = Some(name.into());
        self
    }

    /// Sets the maximum number of concurrent calls. Each has a separate connection, with a thread. A further call waits. Use the
    /// relay's `publish_concurrency`. Default: 4. 1 to 64.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the maximum time to connect, shared between all servers. Default: 4 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets the maximum time of one call, from its start to the last acknowledgement. Then the outcome of unacknowledged
    /// messages is unknown, and the connection is closed. Default: 8 s, less than the 10 s that a relay allows by default.
    pub fn ack_timeout(mut self, limit: Duration) -> Self {
        self.ack_timeout = limit;
        self
    }

    /// Sets the largest payload in bytes. Larger ones are refused before they are sent. The server counts the headers
    /// also, against its `max_payload`. Default: 1 MiB, the default of the server. At most 64 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Sets the maximum number of messages in one call. Default: 500.
    pub fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = messages;
        self
    }

    /// Sets the maximum number of bytes in one call. Default: 4 MiB.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// Checks the settings. It does not connect; see [`NatsPublisher::connect`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) for an invalid URL, subject, stream, limit, login or certificate.
    pub fn build(self) -> Result<NatsPublisher> {
        self.check()?;
        let mut servers = Vec::with_capacity(self.urls.len());
        let mut login = None;
        for url in &self.urls {
            let (server, of_url) = parse(url)?;
            servers.push(server);
            login = login.or(of_url);
        }
        let mut options = self.options?;
        if !self.has_login {
            options = match login {
                Some(Login::Password(user, password)) => options.user_and_password(user, password),
                Some(Login::Token(token)) => options.token(token),
                None => options,
            };
        }
        if let Some(prefix) = self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        let dialer = Dialer {
            servers,
            options,
            certificates: self.tls.read()?,
            connect_timeout: self.connect_timeout,
            tls: OnceLock::new(),
        };
        Ok(NatsPublisher {
            connections: Connections::new(dialer, self.connections),
            routing: self.routing,
            expected_stream: self.expected_stream,
            ack_timeout: self.ack_timeout,
            max_message_bytes: self.max_message_bytes,
            capabilities: PublisherCapabilities::default()
                .max_batch_messages(self.max_batch_messages)
                .max_batch_bytes(self.max_batch_bytes)
                .max_message_bytes(Some(self.max_message_bytes)),
        })
    }

    fn check(&self) -> Result<()> {
        check_limits(&[
            ("connections", self.connections, MAX_CONNECTIONS),
            ("max_message_bytes", self.max_message_bytes, MAX_PAYLOAD),
            ("max_batch_messages", self.max_batch_messages, usize::MAX),
            ("max_batch_bytes", self.max_batch_bytes, usize::MAX),
        ])?;
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("ack_timeout", self.ack_timeout)?;
        self.routing.destinations().try_for_each(|template| subject::check_template(template))?;
        if let Some(name) = self.expected_stream.as_ref().filter(|name| !is_stream_name(name)) {
            return Err(Error::config("no stream can have this name")
                .with("setting", "expect_stream")
                .with("value", format_args!("{name:?}")));
        }
        match &self.inbox_prefix {
            Some(prefix) if prefix.len() > MAX_INBOX_PREFIX || subject::check(prefix).is_err() => {
                Err(Error::config(
                    "inbox_prefix must be a subject of at most 255 bytes, without wildcards and spaces",
                )
                .with("value", format_args!("{prefix:?}")))
            }
            _ => Ok(()),
        }
    }

    fn with_login(mut self, change: impl FnOnce(ConnectOptions) -> Result<ConnectOptions>) -> Self {
        self.has_login = true;
        self.with_options(change)
    }

    fn with_options(mut self, change: impl FnOnce(ConnectOptions) -> Result<ConnectOptions>) -> Self {
        self.options = self.options.and_then(change);
        self
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
