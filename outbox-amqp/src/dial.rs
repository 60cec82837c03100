//! Making a connection.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use outbox_core::{Error, ErrorKind, Scope};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::error::{Stage, is_transient, judge};
use crate::link::Link;
use crate::topology::{Topology, Undeclared};

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
    /// Holds a password, and is never shown.
    Uri(Box<AMQPUri>, OwnedTLSConfig),
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
    Refused(lapin::Error),
    Undeclared(Undeclared),
    TimedOut(Duration),
}

impl DialFailure {
    pub(crate) fn to_error(&self, endpoint: &Endpoint) -> Error {
        let error = match self {
            Self::Refused(error) => judge(error, Stage::Connecting),
            Self::TimedOut(limit) => {
                Error::new(ErrorKind::Unavailable, "the broker did not let us connect in time")
                    .with("connect_timeout", format_args!("{limit:?}"))
            }
            // Whatever the reason, no message can be blamed, and people have to look at it while messages wait.
            Self::Undeclared(Undeclared { what, name, error }) => {
                let text = "the configured topology could not be declared";
                Error::new(ErrorKind::Unavailable, text).with(what, name).with_source(error.clone())
            }
        };
        endpoint.locate(error).with_scope(Scope::Endpoint)
    }
}

/// Makes connections that are ready for use.
pub(crate) struct Dialer {
    pub(crate) transport: Transport,
    pub(crate) endpoint: Endpoint,
    pub(crate) connection_name: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) topology: Topology,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("endpoint", &self.endpoint)
            .field("connection_name", &self.connection_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// Connects and declares the topology, within the connect timeout.
    pub(crate) async fn dial(&self) -> Result<Link, DialFailure> {
        let limit = Instant::now() + self.connect_timeout;
        let link = self.connect(limit).await?;
        if !self.topology.is_empty() {
            self.declare_topology(&link, limit).await?;
        }
        debug!(broker = %self.endpoint.broker, vhost = %self.endpoint.vhost, "connected");
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
        let attempts = (|| self.attempt()).retry(pauses).when(is_transient).notify(|error, pause| {
            debug!(broker = %self.endpoint.broker, %error, ?pause, "connecting failed, trying again");
        });
        match timeout_at(limit, attempts).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(DialFailure::Refused(error)),
            Err(_) => Err(DialFailure::TimedOut(self.connect_timeout)),
        }
    }

    async fn attempt(&self) -> lapin::Result<Link> {
        let properties =
            ConnectionProperties::default().with_connection_name(self.connection_name.as_str().into());
        match &self.transport {
            Transport::Custom(connector) => Ok(Link::new(connector.connect(properties).await?, None)),
            Transport::Uri(uri, tls) => {
                let socket = Socket::default();
                // Until there is a connection to close, dropping this future must end the attempt.
                let guard = CutOnDrop(Some(socket.clone()));
                let connection = open((**uri).clone(), tls, &socket, properties).await?;
                guard.disarm();
                Ok(Link::new(connection, Some(socket)))
            }
        }
    }

    async fn declare_topology(&self, link: &Link, limit: Instant) -> Result<(), DialFailure> {
        let declare = async {
            let channel = link.open_channel().await.map_err(DialFailure::Refused)?;
            self.topology.declare(&channel).await.map_err(DialFailure::Undeclared)
        };
        match timeout_at(limit, declare).await {
            Ok(Ok(())) => {
                self.topology.exchange_names().for_each(|name| link.exchanges().exists(name));
                Ok(())
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                link.cut();
                Err(DialFailure::TimedOut(self.connect_timeout))
            }
        }
    }
}

/// Opens the socket ourselves, for two reasons.
///
/// We keep a handle that can end the connection at once and for good. The client library can only *ask* for an end, in
/// a frame behind the others; a broker that has stopped reading would get everything written so far as soon as it
/// reads again. And the client library connects in a thread of its own, and waits for ever if that fails before it
/// has begun to wait.
async fn open(
    uri: AMQPUri,
    tls: &OwnedTLSConfig,
    socket: &Socket,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let host = uri.authority.host.as_str();
    let mut connected = Err(io::Error::new(io::ErrorKind::NotFound, "the host name has no address"));
    for address in tokio::net::lookup_host((host, uri.authority.port)).await? {
        connected = AsyncTcpStream::connect(&runtime, address).await;
        if connected.is_ok() {
            break;
        }
    }
    let mut stream = connected?;
    if let AsyncTcpStream::Plain(plain) = &stream {
        socket.hold(plain.get_ref())?;
    }
    if uri.scheme == AMQPScheme::AMQPS {
        stream = stream.into_tls(host, tls.as_ref()).await?;
    }
    let ready = Mutex::new(Some(stream));
    let take = async move |_, _| {
        let stream = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
    };
    Connection::connector(uri, runtime, take, properties).await
}

/// A second handle to a connection's socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn hold(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        let copy = duplicate(stream)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        Ok(())
    }

    /// Ends the connection: nothing that is not on its way yet will be sent, and every wait on it fails.
    pub(crate) fn cut(&self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // An error means that it has ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(unix)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::fd::AsFd;

    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;

    Ok(stream.as_socket().try_clone_to_owned()?.into())
}

struct CutOnDrop(Option<Socket>);

impl CutOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.cut();
        }
    }
}
