//! Settings of a publisher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use outbox_core::publishing::{check_limits, check_timeout};
use outbox_core::{Error, Message, PublisherCapabilities, Result};
use tokio::sync::Semaphore;

use crate::connections::Connections;
use crate::declarations::Declarations;
use crate::dial::{Connector, Dialer, Endpoint, Transport};
use crate::failures::Failures;
use crate::nodes::Nodes;
use crate::outgoing::{possible_exchange, short};
use crate::publisher::AmqpPublisher;
use crate::quarantine::Quarantine;
use crate::routing::{Route, Routing};
use crate::topology::{Binding, Exchange, Queue, Topology};

/// AMQP 0-9-1 allows 65 535 channels and RabbitMQ 2 047 by default; beyond this, more connections help, not channels.
const MAX_CHANNELS: usize = 256;
/// RabbitMQ takes no longer heartbeat.
const MAX_HEARTBEAT: Duration = Duration::from_secs(u16::MAX as u64);

enum Target {
    /// As they were given; looked into by `build`, so that a mistake in one is an error like any other.
    Uris(Vec<Result<AMQPUri>>),
    Custom(Arc<dyn Connector>),
}

/// Builds an [`AmqpPublisher`]. Every setting has a default.
#[must_use = "a builder does nothing until it is built"]
pub struct AmqpPublisherBuilder {
    target: Target,
    tls: Option<OwnedTLSConfig>,
    heartbeat: Option<Duration>,
    connection_name: String,
    channels: usize,
    connect_timeout: Duration,
    confirm_timeout: Duration,
    max_message_bytes: usize,
    max_batch_messages: usize,
    max_batch_bytes: usize,
    routing: Routing,
    topology: Topology,
}

impl fmt::Debug for AmqpPublisherBuilder {
    /// Shows neither the URI, which holds a password, nor the TLS identity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpPublisherBuilder")
            .field("heartbeat", &self.heartbeat)
            .field("connection_name", &self.connection_name)
            .field("channels", &self.channels)
            .field("connect_timeout", &self.connect_timeout)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("max_batch_messages", &self.max_batch_messages)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .field("routing", &self.routing)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

impl AmqpPublisherBuilder {
    pub(crate) fn from_uri(uri: &str) -> Self {
        Self::new(Target::Uris(vec![parse(uri)]))
    }

    pub(crate) fn from_connector(connector: Arc<dyn Connector>) -> Self {
        Self::new(Target::Custom(connector))
    }

    fn new(target: Target) -> Self {
        let capabilities = PublisherCapabilities::default();
        Self {
            target,
            tls: None,
            heartbeat: None,
            connection_name: "outbox".to_owned(),
            channels: 4,
            connect_timeout: Duration::from_secs(4),
            confirm_timeout: Duration::from_secs(8),
            max_message_bytes: 16 << 20,
            max_batch_messages: capabilities.max_batch_messages,
            max_batch_bytes: capabilities.max_batch_bytes,
            routing: Routing::default(),
            topology: Topology::default(),
        }
    }

    /// Adds the URI of another node of the same cluster, each with its own user, password and virtual host. The publisher
    /// uses one of them at a time: at first one that it chooses by chance, after a break the latest one that let it in,
    /// and the next one when a node does not. [`connect_timeout`](Self::connect_timeout) is shared between them. Not for
    /// a publisher with a connector of its own.
    pub fn node(mut self, uri: &str) -> Self {
        match &mut self.target {
            Target::Uris(uris) => uris.push(parse(uri)),
            target => {
                *target = Target::Uris(vec![Err(Error::config("nodes are the connector's own business"))])
            }
        }
        self
    }

    /// Sets a client certificate or a certificate authority for `amqps`. Default: none, and the platform's trusted
    /// authorities. Not for a publisher with a connector of its own.
    pub fn tls(mut self, config: OwnedTLSConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Sets after how long without a sign of life a connection counts as dead, in whole seconds; the broker may ask
    /// for less. Default: the URI's `heartbeat`, or else 10 seconds, enough to notice a broker that vanished while
    /// nothing was being published. Not for a publisher with a connector of its own.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// Sets the name under which the broker lists the connection. Default: `outbox`.
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.connection_name = name.into();
        self
    }

    /// Sets the number of channels, and so of [`publish`](outbox_core::Publisher::publish) calls served at once;
    /// further ones wait their turn. Default: 4, as many calls as a relay makes by default. 1 to 256.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// Sets how long connecting may take, with logging in and the declaration of the topology. The nodes, and the
    /// addresses of a host name, share it: one that does not answer leaves time for the others. Default: 4 seconds.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets how long one call may take from its turn until the last confirm. After that the outcome of what was sent
    /// is unknown. The connection is cut if the broker answers nothing else on it either. Default: 8 seconds, less than the 10 a relay allows by default, so that
    /// the relay hears what is known.
    pub fn confirm_timeout(mut self, limit: Duration) -> Self {
        self.confirm_timeout = limit;
        self
    }

    /// Sets the largest payload; larger ones are refused before they are sent, since the broker would close the
    /// channel over them. Default: 16 MiB, the `max_message_size` of RabbitMQ 4. RabbitMQ 3 takes 128 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Sets the most messages of one call. Default: 500.
    pub fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = messages;
        self
    }

    /// Sets the most bytes of one call. Default: 4 MiB.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// Sets the exchange for all topics without a route of their own; the topic is the routing key. Default: `""`,
    /// the default exchange, which leads to the queue that is named as the topic.
    pub fn exchange(mut self, name: impl Into<String>) -> Self {
        self.routing.exchange = name.into();
        self
    }

    /// Sends one topic to its own exchange and routing key. Goes before [`route_with`](Self::route_with).
    pub fn route(mut self, topic: impl Into<String>, route: Route) -> Self {
        self.routing.routes.table.insert(topic.into(), route);
        self
    }

    /// Sets a closure that gives the exchange and routing key of a message, in place of
    /// [`exchange`](Self::exchange) and the topic. It is called for every attempt and must be quick and not panic.
    /// A message's own options go before it.
    pub fn route_with(mut self, rule: impl Fn(&Message) -> Route + Send + Sync + 'static) -> Self {
        self.routing.routes.rule = Some(Arc::new(rule));
        self
    }

    /// Publishes to this exchange without the `mandatory` flag, whatever the topic. Default: none.
    ///
    /// For exchanges that route later or elsewhere, as that of the delayed-message plugin: the broker would return every
    /// message although it has taken it. The price is that a message which no queue takes, then or later, counts as
    /// delivered and is lost without a trace. [`Route::mandatory`] does the same for one topic.
    pub fn not_mandatory(mut self, exchange: impl Into<String>) -> Self {
        self.routing.not_mandatory.insert(exchange.into());
        self
    }

    /// Declares an exchange before the first message, and again if a message shows that it is gone. Default: none.
    pub fn declare_exchange(mut self, exchange: Exchange) -> Self {
        self.topology.exchanges.push(exchange);
        self
    }

    /// Declares a queue before the first message, and again if a message shows that it is gone. Default: none.
    pub fn declare_queue(mut self, queue: Queue) -> Self {
        self.topology.queues.push(queue);
        self
    }

    /// Binds a queue after the declarations, and again if a message shows that the binding is gone. Default: none.
    pub fn bind_queue(mut self, binding: Binding) -> Self {
        self.topology.bindings.push(binding);
        self
    }

    /// Checks the settings. Nothing is connected yet; see [`AmqpPublisher::connect`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) for a URI that cannot be understood, a limit of zero, a
    /// name that AMQP cannot carry, or settings that do not go together.
    pub fn build(self) -> Result<AmqpPublisher> {
        self.check_limits()?;
        self.topology.validate()?;
        check_routing(&self.routing)?;
        let (transport, endpoint) = match self.target {
            Target::Uris(uris) => {
                let heartbeat = seconds(self.heartbeat)?;
                let mut uris = uris.into_iter().collect::<Result<Vec<AMQPUri>>>()?;
                if self.tls.is_some() && !uris.iter().all(|uri| uri.scheme == AMQPScheme::AMQPS) {
                    return Err(Error::config(
                        "tls has no effect on an amqp:// URI, whose connection is not encrypted; write amqps://",
                    ));
                }
                for uri in &mut uris {
                    uri.query.heartbeat = Some(heartbeat.or(uri.query.heartbeat).unwrap_or(10));
                }
                let nodes = Nodes::new(uris, self.tls.unwrap_or_default());
                let endpoint = nodes.endpoint();
                (Transport::Nodes(nodes), endpoint)
            }
            Target::Custom(_) if self.tls.is_some() || self.heartbeat.is_some() => {
                return Err(Error::config("tls and heartbeat are the connector's own business"));
            }
            Target::Custom(connector) => {
                let endpoint =
                    Endpoint { broker: "custom connector".to_owned(), vhost: "unknown".to_owned() };
                (Transport::Custom(connector), endpoint)
            }
        };
        let dialer = Dialer {
            transport,
            endpoint,
            connection_name: self.connection_name,
            connect_timeout: self.connect_timeout,
            declarations: Declarations::new(self.topology),
        };
        Ok(AmqpPublisher {
            connections: Connections::new(dialer),
            routing: self.routing,
            calls: Arc::new(Semaphore::new(self.channels)),
            confirm_timeout: self.confirm_timeout,
            // Order within a call is kept, but the broker goes on after a failure: that is not what
            // `ordered_batches` means.
            capabilities: PublisherCapabilities::default()
                .max_batch_messages(self.max_batch_messages)
                .max_batch_bytes(self.max_batch_bytes)
                .max_message_bytes(Some(self.max_message_bytes)),
            max_message_bytes: self.max_message_bytes,
            quarantine: Quarantine::default(),
            failures: Failures::default(),
        })
    }

    fn check_limits(&self) -> Result<()> {
        check_limits(&[
            ("channels", self.channels, MAX_CHANNELS),
            ("max_message_bytes", self.max_message_bytes, usize::MAX),
            ("max_batch_messages", self.max_batch_messages, usize::MAX),
            ("max_batch_bytes", self.max_batch_bytes, usize::MAX),
        ])?;
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("confirm_timeout", self.confirm_timeout)
    }
}

fn seconds(heartbeat: Option<Duration>) -> Result<Option<u16>> {
    let Some(heartbeat) = heartbeat else { return Ok(None) };
    let whole = heartbeat.subsec_nanos() == 0 && !heartbeat.is_zero() && heartbeat <= MAX_HEARTBEAT;
    match u16::try_from(heartbeat.as_secs()) {
        Ok(seconds) if whole => Ok(Some(seconds)),
        _ => Err(Error::config("heartbeat must be a whole number of seconds, from 1 to 65535")
            .with("heartbeat", format_args!("{heartbeat:?}"))),
    }
}

fn check_routing(routing: &Routing) -> Result<()> {
    let routes = routing.routes.destinations().flat_map(|route| [&route.exchange, &route.routing_key]);
    let exchanges = routing.routes.destinations().map(|route| &route.exchange);
    for name in exchanges.chain([&routing.exchange]).chain(&routing.not_mandatory) {
        possible_exchange(name).map_err(|_| {
            Error::config("the name of an exchange contains a line break")
                .with("exchange", format_args!("{name:?}"))
        })?;
    }
    for name in routes.chain([&routing.exchange]).chain(&routing.not_mandatory) {
        short("routing", name).map_err(|_| {
            Error::config("the routing has a name longer than the 255 bytes which AMQP allows")
                .with("name", name)
        })?;
    }
    Ok(())
}

/// Reads a URI. Its text is in no error, nor the parser's, which quotes it.
fn parse(uri: &str) -> Result<AMQPUri> {
    let mut parsed: AMQPUri = uri.parse().map_err(|_| {
        Error::config("the AMQP URI cannot be understood; expected amqp://user:password@host:port/vhost")
    })?;
    // The client library takes `localhost` for any IPv6 address.
    if let Some(host) = ipv6(uri) {
        parsed.authority.host = host.to_owned();
    }
    Ok(parsed)
}

/// The IPv6 address of a URI, which is in brackets.
fn ipv6(uri: &str) -> Option<&str> {
    let authority = uri.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let address = host.strip_prefix('[')?.split_once(']')?.0;
    address.parse::<std::net::Ipv6Addr>().ok().map(|_| address)
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
