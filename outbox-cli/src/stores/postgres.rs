//! PostgreSQL.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Message, Result, Store};
use outbox_postgres::sqlx::PgPool;
use outbox_postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use outbox_postgres::{Config, Outbox};

use super::{PARTITIONS, StoreSettings, max_connections, wait};
use crate::config::Section;

struct Postgres {
    connect: Box<PgConnectOptions>,
    outbox: Outbox,
    table: String,
    max_connections: u32,
    acquire_timeout: Duration,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn StoreSettings>> {
    let url = section.url("postgres://user@host:5432/database");
    let password = section.secret("password");
    let mut config = Config::new();
    if let Some(schema) = section.any_text("schema") {
        config = config.schema(schema);
    }
    if let Some(prefix) = section.any_text("prefix") {
        config = config.prefix(prefix);
    }
    if let Some(partitions) = section.number("partitions", PARTITIONS) {
        config = config.partitions(partitions);
    }
    if let Some(wakeups) = section.truth("wakeups") {
        config = config.wakeups(wakeups);
    }
    let (max_connections, acquire_timeout) = (max_connections(section), wait(section, "acquire_timeout"));
    let table = config.message_table();
    let outbox = Outbox::new(config).map_err(|error| section.blame(&error)).ok()?;
    let url = url?;
    // The parser's error may quote the URL.
    let known = url.reveal().starts_with("postgres://") || url.reveal().starts_with("postgresql://");
    let Some(mut connect) = PgConnectOptions::from_str(url.reveal()).ok().filter(|_| known) else {
        section.fault_in(
            section.way("url"),
            "is invalid; expected postgres://user:password@host:5432/database?sslmode=verify-full",
        );
        return None;
    };
    if let Some(password) = password {
        connect = connect.password(password.reveal());
    }
    // Who looks at the sessions of the server should know whose they are.
    if connect.get_application_name().is_none() {
        connect = connect.application_name("outbox");
    }
    Some(Arc::new(Postgres {
        connect: Box::new(connect),
        outbox,
        table: table.ok()?,
        max_connections,
        acquire_timeout,
    }))
}

#[async_trait]
impl StoreSettings for Postgres {
    fn place(&self) -> String {
        let database = self.connect.get_database().unwrap_or_else(|| self.connect.get_username());
        format!(
            "postgres at {}:{}, database {database}, table {}",
            self.connect.get_host(),
            self.connect.get_port(),
            self.table
        )
    }

    fn ddl(&self) -> String {
        self.outbox.ddl()
    }

    async fn open(&self) -> Result<Box<dyn super::Outbox>> {
        let pool = PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire_timeout)
            .connect_lazy_with((*self.connect).clone());
        Ok(Box::new(Open { outbox: self.outbox.clone(), pool }))
    }
}

struct Open {
    outbox: Outbox,
    pool: PgPool,
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
        // One statement is one transaction.
        self.outbox.enqueue_batch(&self.pool, messages).await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
