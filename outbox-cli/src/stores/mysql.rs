//! MySQL and MariaDB.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Message, Result, Store};
use outbox_mysql::sqlx::MySqlPool;
use outbox_mysql::sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use outbox_mysql::{Config, Outbox};

use super::{PARTITIONS, StoreSettings, max_connections, wait};
use crate::config::Section;

struct MySql {
    connect: Box<MySqlConnectOptions>,
    outbox: Outbox,
    table: String,
    max_connections: u32,
    acquire_timeout: Duration,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn StoreSettings>> {
    let url = section.url("mysql://user@host:3306/database");
    let password = section.secret("password");
    let mut config = Config::new();
    if let Some(database) = section.any_text("database") {
        config = config.database(database);
    }
    if let Some(prefix) = section.any_text("prefix") {
        config = config.prefix(prefix);
    }
    if let Some(partitions) = section.number("partitions", PARTITIONS) {
        config = config.partitions(partitions);
    }
    let (max_connections, acquire_timeout) = (max_connections(section), wait(section, "acquire_timeout"));
    let table = config.message_table();
    let outbox = Outbox::new(config).map_err(|error| section.blame(&error)).ok()?;
    let url = url?;
    // The parser's error may quote the URL.
    let known = url.reveal().starts_with("mysql://") || url.reveal().starts_with("mariadb://");
    let Some(mut connect) = MySqlConnectOptions::from_str(url.reveal()).ok().filter(|_| known) else {
        section.fault_in(
            section.way("url"),
            "is invalid; expected mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY",
        );
        return None;
    };
    if let Some(password) = password {
        connect = connect.password(password.reveal());
    }
    Some(Arc::new(MySql {
        connect: Box::new(connect),
        outbox,
        table: table.ok()?,
        max_connections,
        acquire_timeout,
    }))
}

#[async_trait]
impl StoreSettings for MySql {
    fn place(&self) -> String {
        format!(
            "mysql at {}:{}, database {}, table {}",
            self.connect.get_host(),
            self.connect.get_port(),
            self.connect.get_database().unwrap_or("(none)"),
            self.table
        )
    }

    fn ddl(&self) -> String {
        self.outbox.ddl()
    }

    async fn open(&self) -> Result<Box<dyn super::Outbox>> {
        let pool = MySqlPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire_timeout)
            .connect_lazy_with((*self.connect).clone());
        Ok(Box::new(Open { outbox: self.outbox.clone(), pool }))
    }
}

struct Open {
    outbox: Outbox,
    pool: MySqlPool,
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
