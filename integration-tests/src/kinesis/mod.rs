//! A server of the protocol of Amazon Kinesis Data Streams for tests.

mod faults;
mod reading;
mod serving;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Config, Credentials, Region, StalledStreamProtectionConfig};
use tokio::sync::Mutex;

pub use faults::Fault;
pub use reading::Record;

use self::faults::Desk;
use crate::environment::Environment;
use crate::report::{self, Way};
use crate::serving::Serving;

/// An emulator of Amazon Kinesis, in threads of this process, on a loopback port of its own.
///
/// It is no process of its own: a kill ends its threads' work at the next point where they wait, and closes its
/// connections. What it does not prove: anything about a machine that loses its power.
///
/// ```no_run
/// use integration_tests::Kinesis;
///
/// # async fn example() {
/// let kinesis = Kinesis::start().await;
/// let stream = kinesis.stream(2).await; // new and empty, of two shards
/// let client = kinesis.client();
/// // ... put records ...
/// let records = kinesis.records(&stream).await;
/// # }
/// ```
#[derive(Debug)]
pub struct Kinesis {
    address: SocketAddr,
    enforces_limits: bool,
    folder: Option<tempfile::TempDir>,
    serving: Mutex<Option<Serving>>,
    desk: Arc<Desk>,
}

impl Kinesis {
    /// A server whose shards take as much as they get.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        Self::launch(false, None).await
    }

    /// A server whose shards take 1 MiB and 1000 records a second and no more, as the real ones.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_with_limits() -> Self {
        Self::launch(true, None).await
    }

    /// The same, which keeps on disk what it has confirmed, so that it is there after [`kill`](Self::kill) and
    /// [`restart`](Self::restart).
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_durable() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server's data");
        Self::launch(true, Some(folder)).await
    }

    async fn launch(enforces_limits: bool, folder: Option<tempfile::TempDir>) -> Self {
        let kinesis = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, crate::ports::free())),
            enforces_limits,
            folder,
            serving: Mutex::default(),
            desk: Arc::default(),
        };
        kinesis.restart().await;
        report::used(&Environment::of_process(), "kinesis", Way::InTest, "ferrokinesis");
        kinesis
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests of this action came, such as `PutRecords`, since it was started first.
    pub fn requests(&self, action: &str) -> usize {
        self.desk.requests(action)
    }

    /// Changes what happens to requests that put records, from now on.
    pub fn set(&self, fault: Fault) {
        self.desk.set(fault);
    }

    /// A new client of this server.
    pub fn client(&self) -> Client {
        client(self.address)
    }

    /// Ends it at once. Does nothing if it does not run.
    pub async fn kill(&self) {
        if let Some(serving) = self.serving.lock().await.take() {
            serving.end().await;
        }
    }

    /// Starts it again on the same port; with what it had confirmed if it is durable, empty if not.
    ///
    /// # Panics
    /// If it runs, or does not start.
    pub async fn restart(&self) {
        let mut serving = self.serving.lock().await;
        assert!(serving.is_none(), "it runs");
        let folder = self.folder.as_ref().map(tempfile::TempDir::path);
        let started = serving::start(self.address, folder, self.enforces_limits, self.desk.clone()).await;
        *serving = Some(started.expect("the server starts"));
    }

    /// A new stream.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn stream(&self, shards: i32) -> String {
        let name = crate::names::fresh();
        let client = self.client();
        let create = client.create_stream().stream_name(&name).shard_count(shards);
        create.send().await.expect("the stream can be made");
        reading::wait_until_active(&client, &name).await;
        name
    }

    /// Everything in a stream, each shard in its order.
    ///
    /// # Panics
    /// If the server does not answer, or a record is no data that it was given.
    pub async fn records(&self, stream: &str) -> Vec<Record> {
        reading::records(&self.client(), stream).await
    }
}

/// Maximum time for a connection, longer than the few seconds that the client takes by itself.
const CONNECT: Duration = Duration::from_secs(60);

/// A new client of the server at this address, or of a proxy before it. It has credentials of nobody, and repeats
/// nothing.
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
