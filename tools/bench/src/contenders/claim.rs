//! The method of libraries for several workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;

use super::{BATCH, Contender, publish};
use crate::databases::{Database, Table};
use crate::verify::Watched;

/// Claims rows with `FOR UPDATE SKIP LOCKED` for a time, publishes them as one batch, and deletes them. One
/// worker: with several, keys would lose their order.
#[derive(Clone, Copy, Debug)]
pub struct Claim;

#[async_trait]
impl Contender for Claim {
    fn name(&self) -> &'static str {
        "claim"
    }

    fn table(&self) -> Table {
        Table::Claimed
    }

    async fn drain(&self, database: Arc<dyn Database>, publisher: Arc<Watched>) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let rows = database.claim(BATCH).await?;
            if rows.is_empty() {
                return Ok(started.elapsed());
            }
            let (ids, messages): (Vec<i64>, Vec<_>) = rows.into_iter().unzip();
            publish(&publisher, &messages).await?;
            database.delete(Table::Claimed, ids).await?;
        }
    }
}
