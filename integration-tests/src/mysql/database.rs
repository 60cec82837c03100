//! One database per test.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::mysql::{MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Row as _};
use url::Url;

use crate::names;
use crate::proxy::Proxy;
use crate::runtime;

/// Maximum time to wait for a connection of a pool.
const ACQUIRE: Duration = Duration::from_secs(120);

/// Dropping waits for sessions that use the database, and new ones may connect while the old ones are ended.
const DROPS: usize = 5;

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

    /// The database's URL, with a user who has all privileges.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Ends all sessions that use the database.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn kill_sessions(&self) {
        let killed = async {
            let mut connection = MySqlConnection::connect(self.admin.as_str()).await?;
            kill_sessions(&mut connection, &self.name).await?;
            anyhow::Ok(connection.close().await?)
        };
        killed
            .await
            .unwrap_or_else(|error| panic!("cannot end the sessions of the test's database: {error}"));
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
    pub async fn pool(&self, connections: u32) -> MySqlPool {
        let options = MySqlPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE);
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

async fn run(connection: &mut MySqlConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await.map(drop)
}

async fn drop_database(admin: &Url, name: &str) -> Result<()> {
    let mut connection = MySqlConnection::connect(admin.as_str()).await?;
    // By default it would wait for a day or longer for sessions that use a table.
    run(&mut connection, "SET SESSION lock_wait_timeout = 5".to_owned()).await?;
    let mut dropped = Ok(());
    for _ in 0..DROPS {
        kill_sessions(&mut connection, name).await?;
        dropped = run(&mut connection, format!("DROP DATABASE IF EXISTS {name}")).await;
        if dropped.is_ok() {
            break;
        }
    }
    connection.close().await?;
    Ok(dropped?)
}

/// Ends all sessions that use a database, except the current one.
///
/// Does not use `information_schema.processlist`: in MySQL that fails while any statement in the server
/// contains bytes that are not text (3854).
async fn kill_sessions(connection: &mut MySqlConnection, name: &str) -> Result<()> {
    let own: u64 =
        sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS UNSIGNED)").fetch_one(&mut *connection).await?;
    for session in sqlx::raw_sql("SHOW PROCESSLIST").fetch_all(&mut *connection).await? {
        // Signed in one of the products, unsigned in the other.
        let id: u64 = session.try_get_unchecked("Id")?;
        let database: Option<String> = session.try_get_unchecked("db")?;
        if id != own && database.as_deref() == Some(name) {
            // It may have ended already.
            let _ = run(connection, format!("KILL {id}")).await;
        }
    }
    Ok(())
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
