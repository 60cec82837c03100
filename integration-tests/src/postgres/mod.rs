//! PostgreSQL for tests.

mod database;
mod local;

use std::net::SocketAddr;

use anyhow::Result;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::sync::OnceCell;
use url::Url;

pub use database::Database;
pub use local::Installation;

use crate::availability::{Service, Unavailable};
use crate::environment::Environment;
use crate::instance::Instance;
use crate::server::Server;

/// A real PostgreSQL server.
///
/// ```no_run
/// use integration_tests::{Postgres, Server};
///
/// # async fn example() {
/// // Skipped with a loud message where there is no PostgreSQL, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(postgres) = Postgres::shared().await else { return };
/// let database = postgres.database().await;
/// let pool = database.pool(5).await;
/// # }
/// ```
#[derive(Debug)]
pub struct Postgres {
    instance: Instance,
    /// Of the database in which databases are created.
    url: Url,
    address: SocketAddr,
}

impl Postgres {
    fn new(instance: Instance, url: Url) -> Result<Self> {
        let address = crate::server::address(&url, 5432)?;
        Ok(Self { instance, url, address })
    }

    fn on_port(instance: Instance, host: &str, port: u16) -> Result<Self> {
        Self::new(instance, Url::parse(&format!("postgres://postgres@{host}:{port}/postgres"))?)
    }

    /// The URL of the server's own database, with a user who may do everything.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// A new, empty database, which is dropped with the value.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn database(&self) -> Database {
        Database::create(&self.url)
            .await
            .unwrap_or_else(|error| panic!("cannot create a database: {error:#}"))
    }
}

impl Server for Postgres {
    const SERVICE: Service = Service::Postgres;
    type Installation = Installation;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        static SHARED: OnceCell<Result<Postgres, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    async fn external(_environment: &Environment, url: &str) -> Result<Self> {
        let server = Self::new(Instance::EXTERNAL, Url::parse(url)?)?;
        database::drop_old(&server.url).await?;
        Ok(server)
    }

    #[cfg(feature = "containers")]
    async fn container(environment: &Environment) -> Result<Self> {
        use testcontainers::ImageExt;

        let port = crate::ports::free();
        let image = crate::container::image(environment, "OUTBOX_TEST_POSTGRES_IMAGE", "postgres:17-alpine")?;
        let request = image
            .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
            .with_cmd(["-c", "fsync=off", "-c", "max_connections=200", "-c", "wal_level=logical"])
            .with_mapped_port(port, testcontainers::core::ContainerPort::Tcp(5432));
        let container = crate::container::Container::start(request).await?;
        let host = container.host().to_owned();
        Self::on_port(Instance::container(container), &host, port)
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::locate(environment)
    }

    async fn launch(installation: &Installation) -> Result<Self> {
        let port = crate::ports::free();
        Self::on_port(Instance::local(installation.launch(port)?), "127.0.0.1", port)
    }

    async fn answers(&self) -> Result<()> {
        let mut connection = PgConnection::connect(self.url()).await?;
        sqlx::query("SELECT 1").execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::acquire;

    #[tokio::test]
    async fn a_server_given_by_its_url_is_used_and_not_harmed() {
        let Some(running) = Postgres::shared().await else { return };
        let environment = Environment::from_pairs([("OUTBOX_TEST_POSTGRES_URL", running.url())]);
        let postgres: Postgres = acquire(&environment, true).await.unwrap();
        assert_eq!(postgres.address(), running.address());
        assert!(postgres.instance().is_external());
        let pool = postgres.database().await.pool(1).await;
        assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&pool).await.unwrap(), 1);
        for refusal in [postgres.instance().kill().await, postgres.instance().stop().await] {
            assert!(refusal.unwrap_err().to_string().contains("not ours to harm"));
        }
        postgres.instance().restart().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_understood_is_not_passed_over() {
        let environment = Environment::from_pairs([("OUTBOX_TEST_POSTGRES_URL", "nonsense")]);
        let error = acquire::<Postgres>(&environment, true).await.unwrap_err().to_string();
        assert!(error.starts_with("  - OUTBOX_TEST_POSTGRES_URL: "), "{error}");
        assert!(!error.contains("container"), "{error}");
    }
}
