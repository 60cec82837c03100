//! SQL Server.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{Message, Result, Store};
use outbox_mssql::tiberius::{self, AuthMethod, EncryptionLevel};
use outbox_mssql::{Config, Outbox, Pool};
use percent_encoding::percent_decode_str;
use url::Url;

use super::{PARTITIONS, StoreSettings, max_connections};
use crate::config::{Secret, Section};

struct Mssql {
    /// Host, port and database, for people.
    server: String,
    connect: tiberius::Config,
    outbox: Outbox,
    table: String,
    max_connections: usize,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn StoreSettings>> {
    let url = section.url("mssql://user@host:1433/database");
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
    let encryption = [
        ("required", EncryptionLevel::Required),
        ("strict", EncryptionLevel::Strict),
        ("login", EncryptionLevel::Off),
        ("none", EncryptionLevel::NotSupported),
    ];
    let encryption = section.choice("encryption", &encryption).unwrap_or(EncryptionLevel::Required);
    let trust = section.truth("trust_server_certificate").unwrap_or(false);
    let authority = section.any_text("ca_file");
    if trust && authority.is_some() {
        section
            .fault_in("ca_file", "cannot be combined with trust_server_certificate = true; keep one of them");
    }
    let max_connections = max_connections(section) as usize;
    let table = config.message_table();
    let outbox = Outbox::new(config).map_err(|error| section.blame(&error)).ok()?;
    let url = url?;
    let Some((server, mut connect)) = parse(&url, password.as_ref()) else {
        section.fault_in(
            section.way("url"),
            "is invalid; expected mssql://user:password@host:1433/database, or a separate password",
        );
        return None;
    };
    connect.encryption(encryption);
    match authority {
        _ if trust => connect.trust_cert(),
        Some(authority) => connect.trust_cert_ca(authority),
        None => {}
    }
    let table = table.ok()?;
    Some(Arc::new(Mssql { server, connect, outbox, table, max_connections }))
}

fn parse(url: &Secret, password: Option<&Secret>) -> Option<(String, tiberius::Config)> {
    let url = Url::parse(url.reveal()).ok().filter(|url| url.scheme() == "mssql" && url.query().is_none())?;
    let decoded = |text| percent_decode_str(text).decode_utf8().ok().map(String::from);
    let host = url.host_str()?;
    let port = url.port().unwrap_or(1433);
    let database = decoded(url.path().trim_matches('/')).filter(|database| !database.is_empty())?;
    let user = decoded(url.username()).filter(|user| !user.is_empty())?;
    let password = match password {
        Some(password) => password.reveal().to_owned(),
        None => decoded(url.password()?)?,
    };
    let mut config = tiberius::Config::new();
    config.host(host);
    config.port(port);
    config.database(&database);
    config.application_name("outbox");
    config.authentication(AuthMethod::sql_server(user, password));
    Some((format!("{host}:{port}, database {database}"), config))
}

#[async_trait]
impl StoreSettings for Mssql {
    fn place(&self) -> String {
        format!("mssql at {}, table {}", self.server, self.table)
    }

    fn ddl(&self) -> String {
        self.outbox.ddl()
    }

    async fn open(&self) -> Result<Box<dyn super::Outbox>> {
        let pool = Pool::new(self.connect.clone(), self.max_connections)?;
        Ok(Box::new(Open { outbox: self.outbox.clone(), pool }))
    }
}

struct Open {
    outbox: Outbox,
    pool: Pool,
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
        outbox.transaction(&self.pool, async |client| outbox.enqueue_batch(client, messages).await).await
    }

    async fn close(&self) {
        self.pool.close();
    }
}
