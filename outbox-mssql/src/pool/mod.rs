//! Connections, and what becomes of those that somebody left in the middle of something.

mod manager;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Object, Timeouts};
use outbox_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::time::timeout;

pub use manager::{Client, Manager};

use crate::error::map_pool;

/// How long to wait for a connection of the pool, for a new one, and for one to show that it is clean.
const WAIT: Duration = Duration::from_secs(30);
const CREATE: Duration = Duration::from_secs(30);
const RECYCLE: Duration = Duration::from_secs(5);

/// Connections to one database. Cheap to clone.
///
/// ```no_run
/// use outbox_mssql::Pool;
/// use outbox_mssql::tiberius::{AuthMethod, Config};
///
/// # fn example() -> outbox_core::Result<()> {
/// // TLS is required unless the settings say otherwise, and the server's certificate has to be trusted.
/// let pool = Pool::from_ado_string("Server=tcp:db.example,1433;Database=shop;User Id=app;Password=…", 10)?;
///
/// let mut config = Config::new();
/// config.host("db.example");
/// config.database("shop");
/// config.authentication(AuthMethod::sql_server("app", "…"));
/// let pool = Pool::new(config, 10)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Pool {
    inner: deadpool::managed::Pool<Manager>,
}

impl Pool {
    /// A pool of at most `size` connections, made when they are needed. It waits 30 s for a free connection, and 30 s
    /// for a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if `size` is zero, or as [`Manager::new`].
    pub fn new(config: tiberius::Config, size: usize) -> Result<Self> {
        Self::of(Manager::new(config)?, size)
    }

    /// The same by an ADO.NET connection string. Beside the usual keywords it may say
    /// `TrustServerCertificate=true`, which a certificate of the server's own making needs.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) as [`new`](Self::new), or if the string cannot be
    /// understood. The error does not quote it.
    pub fn from_ado_string(connection: &str, size: usize) -> Result<Self> {
        Self::of(Manager::from_ado_string(connection)?, size)
    }

    fn of(manager: Manager, size: usize) -> Result<Self> {
        if size == 0 {
            return Err(Error::config("a pool needs at least one connection"));
        }
        let timeouts = Timeouts { wait: Some(WAIT), create: Some(CREATE), recycle: Some(RECYCLE) };
        let pool = deadpool::managed::Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .timeouts(timeouts)
            .build();
        let inner =
            pool.map_err(|error| Error::config("the pool's settings are wrong").with_source(error))?;
        Ok(Self { inner })
    }

    /// A connection with no transaction open. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](outbox_core::ErrorKind::Unavailable) if there is none in time, and what the server
    /// says to a new one.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn get(&self) -> Result<Connection> {
        let object = self.inner.get().await.map_err(map_pool)?;
        Ok(Connection { object: Some(object), afterwards: Afterwards::Check })
    }

    /// A connection for one call of ours: it comes back only by [`Connection::give_back`].
    pub(crate) async fn call(&self) -> Result<Connection> {
        let mut connection = self.get().await?;
        connection.afterwards = Afterwards::ThrowAway;
        Ok(connection)
    }

    /// How many connections there are now, and how many of them nobody uses.
    pub fn status(&self) -> deadpool::Status {
        self.inner.status()
    }

    /// Ends the pool: connections that are free are closed now, others when they come back. Whoever asks for one
    /// gets an error from now on.
    pub fn close(&self) {
        self.inner.close();
    }
}

/// A pool with settings of its own, such as other timeouts.
impl From<deadpool::managed::Pool<Manager>> for Pool {
    fn from(inner: deadpool::managed::Pool<Manager>) -> Self {
        Self { inner }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deadpool::Status { max_size, size, available, .. } = self.status();
        f.debug_struct("Pool")
            .field("manager", self.inner.manager())
            .field("max_size", &max_size)
            .field("size", &size)
            .field("available", &available)
            .finish()
    }
}

/// A connection of a pool, to be used as a [`Client`].
///
/// When it is dropped, it goes back to the pool only if it turns out, in the background, that no transaction is open
/// on it and that it answers at once. Otherwise it is closed, and the server rolls back. tiberius' calls are not
/// cancel-safe: a connection on which one was dropped half way is found out the same way.
pub struct Connection {
    object: Option<Object<Manager>>,
    afterwards: Afterwards,
}

#[derive(Clone, Copy, Debug)]
enum Afterwards {
    /// What a user has done with it is not known.
    Check,
    ThrowAway,
}

impl Connection {
    /// Puts the connection back. Only after everything that was begun on it has come to its end.
    pub(crate) fn give_back(mut self) {
        self.object = None;
    }
}

#[allow(clippy::expect_used, reason = "it is taken out by what takes the connection itself")]
impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.object.as_ref().expect("there until the end")
    }
}

#[allow(clippy::expect_used, reason = "as above")]
impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        self.object.as_mut().expect("there until the end")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else { return };
        match (self.afterwards, Handle::try_current()) {
            (Afterwards::Check, Ok(runtime)) => {
                runtime.spawn(async move {
                    let clean = timeout(RECYCLE, manager::check(&mut object)).await;
                    if !matches!(clean, Ok(Ok(true))) {
                        drop(Object::take(object));
                    }
                });
            }
            _ => drop(Object::take(object)),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
