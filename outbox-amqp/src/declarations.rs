//! When the configured topology is declared.
//!
//! Once per publisher, not once per connection: to declare a queue asks its leader, and in a cluster that loses a node
//! that question, or a new binding, waits until the cluster has given the node up. Publishing goes on much earlier.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::dial::DialFailure;
use crate::link::Link;
use crate::topology::Topology;

/// The pause between two repetitions. A message that no queue takes may have nothing to do with the topology, and then
/// it must not have the topology declared at every attempt.
const PAUSE: Duration = Duration::from_secs(10);

/// Why a declaration failed, and of what.
#[derive(Clone, Debug)]
pub(crate) struct Undeclared {
    pub(crate) what: &'static str,
    pub(crate) name: String,
    pub(crate) error: lapin::Error,
}

/// The topology, and whether it has been declared.
#[derive(Debug)]
pub(crate) struct Declarations {
    topology: Topology,
    made: AtomicBool,
    /// When it was last declared again, and whether that worked.
    repeated: Mutex<Option<(Instant, bool)>>,
}

impl Declarations {
    pub(crate) fn new(topology: Topology) -> Self {
        let made = AtomicBool::new(topology.is_empty());
        Self { topology, made, repeated: Mutex::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.topology.is_empty()
    }

    /// Whether a message that went to this exchange and was not taken may have missed something of the topology.
    pub(crate) fn concern(&self, exchange: &str, routing_key: &str) -> bool {
        self.topology.concerns(exchange, routing_key)
    }

    /// Declares the topology unless that has been done.
    pub(crate) async fn make_once(&self, link: &Link, limit: Instant) -> Result<(), DialFailure> {
        if self.made.load(Ordering::Acquire) {
            return Ok(());
        }
        match timeout_at(limit, self.make(link)).await {
            Ok(made) => made?,
            Err(_) => {
                link.cut();
                return Err(DialFailure::TimedOut { tried: None });
            }
        }
        self.made.store(true, Ordering::Release);
        Ok(())
    }

    /// Declares the topology again, because a message shows that a part of it may be gone. True if it is there now.
    ///
    /// A failure is only logged: other messages may well get through, and those that do not say so themselves.
    pub(crate) async fn repeat(&self, link: &Link, limit: Instant) -> bool {
        let asked = Instant::now();
        let Ok(mut repeated) = timeout_at(limit, self.repeated.lock()).await else { return false };
        match *repeated {
            // While we waited for another call that does the same.
            Some((at, worked)) if at >= asked => return worked,
            Some((at, _)) if at.elapsed() < PAUSE => return false,
            _ => {}
        }
        let made = timeout_at(limit, self.make(link)).await;
        let worked = matches!(made, Ok(Ok(())));
        *repeated = Some((Instant::now(), worked));
        match made {
            Ok(Ok(())) => info!(broker = %link.endpoint().broker, "topology declared again"),
            Ok(Err(error)) => {
                warn!(broker = %link.endpoint().broker, ?error, "cannot declare the topology again")
            }
            Err(_) => warn!(broker = %link.endpoint().broker, "cannot declare the topology again in time"),
        }
        worked
    }

    async fn make(&self, link: &Link) -> Result<(), DialFailure> {
        let refused = |error| DialFailure::Refused { error, tried: None };
        let channel = link.open_channel().await.map_err(refused)?;
        self.topology.declare(&channel).await.map_err(DialFailure::Undeclared)?;
        self.topology.exchange_names().for_each(|name| link.exchanges().exists(name));
        Ok(())
    }
}
