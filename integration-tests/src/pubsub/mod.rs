//! Google Cloud Pub/Sub for tests.

mod local;
mod topic;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Result, bail};
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

/// The payload that no topic takes: a request with it is refused as a whole.
pub const POISON: &str = "poison";

/// Google's fake of Pub/Sub in a program of ours (`server/main.go`), which keeps books and fails as it is told.
///
/// It keeps messages in memory: a kill takes with it what it had not delivered, and all subscriptions. The topics come
/// back with it, and the books are files.
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

/// A publish request in the books of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The full name of the topic.
    pub topic: String,
    /// The ordering key of its messages.
    pub key: String,
    /// What became of it: `OK`, or the name of another code of gRPC.
    pub code: String,
    /// Of each message, the attribute `outbox-id`.
    pub ids: Vec<String>,
    /// Of each message, the beginning of its payload.
    pub heads: Vec<String>,
}

impl Entry {
    /// Whether the server has taken the messages.
    pub fn was_taken(&self) -> bool {
        self.code == "OK"
    }
}

struct Books;

impl Books {
    /// What is in the books. A server that is killed may leave half a line behind.
    fn read(file: &Path) -> Vec<Entry> {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("no books: {error}"));
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
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
        // No image has it: it is our own program, in whichever way the other servers are had.
        Self::launch(&Self::locate(environment)?).await
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
        // It listens only when it can serve.
        tokio::net::TcpStream::connect(self.address).await?;
        Ok(())
    }
}
