//! The relay of this project.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use outbox_core::{Relay, Settings};

use super::Contender;
use crate::databases::{Database, Table};
use crate::verify::Watched;

/// The relay of this project, with its default settings unless others are given.
#[derive(Clone, Debug, Default)]
pub struct Ours {
    settings: Settings,
}

impl Ours {
    /// With other settings.
    pub fn with(settings: Settings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Contender for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn table(&self) -> Table {
        Table::Outbox
    }

    async fn drain(&self, database: Arc<dyn Database>, publisher: Arc<Watched>) -> Result<Duration> {
        let started = Instant::now();
        let relay =
            Relay::builder(database.store(), publisher.clone()).settings(self.settings.clone()).build()?;
        let relay = relay.spawn();
        publisher.all_confirmed().await;
        // Waits until all messages are settled.
        relay.shutdown().await?;
        Ok(started.elapsed())
    }
}
