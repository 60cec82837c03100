//! The smallest amount of work that could be correct without failures: one reader with a cursor, no retries,
//! no leases.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{BATCH, Contender, publish};
use crate::databases::{Database, Row, Table};
use crate::verify::Watched;

/// Reads past a cursor, publishes, and deletes by id. The three run concurrently, each on a separate
/// connection.
#[derive(Clone, Copy, Debug)]
pub struct Floor;

#[async_trait]
impl Contender for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn table(&self) -> Table {
        Table::Plain
    }

    async fn drain(&self, database: Arc<dyn Database>, publisher: Arc<Watched>) -> Result<Duration> {
        let started = Instant::now();
        let (read, mut to_publish) = mpsc::channel::<Vec<Row>>(1);
        let (published, mut to_delete) = mpsc::channel::<Vec<i64>>(2);
        let source = database.clone();
        let reader = tokio::spawn(async move {
            let mut cursor = 0;
            loop {
                let rows = source.read_after(cursor, BATCH).await?;
                let Some((last, _)) = rows.last() else { return anyhow::Ok(()) };
                cursor = *last;
                if read.send(rows).await.is_err() {
                    return Ok(());
                }
            }
        });
        let deleter = tokio::spawn(async move {
            while let Some(ids) = to_delete.recv().await {
                database.delete(Table::Plain, ids).await?;
            }
            anyhow::Ok(())
        });
        while let Some(rows) = to_publish.recv().await {
            let (ids, messages): (Vec<i64>, Vec<_>) = rows.into_iter().unzip();
            publish(&publisher, &messages).await?;
            published.send(ids).await.context("the deleting has failed")?;
        }
        drop(published);
        reader.await??;
        deleter.await??;
        Ok(started.elapsed())
    }
}
