//! The versions of PostgreSQL that tests use.

use anyhow::Result;
use tokio::sync::OnceCell;

use super::{Installation, PostgresServer};
use crate::availability::Unavailable;
use crate::environment::Environment;
use crate::service::Service;

/// One of the versions of PostgreSQL that tests use.
pub trait Edition: Sized + Send + Sync + 'static {
    /// The service.
    const SERVICE: Service;
    /// The variable that names the container's image.
    const IMAGE: &'static str;

    /// Keeps the server that the tests of this process share.
    fn shared_cell() -> &'static OnceCell<Result<PostgresServer<Self>, Unavailable>>;

    /// Searches for an installed server.
    ///
    /// # Errors
    /// If there is no server that the harness can start.
    fn locate(environment: &Environment) -> Result<Installation>;
}

/// The version that the system has.
#[derive(Debug)]
#[non_exhaustive]
pub struct System;

impl Edition for System {
    const SERVICE: Service = Service::Postgres;
    const IMAGE: &'static str = "OUTBOX_TEST_POSTGRES_IMAGE";

    fn shared_cell() -> &'static OnceCell<Result<PostgresServer<Self>, Unavailable>> {
        static SHARED: OnceCell<Result<PostgresServer<System>, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::of_the_system(environment)
    }
}

/// A newer major version, unpacked in a cache folder.
#[derive(Debug)]
#[non_exhaustive]
pub struct Newer;

impl Edition for Newer {
    const SERVICE: Service = Service::PostgresNext;
    const IMAGE: &'static str = "OUTBOX_TEST_POSTGRES_NEXT_IMAGE";

    fn shared_cell() -> &'static OnceCell<Result<PostgresServer<Self>, Unavailable>> {
        static SHARED: OnceCell<Result<PostgresServer<Newer>, Unavailable>> = OnceCell::const_new();
        &SHARED
    }

    fn locate(environment: &Environment) -> Result<Installation> {
        Installation::downloaded(environment)
    }
}
