//! One database per test.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection};
use url::Url;

use crate::names;
use crate::proxy::Proxy;
use crate::runtime;

/// Maximum time to wait for a connection of a pool.
const ACQUIRE: Duration = Duration::from_secs(120);

/// A database of one test. It is dropped with this value, and its connections are closed.
#[derive(Debug)]
pub struct Database {
    admin: Url,
    url: Url,
    name: String,
}

impl Database {
    pub(super) async fn create(admin: &Url) -> Result<Self> {
        let name = names::fresh();
        let mut connection = PgConnection::connect(admin.as_str()).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
        connection.close().await?;
        let mut url = admin.clone();
        url.set_path(&name);
        Ok(Self { admin: admin.clone(), url, name })
    }

    /// The database's name, which needs no quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The database's URL, with a user who has all privileges.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The same through a proxy in front of the server.
    pub fn url_through(&self, proxy: &Proxy) -> String {
        crate::proxy::through(&self.url, proxy)
    }

    /// Returns a new pool with up to `connections` connections. It waits for a connection as long as a busy
    /// machine may need.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn pool(&self, connections: u32) -> PgPool {
        let options = PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE);
        let pool = options.connect(self.url()).await;
        pool.unwrap_or_else(|error| panic!("cannot connect to the test's database: {error}"))
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
    let mut connection = PgConnection::connect(admin.as_str()).await?;
    let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Drops the databases of former test processes from a server that outlives them.
pub(super) async fn drop_old(admin: &Url) -> Result<()> {
    let mut connection = PgConnection::connect(admin.as_str()).await.context("cannot connect")?;
    let found: Vec<String> =
        sqlx::query_scalar("SELECT datname FROM pg_database WHERE starts_with(datname, $1)")
            .bind(names::PREFIX)
            .fetch_all(&mut connection)
            .await?;
    for name in found.iter().filter(|name| names::is_left_over(name)) {
        drop_database(admin, name).await?;
    }
    connection.close().await?;
    Ok(())
}
