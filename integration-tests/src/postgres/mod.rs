//! PostgreSQL for tests.

mod database;
pub mod edition;
mod local;
mod password;
mod pooler;

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;

use anyhow::Result;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::sync::OnceCell;
use url::Url;

pub use database::Database;
pub use edition::Edition;
pub use local::Installation;
pub use pooler::PgBouncer;

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::instance::Instance;
use crate::server::Server;
use crate::service::Service;

/// A real PostgreSQL server of the version that the system has. See [`PostgresServer`].
pub type Postgres = PostgresServer<edition::System>;
/// A real PostgreSQL server of a newer major version. See [`PostgresServer`].
pub type PostgresNext = PostgresServer<edition::Newer>;

/// A real PostgreSQL server.
///
/// ```no_run
/// use integration_tests::{Postgres, PostgresNext, Server, postgres};
///
/// async fn promise(database: &postgres::Database) {
///     let pool = database.pool(5).await;
/// }
///
/// # async fn example() {
/// // Skipped with a loud message where there is no PostgreSQL, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(postgres) = Postgres::shared().await else { return };
/// promise(&postgres.database().await).await;
/// let Some(newer) = PostgresNext::shared().await else { return };
/// promise(&newer.database().await).await;
/// # }
/// ```
pub struct PostgresServer<E> {
    instance: Instance,
    /// The database in which databases are created.
    url: Url,
    address: SocketAddr,
    edition: PhantomData<E>,
}

impl<E: Edition> fmt::Debug for PostgresServer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, address, .. } = self;
        let mut debug = f.debug_struct(E::SERVICE.name());
        debug.field("instance", instance).field("address", address).finish_non_exhaustive()
    }
}

impl<E: Edition> PostgresServer<E> {
    fn new(instance: Instance, url: Url) -> Result<Self> {
        let address = crate::server::address(&url, 5432)?;
        Ok(Self { instance, url, address, edition: PhantomData })
    }

    fn on_port(instance: Instance, host: &str, port: u16) -> Result<Self> {
        Self::new(instance, Url::parse(&format!("postgres://postgres@{host}:{port}/postgres"))?)
    }

    /// The URL of the server's own database, with a user who has all privileges.
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

    /// Creates a role with all privileges that must log in with this password, of letters, digits and
    /// hyphens. Returns its name. All other roles log in as before. For a server of the caller's own.
    ///
    /// # Panics
    /// If the server does not answer, or was given by a URL.
    pub async fn role_with_password(&self, password: &str) -> String {
        assert!(!self.instance.is_external(), "not ours to harm: it would have to ask others for less");
        password::demand(&self.url, password)
            .await
            .unwrap_or_else(|error| panic!("cannot make a role with a password: {error:#}"))
    }
}

impl<E: Edition> Server for PostgresServer<E> {
    const SERVICE: Service = E::SERVICE;
    type Installation = Installation;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        E::shared_cell()
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
        let request =
            crate::container::image(environment, E::IMAGE, crate::container::listed(E::SERVICE.name()))?
                .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
                .with_env_var("POSTGRES_INITDB_ARGS", local::INITDB.join(" "))
                .with_cmd(local::settings(environment.durable()))
                .with_mapped_port(port, testcontainers::core::ContainerPort::Tcp(5432));
        let container = crate::container::Container::start(request).await?;
        let host = container.host().to_owned();
        Self::on_port(Instance::container(container), &host, port)
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        E::locate(environment)
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

    fn is_definite(error: &anyhow::Error) -> bool {
        // "cannot_connect_now": the server starts or recovers.
        let code = error.downcast_ref::<sqlx::Error>().and_then(|error| error.as_database_error()?.code());
        code.is_some_and(|code| code != "57P03")
    }

    async fn version(&self) -> Result<String> {
        let mut connection = PgConnection::connect(self.url()).await?;
        let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        // Distributions append the name of their package.
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::acquire;

    async fn used_and_not_harmed<E: Edition>() {
        let Some(running) = PostgresServer::<E>::shared().await else { return };
        let environment = Environment::from_pairs([(E::SERVICE.url_variable(), running.url())]);
        let postgres: PostgresServer<E> = acquire(&environment, true).await.unwrap();
        assert_eq!(postgres.address(), running.address());
        assert!(postgres.instance().is_external());
        let database = postgres.database().await;
        let pool = database.pool(1).await;
        assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&pool).await.unwrap(), 1);
        for refusal in [postgres.instance().kill().await, postgres.instance().stop().await] {
            assert!(refusal.unwrap_err().to_string().contains("not ours to harm"));
        }
        postgres.instance().restart().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_server_given_by_its_url_is_used_and_not_harmed() {
        used_and_not_harmed::<edition::System>().await;
    }

    #[tokio::test]
    async fn a_newer_server_given_by_its_url_is_used_and_not_harmed() {
        used_and_not_harmed::<edition::Newer>().await;
    }

    #[cfg(feature = "containers")]
    #[tokio::test]
    async fn a_missing_image_leads_to_a_process_if_that_is_allowed() {
        if crate::container::daemon().await.is_err() || Postgres::locate(&Environment::of_process()).is_err()
        {
            return;
        }
        let environment =
            Environment::of_process().with("OUTBOX_TEST_POSTGRES_IMAGE", "outbox-test/not-an-image:1");
        let postgres: Postgres =
            acquire(&environment.clone().with("OUTBOX_TEST_MODE", ""), false).await.unwrap();
        postgres.instance().cpu_time().expect("it runs as a process");
        let error =
            acquire::<Postgres>(&environment.with("OUTBOX_TEST_MODE", "container"), false).await.unwrap_err();
        assert!(error.to_string().contains("scripts/container-images"), "{error}");
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_understood_is_not_passed_over() {
        let environment = Environment::from_pairs([("OUTBOX_TEST_POSTGRES_URL", "nonsense")]);
        let error = acquire::<Postgres>(&environment, true).await.unwrap_err().to_string();
        assert!(error.starts_with("  - OUTBOX_TEST_POSTGRES_URL: "), "{error}");
        assert!(!error.contains("container"), "{error}");
    }
}
