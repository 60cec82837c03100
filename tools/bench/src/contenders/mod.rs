//! Ways to get messages from a database to a broker: ours, and what it is measured against.

mod claim;
mod floor;
mod naive;
mod ours;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use outbox_core::{Message, Publisher as _};

pub use claim::Claim;
pub use floor::Floor;
pub use naive::Naive;
pub use ours::Ours;

use crate::databases::{Database, Table};
use crate::verify::Watched;

/// As many as our relay fetches at a time by default.
const BATCH: usize = 1_000;

/// A way to get messages from a database to a broker.
#[async_trait]
pub trait Contender: Send + Sync {
    /// Its name in the output.
    fn name(&self) -> &'static str;

    /// The table it works on.
    fn table(&self) -> Table;

    /// The most messages it is asked to drain. A slow one would take too long with all of them; it is told by its rate,
    /// and fewer messages only help it.
    fn most(&self) -> u64 {
        u64::MAX
    }

    /// Empties its table into the publisher. Returns when everything is confirmed and recorded, with the time it took.
    async fn drain(&self, database: Arc<dyn Database>, publisher: Arc<Watched>) -> Result<Duration>;
}

/// All of those that work on a database.
pub fn all() -> Vec<Arc<dyn Contender>> {
    vec![Arc::new(Ours::default()), Arc::new(Floor), Arc::new(Naive), Arc::new(Claim)]
}

/// Publishes, and stops the run at the first failure: there are none to be expected.
async fn publish(publisher: &Watched, batch: &[Message]) -> Result<()> {
    for outcome in publisher.publish(batch).await {
        if let Err(error) = outcome {
            bail!("a message was not published: {}", error.report());
        }
    }
    Ok(())
}
