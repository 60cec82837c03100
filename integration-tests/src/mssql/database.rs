//! One database per test.

use std::time::Duration;

use anyhow::{Context, Result};
use tiberius::Config;
use tokio::sync::Mutex;
use url::Url;

use super::connect::{self, Client};
use crate::eventually::poll_until;
use crate::names;
use crate::proxy::Proxy;
use crate::runtime;

/// Number of attempts to create a database. If two are created concurrently, the server may refuse one.
const TRIES: usize = 20;
/// How long other sessions may keep using a database that is being dropped.
const DROP: Duration = Duration::from_secs(120);

/// A database of one test. It is dropped with this value, and its connections are closed.
pub struct Database {
    admin: Url,
    url: Url,
    name: String,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Database {
    pub(super) async fn create(admin: &Url) -> Result<Self> {
        // The server creates a database by copying another one, which it locks. Other test processes may do
        // the same.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

        let name = names::fresh();
        let guard = ONE_AT_A_TIME.lock().await;
        let mut made = Ok(());
        for _ in 0..TRIES {
            made = connect::run(admin, &format!("CREATE DATABASE {name}")).await;
            if made.is_ok() {
                break;
            }
        }
        made?;
        drop(guard);
        let mut url = admin.clone();
        url.set_path(&name);
        Ok(Self { admin: admin.clone(), url, name })
    }

    /// The database's name, which needs no quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The database's URL, as [`SqlServer`](super::SqlServer) describes it, with a user who has all
    /// privileges.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The same through a proxy in front of the server.
    pub fn url_through(&self, proxy: &Proxy) -> String {
        crate::proxy::through(&self.url, proxy)
    }

    /// The driver's settings for connections to the database, with the driver's defaults.
    ///
    /// # Panics
    /// Never: the URL was parsed when the server was found.
    pub fn config(&self) -> Config {
        connect::config(&self.url).expect("understood before")
    }

    /// The same through a proxy in front of the server.
    ///
    /// # Panics
    /// As [`config`](Self::config).
    pub fn config_through(&self, proxy: &Proxy) -> Config {
        let mut config = self.config();
        config.host(proxy.address().ip());
        config.port(proxy.port());
        config
    }

    /// A new connection.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn connect(&self) -> Client {
        let client = connect::connect(&self.url).await;
        client.unwrap_or_else(|error| panic!("cannot connect to the test's database: {error:#}"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), std::mem::take(&mut self.name));
        // The test continues or has ended. If dropping does not finish, the whole server ends with the test
        // process, or `drop_old` finds the database later.
        runtime::spawn(async move {
            let _ = drop_database(&admin, &name).await;
        });
    }
}

async fn drop_database(admin: &Url, name: &str) -> Result<()> {
    let dropped = poll_until(DROP, || async {
        // Other servers with this protocol do not support this. There the sessions must end without it.
        let evict = format!("ALTER DATABASE {name} SET SINGLE_USER WITH ROLLBACK IMMEDIATE");
        let _ = connect::run(admin, &evict).await;
        // Another session may have become the single user meanwhile.
        connect::run(admin, &format!("DROP DATABASE {name}")).await.ok()
    });
    dropped.await.with_context(|| format!("cannot drop {name}"))
}

/// Drops the databases of former test processes from a server that outlives them.
pub(super) async fn drop_old(admin: &Url) -> Result<()> {
    let mut client = connect::connect(admin).await.context("cannot connect")?;
    let rows = client.simple_query("SELECT name FROM sys.databases").await?.into_first_result().await?;
    client.close().await?;
    let names = rows.iter().filter_map(|row| row.try_get::<&str, _>(0).ok().flatten());
    for name in names.filter(|name| names::is_left_over(name)) {
        drop_database(admin, name).await?;
    }
    Ok(())
}
