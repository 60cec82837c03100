//! One database per test.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection};
use url::Url;

use crate::proxy::Proxy;
use crate::runtime;

/// Names of test databases are this, the time of their creation and a random number.
const PREFIX: &str = "outbox_test_";
/// No test runs as long: an older database was left behind by a test process that was killed.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// A database of one test. It is dropped with this value, along with what connections there still are.
#[derive(Debug)]
pub struct Database {
    admin: Url,
    url: Url,
    name: String,
}

impl Database {
    pub(super) async fn create(admin: &Url) -> Result<Self> {
        let name = format!("{PREFIX}{}_{:016x}", now(), fastrand::u64(..));
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
    pub async fn pool(&self, connections: u32) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(connections).connect(self.url()).await;
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
    let names: Vec<String> = sqlx::query_scalar("SELECT datname FROM pg_database WHERE starts_with(datname, $1)")
        .bind(PREFIX)
        .fetch_all(&mut connection)
        .await?;
    for name in names.iter().filter(|name| is_old(name, now())) {
        drop_database(admin, name).await?;
    }
    connection.close().await?;
    Ok(())
}

fn is_old(name: &str, now: u64) -> bool {
    let Some((created, random)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    let created: Option<u64> = created.parse().ok();
    random.bytes().all(|byte| byte.is_ascii_hexdigit())
        && created.is_some_and(|created| created + OLD.as_secs() < now)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_databases_of_our_own_are_dropped() {
        let now = 1_000_000_000;
        let day = OLD.as_secs();
        assert!(is_old(&format!("outbox_test_{}_00ff", now - day - 1), now));
        for name in [
            format!("outbox_test_{}_00ff", now - day),
            "outbox_test_1_x; --".to_owned(),
            "outbox_test_results".to_owned(),
            "outbox_1_00ff".to_owned(),
        ] {
            assert!(!is_old(&name, now), "{name}");
        }
    }
}
