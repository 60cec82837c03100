//! A pooler between the tests and a server.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use url::Url;

use super::Database;
use crate::downloads;
use crate::launch::{Launch, LocalServer, User};
use crate::scratch::Scratch;
use crate::server::STARTS;
use crate::tool::Tool;

/// Number of the pooler's sessions for all its clients.
const SESSIONS: u32 = 3;

/// A PgBouncer in front of the server of one database. It passes a session to another client after each
/// transaction. It ends when dropped.
///
/// ```no_run
/// use integration_tests::postgres::PgBouncer;
/// use integration_tests::{Postgres, Server};
///
/// # async fn example() {
/// let Some(postgres) = Postgres::shared().await else { return };
/// let database = postgres.database().await;
/// let Some(pooler) = PgBouncer::before(&database, &["max_prepared_statements = 0"]) else { return };
/// let url = pooler.url();
/// # }
/// ```
#[derive(Debug)]
pub struct PgBouncer {
    _server: LocalServer,
    url: Url,
}

impl PgBouncer {
    /// Starts it, with additional lines of its configuration. It has three sessions with the server.
    ///
    /// Returns `None` if there is no PgBouncer and it is not required. The skip has been reported, and the
    /// test must return.
    ///
    /// # Panics
    /// If it does not start, or `OUTBOX_TEST_REQUIRE` names it and it is missing.
    pub fn before(database: &Database, settings: &[&str]) -> Option<Self> {
        let root = Tool::PgBouncer.find()?;
        let mut failure = None;
        for _ in 0..STARTS {
            match Self::start(&root, database, settings) {
                Ok(pooler) => return Some(pooler),
                Err(error) => failure = Some(error),
            }
        }
        panic!("cannot start PgBouncer: {:#}", failure.expect("it was tried"))
    }

    /// The URL of the database through the pooler, for a user who has all privileges.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    fn start(root: &Path, database: &Database, settings: &[&str]) -> Result<Self> {
        let port = crate::ports::free();
        let mut url = Url::parse(database.url())?;
        let scratch = Scratch::new("pgbouncer")?;
        let user = User::for_server("pgbouncer")?;
        User::own(user, scratch.path())?;
        let file = scratch.path().join("pgbouncer.ini");
        fs::write(&file, configuration(&url, port, settings)?)?;
        let (program, mut arguments) = downloads::with_libraries_of(root, &root.join("usr/sbin/pgbouncer"))?;
        arguments.push(file.display().to_string());
        let launch =
            Launch { name: "pgbouncer", program, arguments, variables: Vec::new(), user, port: Some(port) };
        let server = LocalServer::start(vec![launch], scratch)?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(port)).ok().context("the URL takes no port")?;
        url.set_password(None).ok().context("the URL takes no password")?;
        Ok(Self { _server: server, url })
    }
}

/// In front of the server of a URL. Drivers set `extra_float_digits` at the start of a session, which
/// PgBouncer refuses unless it is configured to ignore it.
fn configuration(server: &Url, port: u16, settings: &[&str]) -> Result<String> {
    let address = crate::server::address(server, 5432)?;
    let password = server.password().map(|password| format!(" password={}", quoted(password)));
    Ok(format!(
        "[databases]
* = host={host} port={server_port} user={user}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SESSIONS}
ignore_startup_parameters = extra_float_digits
{settings}
",
        host = address.ip(),
        server_port = address.port(),
        user = quoted(server.username()),
        password = password.unwrap_or_default(),
        settings = settings.join("\n"),
    ))
}

/// As a value in the line of a database.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
