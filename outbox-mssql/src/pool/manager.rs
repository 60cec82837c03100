//! Making connections, and seeing whether one may be used again.

use std::fmt;
use std::time::Duration;

use deadpool::managed::{Metrics, RecycleError, RecycleResult};
use outbox_core::{Error, Result};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use crate::error::{map_connecting, map_error};

/// tiberius' client over tokio's TCP, which [`Pool`](crate::Pool) hands out.
pub type Client = tiberius::Client<Compat<TcpStream>>;

/// How long a TCP connection may take to be made. The rest of a login has tiberius' own `handshake_timeout`.
const DIAL: Duration = Duration::from_secs(15);

/// What somebody before may have changed in the session, and whether a transaction is open. A statement that waits
/// longer than 20 s for a lock gets error 1222, before tiberius' `command_timeout` of 30 s gives the connection up.
const SESSION: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET XACT_ABORT OFF; SET NOCOUNT OFF; \
                       SET LOCK_TIMEOUT 20000; SELECT @@TRANCOUNT";

/// Makes the connections of a [`Pool`](crate::Pool).
///
/// Each session begins with READ COMMITTED, `XACT_ABORT OFF` and a `LOCK_TIMEOUT` of 20 s. tiberius logs in as an ODBC
/// client, which has the server set `ANSI_DEFAULTS`, and with it everything that filtered indexes and computed columns
/// ask for.
pub struct Manager {
    config: tiberius::Config,
}

impl Manager {
    /// Connections with these settings. TLS is as they say: required by default, with a certificate that the
    /// operating system trusts; `trust_cert_ca` adds an authority, `trust_cert` takes any certificate.
    ///
    /// # Errors
    /// None today. It is there for settings that this crate cannot keep.
    pub fn new(mut config: tiberius::Config) -> Result<Self> {
        // A text that somebody has cut in the middle of a surrogate pair must not stop all others.
        config.lossy_utf16_decoding(true);
        Ok(Self { config })
    }

    /// The same by an ADO.NET connection string.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if it cannot be understood. The error does not quote it.
    pub fn from_ado_string(connection: &str) -> Result<Self> {
        // The driver's error may quote the part that it does not understand, and that may be the password.
        let config = tiberius::Config::from_ado_string(connection).map_err(|_| {
            Error::config("the connection string cannot be understood; it has to be one for ADO.NET")
        })?;
        Self::new(config)
    }

    async fn dial(&self) -> tiberius::Result<Client> {
        match connect(self.config.clone()).await {
            // Azure SQL names the node to go to. It does so once; a node that sent us on would be a mistake.
            Err(tiberius::error::Error::Routing { host, port }) => {
                let mut config = self.config.clone();
                config.host(host);
                config.port(port);
                connect(config).await
            }
            other => other,
        }
    }
}

async fn connect(config: tiberius::Config) -> tiberius::Result<Client> {
    let stream = match timeout(DIAL, TcpStream::connect(config.get_addr())).await {
        Ok(stream) => stream?,
        Err(_) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    };
    stream.set_nodelay(true)?;
    // A login is a future of many kilobytes.
    Box::pin(tiberius::Client::connect(config, stream.compat_write())).await
}

/// Resets the session, and says whether no transaction is open.
pub(super) async fn check(client: &mut Client) -> tiberius::Result<bool> {
    let row = client.simple_query(SESSION).await?.into_row().await?;
    Ok(row.and_then(|row| row.try_get::<i32, _>(0).ok().flatten()) == Some(0))
}

impl deadpool::managed::Manager for Manager {
    type Type = Client;
    type Error = Error;

    async fn create(&self) -> Result<Client> {
        let mut client = self.dial().await.map_err(map_connecting)?;
        check(&mut client).await.map_err(map_connecting)?;
        Ok(client)
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<Error> {
        match check(client).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(RecycleError::message("a transaction is open on the connection")),
            Err(error) => Err(RecycleError::Backend(map_error(error))),
        }
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the user, and nothing of how to log in.
        f.debug_struct("Manager").field("server", &self.config.get_addr()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let connection = "Server=tcp:db.example,1500;User Id=me;Password=s3cr3t;TrustServerCertificate=true";
        let manager = Manager::from_ado_string(connection).unwrap();
        assert_eq!(format!("{manager:?}"), r#"Manager { server: "db.example:1500", .. }"#);
        for nonsense in ["Server=x;Password=s3cr3t;Encrypt=perhaps", "Password='s3cr3t", "s3cr3t"] {
            let Err(error) = Manager::from_ado_string(nonsense) else { continue };
            assert!(!format!("{error:?} {}", error.report()).contains("s3cr3t"), "{nonsense}");
            assert_eq!(error.kind(), outbox_core::ErrorKind::Config);
        }
    }

    #[test]
    fn texts_that_are_no_utf16_do_not_stop_a_fetch() {
        assert!(Manager::new(tiberius::Config::new()).unwrap().config.get_lossy_utf16_decoding());
    }
}
