//! NATS with JetStream for tests.

mod configuration;
mod local;
mod stream;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions};
use tokio::sync::OnceCell;
use url::Url;

pub use local::Installation;
pub use stream::{DiscardPolicy, Stream, StreamConfig, StreamMessage};

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::instance::Instance;
use crate::proxy::Proxy;
use crate::runtime;
use crate::server::Server;
use crate::service::Service;

const PORT: u16 = 4222;
/// Maximum time for a connection or a request, longer than the few seconds of the client's default.
const PATIENCE: Duration = Duration::from_secs(60);

/// A real NATS server with JetStream.
///
/// ```no_run
/// use integration_tests::{Nats, Server};
///
/// # async fn example() {
/// // Skipped with a loud message if there is no NATS server, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(nats) = Nats::shared().await else { return };
/// let stream = nats.stream().await; // new and empty, deleted with the value
/// // ... publish to `nats.url()` with the subject `stream.name()` ...
/// assert!(stream.messages().await.is_empty());
/// # }
/// ```
#[derive(Debug)]
pub struct Nats {
    instance: Instance,
    url: Url,
    address: SocketAddr,
    client: OnceCell<Client>,
}

impl Nats {
    fn at(instance: Instance, url: Url) -> Result<Self> {
        let address = crate::server::address(&url, PORT)?;
        Ok(Self { instance, url, address, client: OnceCell::new() })
    }

    fn on_port(instance: Instance, host: &str, port: u16) -> Result<Self> {
        Self::at(instance, Url::parse(&format!("nats://{host}:{port}"))?)
    }

    /// As [`start`](Server::start), with more lines in the server's configuration file. A client without credentials
    /// must be able to connect, so a configuration with users needs `no_auth_user`.
    ///
    /// # Panics
    /// As [`start`](Server::start).
    pub async fn start_with(lines: &str) -> Option<Self> {
        Self::start_in(Environment::of_process().with(configuration::CONF, lines)).await
    }

    /// As [`start_with`](Self::start_with), with the files of a folder beside the configuration file, such as certificates.
    /// The lines name them by their names. Unencrypted connections must be possible (`allow_non_tls`).
    ///
    /// # Panics
    /// As [`start`](Server::start).
    pub async fn start_with_files(lines: &str, folder: &Path) -> Option<Self> {
        let environment = Environment::of_process().with(configuration::CONF, lines);
        Self::start_in(environment.with(configuration::FILES, folder.display().to_string())).await
    }

    /// The URL of the server, for a client without credentials.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The URL of the server for this user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        let mut url = self.url.clone();
        let named = url.set_username(user).and_then(|()| url.set_password(Some(password)));
        named.unwrap_or_else(|()| panic!("{} cannot have a user", self.url));
        url.into()
    }

    /// The URL of a proxy in front of the server.
    pub fn url_through(&self, proxy: &Proxy) -> String {
        crate::proxy::through(&self.url, proxy)
    }

    /// JetStream of this server, by a connection that all callers share and that reconnects automatically.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn jetstream(&self) -> Context {
        let url = self.url.to_string();
        let connect = || async {
            // On the runtime of the harness, because the connection's task must outlive the test that opens it.
            runtime::run(async move { connect(&url).await })
                .await
                .unwrap_or_else(|error| panic!("cannot connect to NATS: {error}"))
        };
        let mut context = jetstream::new(self.client.get_or_init(connect).await.clone());
        context.set_timeout(PATIENCE);
        context
    }

    /// A new stream for the subject of its own name, and for all subjects below it. It is deleted with the value.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn stream(&self) -> Stream {
        self.stream_with(StreamConfig::default()).await
    }

    /// As [`stream`](Self::stream), with settings such as limits. Name and subjects are set by the harness.
    ///
    /// # Panics
    /// If the server does not answer, or refuses the settings.
    pub async fn stream_with(&self, config: StreamConfig) -> Stream {
        Stream::create(self.jetstream().await, config).await
    }
}

async fn connect(url: &str) -> Result<Client, ConnectError> {
    ConnectOptions::new().connection_timeout(PATIENCE).request_timeout(Some(PATIENCE)).connect(url).await
}

impl Server for Nats {
    const SERVICE: Service = Service::Nats;
    type Installation = Installation;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        static SHARED: OnceCell<Result<Nats, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    async fn external(_: &Environment, url: &str) -> Result<Self> {
        let url = Url::parse(url)?;
        anyhow::ensure!(url.scheme() == "nats", "expected nats://host:port, not {}://", url.scheme());
        let server = Self::at(Instance::EXTERNAL, url)?;
        stream::delete_old(&server.jetstream().await).await?;
        Ok(server)
    }

    #[cfg(feature = "containers")]
    async fn container(environment: &Environment) -> Result<Self> {
        use testcontainers::ImageExt;
        use testcontainers::core::ContainerPort;

        const FOLDER: &str = "/etc/outbox-test";
        const FILE: &str = "/etc/outbox-test/nats.conf";

        let port = crate::ports::free();
        let image = crate::container::listed("nats");
        let mut request = crate::container::image(environment, "OUTBOX_TEST_NATS_IMAGE", image)?
            .with_copy_to(FILE, configuration::settings(environment, "/tmp/jetstream").into_bytes())
            .with_working_dir(FOLDER)
            .with_cmd(["nats-server", "--config", FILE, "--port", &PORT.to_string()])
            .with_mapped_port(port, ContainerPort::Tcp(PORT));
        for (name, content) in configuration::files(environment)? {
            request = request.with_copy_to(format!("{FOLDER}/{name}"), content);
        }
        let container = crate::container::Container::start(request).await?;
        let host = container.host().to_owned();
        Self::on_port(Instance::container(container), &host, port)
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::locate(environment)
    }

    async fn launch(installation: &Installation) -> Result<Self> {
        let port = crate::ports::free();
        Self::on_port(Instance::local(installation.launch(port)?), "127.0.0.1", port)
    }

    async fn answers(&self) -> Result<()> {
        // The client has connected when the server has answered its first ping.
        connect(self.url.as_str()).await?;
        Ok(())
    }

    fn is_definite(error: &anyhow::Error) -> bool {
        let refused = |error: &ConnectError| error.kind() == ConnectErrorKind::AuthorizationViolation;
        error.downcast_ref::<ConnectError>().is_some_and(refused)
    }

    async fn version(&self) -> Result<String> {
        Ok(connect(self.url.as_str()).await?.server_info().version)
    }
}
