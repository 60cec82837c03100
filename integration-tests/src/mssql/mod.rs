//! SQL Server for tests.
//!
//! No server of this kind can be installed on every machine, so it is used by its URL or in a container.
//! `all` in `OUTBOX_TEST_REQUIRE` includes it only if one of the two is available.

mod connect;
mod database;

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;
use url::Url;

pub use connect::Client;
pub use database::Database;

use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::instance::Instance;
use crate::server::Server;
use crate::service::Service;

const PORT: u16 = 1433;
/// `Y` states that the user accepts the terms under which Microsoft allows the use of the image.
const ACCEPT_EULA: &str = "OUTBOX_TEST_MSSQL_ACCEPT_EULA";

/// A real SQL Server, or another server at the URL in `OUTBOX_TEST_MSSQL_URL`.
///
/// Such a URL is `mssql://sa:password@host:port/master`, with escapes in the password if needed. It may end
/// with `?trust_server_certificate=true`, which servers with a self-signed certificate need, and with
/// `encrypt=` and a value as in the connection strings of tiberius: `true` (the default), `false` (only the
/// login), `strict` or `DANGER_PLAINTEXT`, joined by `&`.
///
/// ```no_run
/// use integration_tests::{Server, SqlServer};
///
/// # async fn example() {
/// // Skipped with a loud message where there is no SQL Server, unless OUTBOX_TEST_REQUIRE names it.
/// let Some(server) = SqlServer::shared().await else { return };
/// let database = server.database().await;
/// let mut client = database.connect().await;
/// client.simple_query("SELECT 1").await.unwrap();
/// # }
/// ```
pub struct SqlServer {
    instance: Instance,
    /// The database in which databases are created.
    url: Url,
    address: SocketAddr,
}

impl std::fmt::Debug for SqlServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { instance, address, .. } = self;
        let mut debug = f.debug_struct("SqlServer");
        debug.field("instance", instance).field("address", address).finish_non_exhaustive()
    }
}

impl SqlServer {
    fn new(instance: Instance, url: Url) -> Result<Self> {
        ensure!(url.scheme() == "mssql", "the URL begins with {}:, not with mssql:", url.scheme());
        // An invalid URL should be reported now, not by each test.
        connect::config(&url)?;
        let address = crate::server::address(&url, PORT)?;
        Ok(Self { instance, url, address })
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
}

impl Server for SqlServer {
    const SERVICE: Service = Service::SqlServer;
    type Installation = std::convert::Infallible;

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>> {
        static SHARED: OnceCell<Result<SqlServer, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    async fn external(_environment: &Environment, url: &str) -> Result<Self> {
        let server = Self::new(Instance::EXTERNAL, Url::parse(url)?)?;
        database::drop_old(&server.url).await?;
        Ok(server)
    }

    fn terms_accepted(environment: &Environment) -> Result<()> {
        let accepted = environment.get(ACCEPT_EULA) == Some("Y");
        ensure!(accepted, "{ACCEPT_EULA} is not Y: nobody has accepted the terms of Microsoft's image");
        Ok(())
    }

    #[cfg(feature = "containers")]
    async fn container(environment: &Environment) -> Result<Self> {
        use testcontainers::ImageExt;

        let port = crate::ports::free();
        let image = crate::container::listed("sqlserver");
        // Lower-case and upper-case letters, digits and a symbol: the server requires them.
        let password = format!("Aa1-{:016x}", fastrand::u64(..));
        let request = crate::container::image(environment, "OUTBOX_TEST_MSSQL_IMAGE", image)?
            .with_env_var("ACCEPT_EULA", "Y")
            .with_env_var("MSSQL_SA_PASSWORD", &password)
            .with_mapped_port(port, testcontainers::core::ContainerPort::Tcp(PORT));
        let container = crate::container::Container::start(request).await?;
        let host = container.host().to_owned();
        let url = format!("mssql://sa:{password}@{host}:{port}/master?trust_server_certificate=true");
        Self::new(Instance::container(container), Url::parse(&url)?)
    }

    fn locate(_environment: &Environment) -> Result<Self::Installation> {
        bail!("SQL Server is never started as a process of this machine, only in a container")
    }

    async fn launch(installation: &Self::Installation) -> Result<Self> {
        match *installation {}
    }

    async fn answers(&self) -> Result<()> {
        connect::run(&self.url, "SELECT 1").await
    }

    async fn version(&self) -> Result<String> {
        let mut client = connect::connect(&self.url).await?;
        let query = "SELECT CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(100))";
        let row = client.simple_query(query).await?.into_row().await?;
        let version = row.as_ref().and_then(|row| row.get::<&str, _>(0)).map(str::to_owned);
        client.close().await?;
        version.context("the server does not report its version")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::availability::{Decision, decide};
    use crate::server::acquire;

    #[tokio::test]
    async fn without_a_url_and_a_container_it_is_out_of_reach() {
        let environment = Environment::from_pairs([("OUTBOX_TEST_MODE", "process")]);
        let unavailable = acquire::<SqlServer>(&environment, true).await.unwrap_err();
        let text = unavailable.to_string();
        for part in
            ["OUTBOX_TEST_MSSQL_URL is not set", "container: not allowed", "never started as a process"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(decide(&environment.with("OUTBOX_TEST_REQUIRE", "all"), &unavailable), Decision::Skip);
    }

    #[tokio::test]
    async fn a_server_that_was_named_by_its_url_is_within_reach() {
        let nobody = format!("mssql://sa:secret@127.0.0.1:{}", crate::ports::free());
        let environment = Environment::from_pairs([
            ("OUTBOX_TEST_MSSQL_URL", nobody.as_str()),
            ("OUTBOX_TEST_MODE", "process"),
            ("OUTBOX_TEST_REQUIRE", "all"),
        ]);
        let unavailable = acquire::<SqlServer>(&environment, true).await.unwrap_err();
        assert_eq!(decide(&environment, &unavailable), Decision::Fail);
        assert!(!unavailable.to_string().contains("secret"), "{unavailable}");
        // But not a server that a test may harm.
        let unavailable = acquire::<SqlServer>(&environment, false).await.unwrap_err();
        assert_eq!(decide(&environment, &unavailable), Decision::Skip);
    }

    #[tokio::test]
    async fn the_image_is_not_used_by_those_who_have_not_accepted_its_terms() {
        for accepted in ["", "N", "y"] {
            let environment = Environment::from_pairs([(ACCEPT_EULA, accepted)]);
            let text = acquire::<SqlServer>(&environment, true).await.unwrap_err().to_string();
            assert!(text.contains("OUTBOX_TEST_MSSQL_ACCEPT_EULA is not Y"), "{text}");
        }
        SqlServer::terms_accepted(&Environment::from_pairs([(ACCEPT_EULA, "Y")])).unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "OUTBOX_TEST_REQUIRE names sqlserver, which cannot be had")]
    async fn named_it_is_demanded() {
        let pairs = [("OUTBOX_TEST_MODE", "process"), ("OUTBOX_TEST_REQUIRE", "sqlserver")];
        SqlServer::start_in(Environment::from_pairs(pairs)).await;
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_understood_is_not_passed_over() {
        let environment = Environment::from_pairs([("OUTBOX_TEST_MSSQL_URL", "postgres://localhost")]);
        let text = acquire::<SqlServer>(&environment, true).await.unwrap_err().to_string();
        assert!(text.contains("not with mssql:"), "{text}");
    }
}
