//! A server of the protocol of Amazon SQS for tests.

mod gateway;
mod local;
mod queue;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Config, Credentials, Region, StalledStreamProtectionConfig};
use tokio::sync::OnceCell;
use url::Url;

pub use gateway::{Fault, Gateway};
pub use local::Installation;
pub use queue::Queue;

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::instance::Instance;
use crate::server::Server;
use crate::service::Service;

/// An emulator of Amazon SQS. It keeps everything in memory: what it confirmed is gone when it is killed, and its
/// queues with it.
///
/// ```no_run
/// use integration_tests::{Server, Sqs};
///
/// # async fn example() {
/// // Skipped with a loud message where there is no such server, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(sqs) = Sqs::shared().await else { return };
/// let queue = sqs.queue().await; // new and empty, deleted with the value
/// let client = sqs.client();
/// // ... send to `queue.url()` ...
/// let received = queue.receive(&client).await;
/// # }
/// ```
#[derive(Debug)]
pub struct Sqs {
    instance: Instance,
    address: SocketAddr,
}

impl Sqs {
    fn at(instance: Instance, host: &str, port: u16) -> Result<Self> {
        let url = Url::parse(&format!("http://{host}:{port}"))?;
        Ok(Self { instance, address: crate::server::address(&url, port)? })
    }

    /// A new client of this server.
    pub fn client(&self) -> Client {
        client(self.address)
    }

    /// A new standard queue, which is deleted with the value.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn queue(&self) -> Queue {
        Queue::create(self.client(), false).await
    }

    /// A new FIFO queue, which is deleted with the value.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn fifo_queue(&self) -> Queue {
        Queue::create(self.client(), true).await
    }

    /// A gateway in front of the server, which counts requests and lets them pass until it is told otherwise.
    pub async fn gateway(&self) -> Gateway {
        Gateway::start(self.address).await
    }
}

/// Maximum time for a connection, longer than the few seconds that the client takes by itself.
const CONNECT: Duration = Duration::from_secs(60);

/// A new client of the server at this address, or of a proxy or gateway before it. It has credentials of nobody, and
/// repeats nothing.
pub fn client(address: SocketAddr) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(format!("http://{address}"))
        .retry_config(RetryConfig::disabled())
        // The defaults of some seconds are too short for a busy machine.
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build();
    Client::from_conf(config)
}

impl Server for Sqs {
    const SERVICE: Service = Service::Sqs;
    type Installation = Installation;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        static SHARED: OnceCell<Result<Sqs, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    async fn external(_: &Environment, url: &str) -> Result<Self> {
        let url = Url::parse(url)?;
        anyhow::ensure!(url.scheme() == "http", "only plain http is spoken here, not {}", url.scheme());
        let address = crate::server::address(&url, 80)?;
        queue::delete_old(&client(address)).await?;
        Ok(Self { instance: Instance::EXTERNAL, address })
    }

    #[cfg(feature = "containers")]
    async fn container(environment: &Environment) -> Result<Self> {
        use testcontainers::ImageExt;
        use testcontainers::core::ContainerPort;

        let port = crate::ports::free();
        let image = "softwaremill/elasticmq-native:1.6.12";
        let request = crate::container::image(environment, "OUTBOX_TEST_SQS_IMAGE", image)?
            .with_mapped_port(port, ContainerPort::Tcp(9324));
        let container = crate::container::Container::start(request).await?;
        let host = container.host().to_owned();
        Self::at(Instance::container(container), &host, port)
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::locate(environment)
    }

    async fn launch(installation: &Installation) -> Result<Self> {
        let port = crate::ports::free();
        Self::at(Instance::local(installation.launch(port)?), "127.0.0.1", port)
    }

    async fn answers(&self) -> Result<()> {
        self.client().list_queues().send().await.context("it does not list its queues")?;
        Ok(())
    }
}
