//! MariaDB and MySQL for tests: two products that speak one protocol.

mod database;
mod local;
pub mod product;

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;

use anyhow::Result;
use sqlx::Connection;
use sqlx::mysql::MySqlConnection;
use tokio::sync::OnceCell;
use url::Url;

pub use database::Database;
pub use local::Installation;
pub use product::Product;

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::instance::Instance;
use crate::server::Server;
use crate::service::Service;

const PORT: u16 = 3306;

/// A real MariaDB server. See [`MySqlServer`].
pub type MariaDb = MySqlServer<product::MariaDb>;
/// A real MySQL server. See [`MySqlServer`].
pub type MySql = MySqlServer<product::MySql>;

/// A real server of one of the products that speak MySQL's protocol.
///
/// ```no_run
/// use integration_tests::{MariaDb, MySql, Server, mysql};
///
/// async fn promise(database: &mysql::Database) {
///     let pool = database.pool(5).await;
/// }
///
/// # async fn example() {
/// // Skipped with a loud message where there is no MariaDB, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(mariadb) = MariaDb::shared().await else { return };
/// promise(&mariadb.database().await).await;
/// let Some(mysql) = MySql::shared().await else { return };
/// promise(&mysql.database().await).await;
/// # }
/// ```
pub struct MySqlServer<P> {
    instance: Instance,
    /// Without a database.
    url: Url,
    address: SocketAddr,
    product: PhantomData<P>,
}

impl<P: Product> fmt::Debug for MySqlServer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, address, .. } = self;
        let mut debug = f.debug_struct(P::SERVICE.name());
        debug.field("instance", instance).field("address", address).finish_non_exhaustive()
    }
}

impl<P: Product> MySqlServer<P> {
    fn new(instance: Instance, url: Url) -> Result<Self> {
        let address = crate::server::address(&url, PORT)?;
        Ok(Self { instance, url, address, product: PhantomData })
    }

    fn on_port(instance: Instance, host: &str, port: u16) -> Result<Self> {
        Self::new(instance, Url::parse(&format!("mysql://root@{host}:{port}"))?)
    }

    /// The server's URL without a database, with a user who has all privileges.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Creates a new, empty database, which is dropped with the value. Its character set is `utf8mb4`, with
    /// the server's default collation for it.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn database(&self) -> Database {
        Database::create(&self.url)
            .await
            .unwrap_or_else(|error| panic!("cannot create a database: {error:#}"))
    }
}

impl<P: Product> Server for MySqlServer<P> {
    const SERVICE: Service = P::SERVICE;
    type Installation = Installation;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        P::shared_cell()
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
        let mut request =
            crate::container::image(environment, P::IMAGE, crate::container::listed(P::SERVICE.name()))?
                .with_cmd(local::options(P::OPTIONS, environment.durable()))
                .with_mapped_port(port, testcontainers::core::ContainerPort::Tcp(PORT));
        for (name, value) in P::CONTAINER_VARIABLES {
            request = request.with_env_var(name, value);
        }
        let container = crate::container::Container::start(request).await?;
        let host = container.host().to_owned();
        Self::on_port(Instance::container(container), &host, port)
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        P::locate(environment)
    }

    async fn launch(installation: &Installation) -> Result<Self> {
        let port = crate::ports::free();
        let installation = installation.clone();
        // The first start takes seconds, during which proxies and the starts of other servers continue.
        let server = tokio::task::spawn_blocking(move || installation.launch(port)).await??;
        Self::on_port(Instance::local(server), "127.0.0.1", port)
    }

    async fn answers(&self) -> Result<()> {
        let mut connection = MySqlConnection::connect(self.url()).await?;
        sqlx::query("SELECT 1").execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    fn is_definite(error: &anyhow::Error) -> bool {
        error.downcast_ref::<sqlx::Error>().is_some_and(|error| error.as_database_error().is_some())
    }

    async fn version(&self) -> Result<String> {
        let mut connection = MySqlConnection::connect(self.url()).await?;
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut connection).await?;
        connection.close().await?;
        // The text after the number is the package, or lists the enabled logs.
        Ok(version.split('-').next().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::acquire;

    async fn used_and_not_harmed<P: Product>() {
        let Some(running) = MySqlServer::<P>::shared().await else { return };
        let environment = Environment::from_pairs([(P::SERVICE.url_variable(), running.url())]);
        let server: MySqlServer<P> = acquire(&environment, true).await.unwrap();
        assert_eq!(server.address(), running.address());
        assert!(server.instance().is_external());
        let database = server.database().await;
        let pool = database.pool(1).await;
        assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&pool).await.unwrap(), 1);
        assert!(server.instance().kill().await.unwrap_err().to_string().contains("not ours to harm"));
    }

    #[tokio::test]
    async fn a_mariadb_given_by_its_url_is_used_and_not_harmed() {
        used_and_not_harmed::<product::MariaDb>().await;
    }

    #[tokio::test]
    async fn a_mysql_given_by_its_url_is_used_and_not_harmed() {
        used_and_not_harmed::<product::MySql>().await;
    }
}
