//! The differences between MariaDB and MySQL.

use anyhow::Result;
use tokio::sync::OnceCell;

use super::{Installation, MySqlServer};
use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::service::Service;

/// A product that speaks MySQL's protocol.
pub trait Product: Sized + Send + Sync + 'static {
    /// The service.
    const SERVICE: Service;
    /// The variable that names the container's image.
    const IMAGE: &'static str;
    /// The options of this product only, in a process as in a container.
    const OPTIONS: &'static [&'static str];
    /// The setting that allows the container's root to log in without a password.
    const CONTAINER_VARIABLES: [(&'static str, &'static str); 2];

    /// Keeps the server that the tests of this process share.
    fn shared_cell() -> &'static OnceCell<Result<MySqlServer<Self>, Unavailable>>;

    /// Searches for an installed server.
    ///
    /// # Errors
    /// If there is no server that the harness can start.
    fn locate(environment: &Environment) -> Result<Installation>;
}

/// The product MariaDB.
#[derive(Debug)]
#[non_exhaustive]
pub struct MariaDb;

impl Product for MariaDb {
    const SERVICE: Service = Service::MariaDb;
    const IMAGE: &'static str = "OUTBOX_TEST_MARIADB_IMAGE";
    const OPTIONS: &'static [&'static str] = &[];
    const CONTAINER_VARIABLES: [(&'static str, &'static str); 2] =
        [("MARIADB_ALLOW_EMPTY_ROOT_PASSWORD", "1"), ("MARIADB_ROOT_HOST", "%")];

    fn shared_cell() -> &'static OnceCell<Result<MySqlServer<Self>, Unavailable>> {
        static SHARED: OnceCell<Result<MySqlServer<MariaDb>, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::mariadb(environment)
    }
}

/// The product MySQL.
#[derive(Debug)]
#[non_exhaustive]
pub struct MySql;

impl Product for MySql {
    const SERVICE: Service = Service::MySql;
    const IMAGE: &'static str = "OUTBOX_TEST_MYSQL_IMAGE";
    const OPTIONS: &'static [&'static str] = &[
        "--mysqlx=OFF",
        "--secure-file-priv=NULL",
        "--performance-schema=OFF",
        "--gtid-mode=ON",
        "--enforce-gtid-consistency=ON",
    ];
    const CONTAINER_VARIABLES: [(&'static str, &'static str); 2] =
        [("MYSQL_ALLOW_EMPTY_PASSWORD", "1"), ("MYSQL_ROOT_HOST", "%")];

    fn shared_cell() -> &'static OnceCell<Result<MySqlServer<Self>, Unavailable>> {
        static SHARED: OnceCell<Result<MySqlServer<MySql>, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::mysql(environment)
    }
}
