//! SQLite.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Message, Result, Store};
use outbox_sqlite::sqlx::SqlitePool;
use outbox_sqlite::{Config, Durability, OpenOptions, Outbox};

use super::{PARTITIONS, StoreSettings, max_connections, wait};
use crate::config::Section;

struct Sqlite {
    path: PathBuf,
    open: OpenOptions,
    outbox: Outbox,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn StoreSettings>> {
    let allowed = "the path of a file; a database in memory belongs to one connection only";
    let path = section.text("path", allowed, |path| !path.is_empty() && !path.contains(":memory:"));
    if !section.has("path") {
        section.fault(
            "path is missing; write the file of the database, such as path = \"/var/lib/shop/shop.db\"",
        );
    }
    let mut config = Config::new();
    if let Some(prefix) = section.any_text("prefix") {
        config = config.prefix(prefix);
    }
    if let Some(partitions) = section.number("partitions", PARTITIONS) {
        config = config.partitions(partitions);
    }
    let look = Duration::from_millis(1)..=Duration::from_secs(60);
    if let Some(interval) = section.duration("wakeup_interval", look) {
        config = config.wakeup_interval(interval);
    }
    let choices = [("full", Durability::Full), ("normal", Durability::Normal)];
    let durability = section.choice("durability", &choices).unwrap_or_default();
    let (max_connections, busy_timeout) = (max_connections(section), wait(section, "busy_timeout"));
    let outbox = Outbox::new(config).map_err(|error| section.blame(&error)).ok()?;
    let path = PathBuf::from(path?);
    let open = OpenOptions::new(&path)
        .durability(durability)
        .busy_timeout(busy_timeout)
        .max_connections(max_connections);
    Some(Arc::new(Sqlite { path, open, outbox }))
}

#[async_trait]
impl StoreSettings for Sqlite {
    fn place(&self) -> String {
        format!("sqlite in {}, table {}", self.path.display(), self.outbox.config().message_table())
    }

    fn ddl(&self) -> String {
        self.outbox.ddl()
    }

    async fn open(&self) -> Result<Box<dyn super::Outbox>> {
        let pool = self.open.open().await?;
        Ok(Box::new(Open { outbox: self.outbox.clone(), pool }))
    }
}

struct Open {
    outbox: Outbox,
    pool: SqlitePool,
}

#[async_trait]
impl super::Outbox for Open {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.outbox.store(self.pool.clone()))
    }

    async fn migrate(&self) -> Result<()> {
        self.outbox.migrate(&self.pool).await
    }

    async fn enqueue(&self, messages: &[Message]) -> Result<()> {
        let outbox = &self.outbox;
        outbox
            .transaction(&self.pool, async |connection| outbox.enqueue_batch(connection, messages).await)
            .await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
