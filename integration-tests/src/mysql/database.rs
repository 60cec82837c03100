//! One database per test.

use anyhow::{Context, Result};
use sqlx::mysql::{MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Connection};
use url::Url;

use crate::names;
use crate::proxy::Proxy;
use crate::runtime;

/// Dropping waits for whoever uses the database, and new ones may come while the old ones are sent away.
const DROPS: usize = 5;

/// A database of one test. It is dropped with this value, along with what connections there still are.
#[derive(Debug)]
pub struct Database {
    admin: Url,
    url: Url,
    name: String,
}

impl Database {
    pub(super) async fn create(admin: &Url) -> Result<Self> {
        let name = names::fresh();
        let mut connection = MySqlConnection::connect(admin.as_str()).await?;
        run(&mut connection, format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await?;
        connection.close().await?;
        let mut url = admin.clone();
        url.set_path(&name);
        Ok(Self { admin: admin.clone(), url, name })
    }

    /// The database's name, which needs no quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The database's URL, with a user who may do everything.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The same through a proxy in front of the server.
    pub fn url_through(&self, proxy: &Proxy) -> String {
        crate::proxy::through(&self.url, proxy)
    }

    /// A new pool with up to `connections` connections.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn pool(&self, connections: u32) -> MySqlPool {
        let pool = MySqlPoolOptions::new().max_connections(connections).connect(self.url()).await;
        pool.unwrap_or_else(|error| panic!("cannot connect to the test's database: {error}"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), std::mem::take(&mut self.name));
        // The test goes on, or is over. Should this not come to its end, the whole server goes with the test
        // process, or `drop_old` finds the database later.
        runtime::spawn(async move {
            let _ = drop_database(&admin, &name).await;
        });
    }
}

async fn run(connection: &mut MySqlConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await.map(drop)
}

async fn drop_database(admin: &Url, name: &str) -> Result<()> {
    let mut connection = MySqlConnection::connect(admin.as_str()).await?;
    // By default it would wait for a day or longer, for sessions that use a table.
    run(&mut connection, "SET SESSION lock_wait_timeout = 5".to_owned()).await?;
    let mut dropped = Ok(());
    for _ in 0..DROPS {
        let users: Vec<u64> =
            // Signed on one of the products, unsigned on the other.
            sqlx::query_scalar("SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist WHERE db = ?")
                .bind(name)
                .fetch_all(&mut connection)
                .await?;
        for user in users {
            // It may have gone by itself.
            let _ = run(&mut connection, format!("KILL {user}")).await;
        }
        dropped = run(&mut connection, format!("DROP DATABASE IF EXISTS {name}")).await;
        if dropped.is_ok() {
            break;
        }
    }
    connection.close().await?;
    Ok(dropped?)
}

/// Drops the databases of former test processes from a server that outlives them.
pub(super) async fn drop_old(admin: &Url) -> Result<()> {
    let mut connection = MySqlConnection::connect(admin.as_str()).await.context("cannot connect")?;
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT CAST(schema_name AS CHAR) FROM information_schema.schemata WHERE LEFT(schema_name, ?) = ?",
    )
    .bind(u32::try_from(names::PREFIX.len())?)
    .bind(names::PREFIX)
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    for name in found.iter().filter(|name| names::is_left_over(name)) {
        drop_database(admin, name).await?;
    }
    Ok(())
}
