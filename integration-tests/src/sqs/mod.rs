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
use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::operation::list_queues::ListQueuesError;
use tokio::sync::OnceCell;
use url::Url;

pub use gateway::{Fault, Gateway};
pub use local::Installation;
pub use queue::Queue;

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::http;
use crate::instance::Instance;
use crate::server::Server;
use crate::service::Service;

/// An emulator of Amazon SQS. It keeps everything in memory: a kill loses confirmed messages and the queues.
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

    /// Returns a new client of this server.
    pub fn client(&self) -> Client {
        client(self.address)
    }

    /// Creates a new standard queue, which is deleted with the value.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn queue(&self) -> Queue {
        Queue::create(self.client(), false).await
    }

    /// Creates a new FIFO queue, which is deleted with the value.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn fifo_queue(&self) -> Queue {
        Queue::create(self.client(), true).await
    }

    /// Creates a gateway in front of the server, which counts requests and lets them pass until it is
    /// instructed otherwise.
    pub async fn gateway(&self) -> Gateway {
        Gateway::start(self.address).await
    }
}

/// Connection timeout, longer than the few seconds of the client's default.
const CONNECT: Duration = Duration::from_secs(60);

/// Returns a new client of the server at this address, or of a proxy or gateway in front of it. It has dummy
/// credentials, and does not retry.
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

/// The version in a JSON object such as `{"version": "1.5.33"}`.
fn version_in(health: &str) -> Result<String> {
    let health: serde_json::Value = serde_json::from_str(health)?;
    Ok(health["version"].as_str().context("the emulator does not report its version")?.to_owned())
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
        anyhow::ensure!(url.scheme() == "http", "this client supports only plain http, not {}", url.scheme());
        let address = crate::server::address(&url, 80)?;
        queue::delete_old(&client(address)).await?;
        Ok(Self { instance: Instance::EXTERNAL, address })
    }

    #[cfg(feature = "containers")]
    async fn container(environment: &Environment) -> Result<Self> {
        use testcontainers::ImageExt;
        use testcontainers::core::ContainerPort;

        let port = crate::ports::free();
        let image = crate::container::listed("sqs");
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
        let listed = self.client().list_queues().send().await;
        listed.map(drop).map_err(|error| match error.raw_response() {
            Some(answer) => {
                let body = String::from_utf8_lossy(answer.body().bytes().unwrap_or_default());
                let start: String = body.chars().take(300).collect();
                let text = format!("status {}: {start}", answer.status().as_u16());
                anyhow::Error::new(error).context(text)
            }
            None => error.into(),
        })
    }

    fn is_definite(error: &anyhow::Error) -> bool {
        error.downcast_ref::<SdkError<ListQueuesError>>().is_some_and(|error| error.raw_response().is_some())
    }

    async fn version(&self) -> Result<String> {
        let health = http::Client::new(&Url::parse(&format!("http://{}", self.address))?)?;
        let version = match health.request("GET", "/_ministack/health", None).await {
            Ok(health) => format!("ministack {}", version_in(&health)?),
            // ElasticMQ does not report its version.
            Err(_) => "ElasticMQ".to_owned(),
        };
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::failure::Definite;
    use crate::server::{Patience, wait};

    const BROKEN: &str =
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 14\r\nConnection: close\r\n\r\nno module yaml";

    /// Answers every request with an error.
    async fn broken_server() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await?;
                    stream.write_all(BROKEN.as_bytes()).await
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_that_answers_only_errors_is_given_up_early_with_its_answer() {
        let sqs = Sqs { instance: Instance::EXTERNAL, address: broken_server().await };
        let patience = Patience { definite: Duration::from_millis(200), ..Patience::default() };
        let error = wait(&sqs, patience).await.unwrap_err();
        assert!(error.is::<Definite>(), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("answers with an error") && text.contains("status 500: no module yaml"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_waited_for() {
        let address = (Ipv4Addr::LOCALHOST, crate::ports::free()).into();
        let sqs = Sqs { instance: Instance::EXTERNAL, address };
        let patience = Patience {
            ready: Duration::from_secs(2),
            definite: Duration::ZERO,
            report: Duration::from_millis(100),
        };
        let text = wait(&sqs, patience).await.unwrap_err().to_string();
        assert!(text.contains("is not ready after 2s"), "{text}");
    }
}
