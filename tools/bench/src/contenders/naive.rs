//! The method of simple libraries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;

use super::{Contender, publish};
use crate::databases::{Database, Table};
use crate::verify::Watched;

/// The typical batch size of such loops.
const BATCH: usize = 100;

/// Polls, publishes one by one, and updates each row.
#[derive(Clone, Copy, Debug)]
pub struct Naive;

#[async_trait]
impl Contender for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn table(&self) -> Table {
        Table::Marked
    }

    fn most(&self) -> u64 {
        3_000
    }

    async fn drain(&self, database: Arc<dyn Database>, publisher: Arc<Watched>) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let rows = database.unmarked(BATCH).await?;
            if rows.is_empty() {
                return Ok(started.elapsed());
            }
            for (position, message) in rows {
                publish(&publisher, &[message]).await?;
                database.mark(position).await?;
            }
        }
    }
}
