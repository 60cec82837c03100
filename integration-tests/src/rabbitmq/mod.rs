//! RabbitMQ for tests.

mod configuration;
mod local;
mod vhost;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use lapin::{Connection, ConnectionProperties};
use tokio::sync::OnceCell;
use url::Url;

pub use local::Installation;
pub use vhost::Vhost;

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::http;
use crate::instance::Instance;
use crate::server::Server;
use crate::service::Service;

/// The management interface of the server in the URL variable, if it is not on the usual port of the same
/// host.
const MANAGEMENT_URL: &str = "OUTBOX_TEST_RABBITMQ_MANAGEMENT_URL";
const AMQP_PORT: u16 = 5672;
const MANAGEMENT_PORT: u16 = 15672;

/// A real RabbitMQ server with the management plugin.
///
/// ```no_run
/// use integration_tests::{RabbitMq, Server};
///
/// # async fn example() {
/// // Skipped with a loud message where there is no RabbitMQ, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(rabbitmq) = RabbitMq::shared().await else { return };
/// let vhost = rabbitmq.vhost().await;
/// vhost.declare_queue("orders").await;
/// // ... publish to `vhost.uri()` ...
/// assert_eq!(vhost.queue_depth("orders").await, 0);
/// # }
/// ```
#[derive(Debug)]
pub struct RabbitMq {
    instance: Instance,
    uri: Url,
    address: SocketAddr,
    management: http::Client,
    control: Option<local::Control>,
}

impl RabbitMq {
    fn new(instance: Instance, uri: Url, management: &Url) -> Result<Self> {
        let address = crate::server::address(&uri, AMQP_PORT)?;
        Ok(Self { instance, uri, address, management: http::Client::new(management)?, control: None })
    }

    fn on_ports(instance: Instance, host: &str, amqp: u16, management: u16) -> Result<Self> {
        let uri = Url::parse(&format!("amqp://guest:guest@{host}:{amqp}"))?;
        let management = Url::parse(&format!("http://guest:guest@{host}:{management}"))?;
        Self::new(instance, uri, &management)
    }

    /// The AMQP URI of the virtual host that every server has, with a user who has all privileges.
    pub fn uri(&self) -> &str {
        self.uri.as_str()
    }

    /// Like [`start`](Server::start), with additional lines in the broker's configuration file.
    ///
    /// # Panics
    /// Like [`start`](Server::start).
    pub async fn start_with(lines: &str) -> Option<Self> {
        Self::start_in(Environment::of_process().with(configuration::CONF, lines)).await
    }

    /// Creates a new virtual host, which is deleted with the value.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn vhost(&self) -> Vhost {
        Vhost::create(&self.uri, &self.management)
            .await
            .unwrap_or_else(|error| panic!("cannot create a virtual host: {error:#}"))
    }

    /// Returns the response of the management interface, as JSON. `path` begins with `/api/`.
    ///
    /// # Panics
    /// If there is no response, or an error.
    pub async fn management(&self, method: &str, path: &str, json: Option<&str>) -> String {
        self.management.request(method, path, json).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs `rabbitmqctl` with these arguments on this server, and returns its output. It takes some seconds.
    ///
    /// # Panics
    /// If it fails, or the server was given by a URL.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let result = match &self.control {
            Some(control) => control.run(arguments).await,
            None => self.instance.exec("rabbitmqctl", arguments).await,
        };
        result.unwrap_or_else(|error| panic!("rabbitmqctl: {error:#}"))
    }

    /// Makes the server write all declarations to its disk. Without this it does so only after a while, and a
    /// queue that is lost by a kill loses its messages too, confirmed or not. Call it between declaring and
    /// killing.
    ///
    /// # Panics
    /// Like [`ctl`](Self::ctl).
    pub async fn sync_declarations(&self) {
        // Newer versions have no mnesia, and no such delay.
        self.ctl(&["eval", "catch mnesia:sync_log()."]).await;
    }

    /// Raises the memory alarm, under which the server blocks every connection that publishes, or clears it.
    ///
    /// # Panics
    /// Like [`ctl`](Self::ctl).
    pub async fn set_memory_alarm(&self, on: bool) {
        // The server always uses more memory than zero.
        let limit = if on { "0" } else { "0.6" };
        self.ctl(&["set_vm_memory_high_watermark", limit]).await;
    }
}

impl Server for RabbitMq {
    const SERVICE: Service = Service::RabbitMq;
    type Installation = Installation;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        static SHARED: OnceCell<Result<RabbitMq, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    async fn external(environment: &Environment, url: &str) -> Result<Self> {
        let uri = Url::parse(url)?;
        let management = match environment.get(MANAGEMENT_URL) {
            Some(url) => Url::parse(url).context(MANAGEMENT_URL)?,
            None => beside(&uri)?,
        };
        let server = Self::new(Instance::EXTERNAL, uri, &management)?;
        vhost::delete_old(&server.management).await?;
        Ok(server)
    }

    #[cfg(feature = "containers")]
    async fn container(environment: &Environment) -> Result<Self> {
        use testcontainers::ImageExt;
        use testcontainers::core::ContainerPort;

        let (amqp, management) = (crate::ports::free(), crate::ports::free());
        let image = crate::container::listed("rabbitmq");
        let request = crate::container::image(environment, "OUTBOX_TEST_RABBITMQ_IMAGE", image)?
            .with_env_var("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", configuration::ERLANG)
            // The last file of this folder takes precedence.
            .with_copy_to(
                "/etc/rabbitmq/conf.d/90-test.conf",
                configuration::settings(environment).into_bytes(),
            )
            // The data belongs to a node's name, and the node has its name from the host.
            .with_hostname("outbox-test")
            .with_mapped_port(amqp, ContainerPort::Tcp(AMQP_PORT))
            .with_mapped_port(management, ContainerPort::Tcp(MANAGEMENT_PORT));
        let container = crate::container::Container::start(request).await?;
        let host = container.host().to_owned();
        Self::on_ports(Instance::container(container), &host, amqp, management)
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::locate(environment)
    }

    async fn launch(installation: &Installation) -> Result<Self> {
        let ports = local::Ports::free();
        let (server, control) = installation.launch(ports)?;
        let instance = Instance::local(server);
        let server = Self::on_ports(instance, "127.0.0.1", ports.amqp, ports.management)?;
        Ok(Self { control: Some(control), ..server })
    }

    async fn answers(&self) -> Result<()> {
        let connection = Connection::connect(self.uri(), ConnectionProperties::default()).await?;
        connection.close(200, "ready".into()).await?;
        self.management.request("GET", "/api/whoami", None).await?;
        Ok(())
    }

    fn is_definite(error: &anyhow::Error) -> bool {
        let refused = |error: &lapin::Error| matches!(error.kind(), lapin::ErrorKind::ProtocolError(_));
        error.downcast_ref::<lapin::Error>().is_some_and(refused)
    }

    async fn version(&self) -> Result<String> {
        let overview = self.management.request("GET", "/api/overview", None).await?;
        // "rabbitmq_version":"4.0.5"
        let (_, version) =
            overview.split_once("\"rabbitmq_version\":\"").context("no version in the overview")?;
        Ok(version.split('"').next().unwrap_or_default().to_owned())
    }
}

/// The default management URL of the server of an AMQP URI.
fn beside(uri: &Url) -> Result<Url> {
    let mut management = Url::parse("http://localhost")?;
    management.set_host(uri.host_str()).context("the URI has no host")?;
    let user = if uri.username().is_empty() { "guest" } else { uri.username() };
    let changed = management
        .set_port(Some(MANAGEMENT_PORT))
        .and_then(|()| management.set_username(user))
        .and_then(|()| management.set_password(uri.password().or(Some("guest"))));
    changed.ok().context("the URI has no usable host")?;
    Ok(management)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_given_by_its_url_is_used_and_not_harmed() {
        let Some(running) = RabbitMq::shared().await else { return };
        let management = running.management.url();
        let variables = [(Service::RabbitMq.url_variable(), running.uri()), (MANAGEMENT_URL, &management)];
        let rabbitmq: RabbitMq =
            crate::server::acquire(&Environment::from_pairs(variables), true).await.unwrap();
        let vhost = rabbitmq.vhost().await;
        vhost.declare_queue("orders").await;
        assert_eq!(vhost.queue_depth("orders").await, 0);
        assert!(rabbitmq.instance().kill().await.unwrap_err().to_string().contains("not ours to harm"));
    }

    #[test]
    fn the_management_interface_is_sought_beside_the_server() {
        let management = |uri: &str| beside(&Url::parse(uri).unwrap()).unwrap().to_string();
        assert_eq!(management("amqp://localhost:5673/%2f"), "http://guest:guest@localhost:15672/");
        assert_eq!(management("amqp://me:secret@10.0.0.1"), "http://me:secret@10.0.0.1:15672/");
    }
}
