//! Google Cloud Pub/Sub for tests.

mod local;
mod topic;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::sync::OnceCell;

pub use local::Installation;
pub use topic::{Fault, Subscriber, Topic};
pub use wire::PubsubMessage;

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::instance::Instance;
use crate::server::Server;
use crate::service::Service;

/// The port within a container, and the folder for records and failures.
#[cfg(feature = "containers")]
const PORT: u16 = 8085;
#[cfg(feature = "containers")]
const MOUNTED: &str = "/desk";

/// The payload that every topic refuses: a request with it is refused as a whole.
pub const POISON: &str = "poison";

/// Google's fake of Pub/Sub in a program of this repository (`server/main.go`), which records requests and
/// fails on demand.
///
/// It keeps messages in memory: a kill loses undelivered messages and all subscriptions. The topics are
/// created again, and the records are files.
///
/// ```no_run
/// use integration_tests::{PubSub, Server};
///
/// # async fn example() {
/// // Skipped with a loud message where there is no such server, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(pubsub) = PubSub::shared().await else { return };
/// let topic = pubsub.topic().await; // new and empty
/// // ... publish to `topic.name()` at `pubsub.address()` ...
/// let messages = topic.subscriber().pull().await;
/// let requests = topic.books();
/// # }
/// ```
#[derive(Debug)]
pub struct PubSub {
    instance: Instance,
    address: SocketAddr,
    desk: local::Desk,
}

/// A publish request in the records of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The full name of the topic.
    pub topic: String,
    /// The ordering key of its messages.
    pub key: String,
    /// Its result: `OK`, or the name of another gRPC code.
    pub code: String,
    /// The attribute `outbox-id` of each message.
    pub ids: Vec<String>,
    /// The beginning of the payload of each message.
    pub heads: Vec<String>,
    /// Only in the line that the server writes when it starts: its version.
    version: Option<String>,
}

impl Entry {
    /// Whether the server has accepted the messages.
    pub fn was_taken(&self) -> bool {
        self.code == "OK"
    }
}

impl PubSub {
    /// A new topic with an ordered subscription.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn topic(&self) -> Topic {
        Topic::create(self.address, self.desk.clone()).await
    }
}

impl Server for PubSub {
    const SERVICE: Service = Service::PubSub;
    type Installation = Installation;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        static SHARED: OnceCell<Result<PubSub, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    async fn external(_: &Environment, _: &str) -> Result<Self> {
        bail!("no other server will do: the tests read its books and tell it to fail")
    }

    #[cfg(feature = "containers")]
    async fn container(environment: &Environment) -> Result<Self> {
        use testcontainers::ImageExt;
        use testcontainers::core::{ContainerPort, Mount};

        let port = crate::ports::free();
        let image = format!("outbox-test/pubsub:{}", local::source_version());
        let scratch = crate::scratch::Scratch::new("pubsub")?;
        let desk = local::Desk::new(scratch.path())?;
        let request = crate::container::image(environment, "OUTBOX_TEST_PUBSUB_IMAGE", &image)?
            .with_cmd(desk.arguments(&format!("0.0.0.0:{PORT}"), MOUNTED.as_ref()))
            .with_mount(Mount::bind_mount(scratch.path().display().to_string(), MOUNTED))
            .with_mapped_port(port, ContainerPort::Tcp(PORT));
        let container = crate::container::Container::start_in(request, scratch).await?;
        let url = url::Url::parse(&format!("http://{}:{port}", container.host()))?;
        let address = crate::server::address(&url, port)?;
        Ok(Self { instance: Instance::container(container), address, desk })
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::locate(environment)
    }

    async fn launch(installation: &Installation) -> Result<Self> {
        let port = crate::ports::free();
        let (server, desk) = installation.launch(port)?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Ok(Self { instance: Instance::local(server), address, desk })
    }

    async fn answers(&self) -> Result<()> {
        // A connection alone proves nothing: Docker accepts it before the server in the container listens.
        let missing = wire::Topic { name: "projects/outbox-test/topics/missing".to_owned() };
        let found: Result<wire::Topic, _> =
            wire::Client::new(self.address)?.call("Publisher/GetTopic", missing).await;
        if let Err(status) = found
            && status.code() != tonic::Code::NotFound
        {
            return Err(status.into());
        }
        self.desk.version().context("the server does not write its books into our folder")?;
        Ok(())
    }

    async fn version(&self) -> Result<String> {
        Ok(format!("{} (Google's fake)", self.desk.version()?))
    }
}
