//! Making a connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use outbox_core::{Error, ErrorKind, Scope};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::declarations::{Declarations, Undeclared};
use crate::error::{Stage, is_transient, judge};
use crate::link::Link;
use crate::nodes::Nodes;

/// Makes connections for a publisher, where a URI is not enough: other ways to log in or to encrypt, tunnels.
///
/// Implemented for closures that return a future.
///
/// - The connection must run on tokio and must not recover by itself
///   ([`enable_auto_recover`](ConnectionProperties::enable_auto_recover)): with it, confirms would stay open while
///   the broker is away. The publisher drops a broken connection and asks for a new one.
/// - The publisher reads the connection's events; nobody else may.
/// - The publisher bounds the call by its connect timeout.
/// - The publisher cannot cut such a connection off, only close it. When the broker has stopped reading, or a
///   publish future is dropped in the middle of a write, the bytes that the client library has already encoded may
///   still go out later; whole messages that were waiting behind them do not.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Connects. `properties` hold the connection name; further ones may be added.
    ///
    /// # Errors
    /// The client library's. What it shows must hold no secrets.
    async fn connect(&self, properties: ConnectionProperties) -> lapin::Result<Connection>;
}

#[async_trait]
impl<F, Fut> Connector for F
where
    F: Fn(ConnectionProperties) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = lapin::Result<Connection>> + Send,
{
    async fn connect(&self, properties: ConnectionProperties) -> lapin::Result<Connection> {
        self(properties).await
    }
}

/// How to reach the broker.
pub(crate) enum Transport {
    Nodes(Nodes),
    Custom(Arc<dyn Connector>),
}

/// Where the broker is, without what is secret.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) broker: String,
    pub(crate) vhost: String,
}

impl Endpoint {
    pub(crate) fn of(uri: &AMQPUri) -> Self {
        let scheme = match uri.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        Self {
            broker: format!("{scheme}://{}:{}", uri.authority.host, uri.authority.port),
            vhost: uri.vhost.clone(),
        }
    }

    /// Adds where it happened.
    pub(crate) fn locate(&self, error: Error) -> Error {
        error.with("broker", &self.broker).with("vhost", &self.vhost)
    }
}

/// Why there is no connection. It can be cloned, because all calls that waited for one attempt share its failure.
#[derive(Clone, Debug)]
pub(crate) enum DialFailure {
    /// `tried` says how each address failed, if there are several.
    Refused {
        error: lapin::Error,
        tried: Option<String>,
    },
    Undeclared(Undeclared),
    TimedOut {
        tried: Option<String>,
    },
}

impl DialFailure {
    pub(crate) fn to_error(&self, dialer: &Dialer) -> Error {
        let error = match self {
            Self::Refused { error, .. } => judge(error, Stage::Connecting),
            Self::TimedOut { .. } => {
                Error::new(ErrorKind::Unavailable, "the broker did not let us connect in time")
                    .with("connect_timeout", format_args!("{:?}", dialer.connect_timeout))
            }
            // Whatever the reason, no message can be blamed, and people have to look at it while messages wait.
            Self::Undeclared(Undeclared { what, name, error }) => {
                let text = "the configured topology could not be declared";
                Error::new(ErrorKind::Unavailable, text).with(what, name).with_source(error.clone())
            }
        };
        let error = match self {
            Self::Refused { tried: Some(tried), .. } | Self::TimedOut { tried: Some(tried) } => {
                error.with("tried", tried)
            }
            _ => error,
        };
        dialer.endpoint.locate(error).with_scope(Scope::Endpoint)
    }
}

/// Makes connections that are ready for use.
pub(crate) struct Dialer {
    pub(crate) transport: Transport,
    /// The broker for errors that concern no connection.
    pub(crate) endpoint: Endpoint,
    pub(crate) connection_name: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) declarations: Declarations,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("endpoint", &self.endpoint)
            .field("connection_name", &self.connection_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("declarations", &self.declarations)
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// Connects within the connect timeout, and declares the topology if that has not been done yet.
    pub(crate) async fn dial(&self) -> Result<Link, DialFailure> {
        let limit = Instant::now() + self.connect_timeout;
        let link = self.connect(limit).await?;
        self.declarations.make_once(&link, limit).await?;
        debug!(broker = %link.endpoint().broker, vhost = %link.endpoint().vhost, "connected");
        Ok(link)
    }

    /// Connects only.
    pub(crate) async fn connect(&self, limit: Instant) -> Result<Link, DialFailure> {
        // A restart behind a load balancer, or a broker that is just coming up, is often over in a moment. Everything
        // longer is for the relay, which knows better when to come back.
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_millis(400))
            .with_factor(2.0)
            .with_max_times(3)
            .with_jitter();
        let transient = |failure: &DialFailure| matches!(failure, DialFailure::Refused { error, .. } if is_transient(error));
        // What is reported if the time ends during a pause.
        let mut latest = None;
        let attempts = (|| self.attempt(limit)).retry(pauses).when(transient).notify(|failure, pause| {
            debug!(broker = %self.endpoint.broker, ?failure, ?pause, "connecting failed, trying again");
            latest = Some(failure.clone());
        });
        let outcome = timeout_at(limit, attempts).await;
        outcome.unwrap_or_else(|_| Err(latest.unwrap_or(DialFailure::TimedOut { tried: None })))
    }

    async fn attempt(&self, limit: Instant) -> Result<Link, DialFailure> {
        let properties =
            ConnectionProperties::default().with_connection_name(self.connection_name.as_str().into());
        match &self.transport {
            Transport::Nodes(nodes) => nodes.connect(&properties, limit).await,
            Transport::Custom(connector) => {
                let connection = connector
                    .connect(properties)
                    .await
                    .map_err(|error| DialFailure::Refused { error, tried: None })?;
                Ok(Link::new(connection, None, self.endpoint.clone()))
            }
        }
    }
}
