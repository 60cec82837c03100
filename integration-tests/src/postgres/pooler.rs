//! A pooler between the tests and a server.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use url::Url;

use super::Database;
use crate::downloads;
use crate::launch::{Launch, LocalServer, User};
use crate::scratch::Scratch;
use crate::tool::Tool;

/// Somebody else may take the port in between.
const STARTS: usize = 3;
/// How many sessions the pooler has for all that connect to it.
const SESSIONS: u32 = 3;

/// A PgBouncer before the server of one database, which hands a session to somebody else after each transaction. It ends when
/// dropped.
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
    /// Starts it, with further lines of its configuration. It has three sessions with the server.
    ///
    /// `None` means that the test is to return, because there is no PgBouncer here and nobody requires it; the skip has been
    /// reported already.
    ///
    /// # Panics
    /// If it does not start, or `OUTBOX_TEST_REQUIRE` names it and it is not there.
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

    /// The URL of the database through the pooler, for a user who may do everything.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    fn start(root: &Path, database: &Database, settings: &[&str]) -> Result<Self> {
        let port = crate::ports::free();
        let mut url = Url::parse(database.url())?;
        let server = Server::of(&url)?;
        let scratch = Scratch::new("pgbouncer")?;
        let user = User::for_server("pgbouncer")?;
        User::own(user, scratch.path())?;
        let file = scratch.path().join("pgbouncer.ini");
        fs::write(&file, server.configuration(port, settings))?;
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

/// Where the pooler finds the server.
struct Server {
    host: String,
    port: u16,
    user: String,
    password: Option<String>,
}

impl Server {
    fn of(url: &Url) -> Result<Self> {
        let address = crate::server::address(url, 5432)?;
        let password = url.password().map(str::to_owned);
        Ok(Self {
            host: address.ip().to_string(),
            port: address.port(),
            user: url.username().to_owned(),
            password,
        })
    }

    /// Drivers ask for `extra_float_digits` at the start of a session, which it refuses unless told otherwise.
    fn configuration(&self, port: u16, settings: &[&str]) -> String {
        let Self { host, port: server, user, password } = self;
        let password = password.as_ref().map(|password| format!(" password={}", quoted(password)));
        let settings = settings.join("\n");
        format!(
            "[databases]
* = host={host} port={server} user={user}{password}
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
            user = quoted(user),
            password = password.unwrap_or_default(),
        )
    }
}

/// As a value of a database's line.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
