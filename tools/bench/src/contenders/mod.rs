//! Methods of moving messages from a database to a broker: the relay, and the ones it is compared with.

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

/// The relay's default fetch size.
const BATCH: usize = 1_000;

/// A method of moving messages from a database to a broker.
#[async_trait]
pub trait Contender: Send + Sync {
    /// Its name in the output.
    fn name(&self) -> &'static str;

    /// The table it works on.
    fn table(&self) -> Table;

    /// Maximum number of messages that it drains. A slow one would take too long with all of them; its result
    /// is a rate, and fewer messages can only improve it.
    fn most(&self) -> u64 {
        u64::MAX
    }

    /// Empties its table into the publisher. Returns the time it took until everything was confirmed and
    /// recorded.
    async fn drain(&self, database: Arc<dyn Database>, publisher: Arc<Watched>) -> Result<Duration>;
}

/// All contenders that work on a database.
pub fn all() -> Vec<Arc<dyn Contender>> {
    vec![Arc::new(Ours::default()), Arc::new(Floor), Arc::new(Naive), Arc::new(Claim)]
}

/// Publishes, and stops the run at the first failure: none is expected.
async fn publish(publisher: &Watched, batch: &[Message]) -> Result<()> {
    for outcome in publisher.publish(batch).await {
        if let Err(error) = outcome {
            bail!("a message was not published: {}", error.report());
        }
    }
    Ok(())
}
