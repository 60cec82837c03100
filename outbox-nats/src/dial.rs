//! How a connection is made.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::rustls::ClientConfig;
use async_nats::{ConnectOptions, ServerAddr};
use outbox_core::{Error, Result};
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::connection::{Connection, OpenFailure};
use crate::tls::Certificates;

/// An idle connection whose server has vanished is noticed after two of these.
const PING: Duration = Duration::from_secs(15);

/// The server's address, without the login that a URL may hold.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: ServerAddr,
    /// For people.
    pub(crate) place: String,
}

/// The login in a URL.
pub(crate) enum Login {
    Password(String, String),
    Token(String),
}

/// Takes a URL apart.
///
/// # Errors
/// [`ErrorKind::Config`], without the URL, which may hold a password.
pub(crate) fn parse(url: &str) -> Result<(Server, Option<Login>)> {
    let wrong = || Error::config("a server's URL has the form nats://host:4222 or tls://host:4222");
    let mut url = Url::parse(url).map_err(|_| wrong())?;
    if !["nats", "tls"].contains(&url.scheme()) || !url.has_host() || !matches!(url.path(), "" | "/") {
        return Err(wrong());
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| wrong());
    let login = match (url.username(), url.password()) {
        ("", None) => None,
        (token, None) => Some(Login::Token(decode(token)?)),
        (user, Some(password)) => Some(Login::Password(decode(user)?, decode(password)?)),
    };
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| wrong())?;
    let address: ServerAddr = url.as_str().parse().map_err(|_| wrong())?;
    let place = format!("{}:{}", url.host_str().unwrap_or_default(), address.port());
    Ok((Server { address, place }, login))
}

/// Why a call has no connection. Nothing of its messages has been sent.
#[derive(Clone, Debug)]
pub(crate) enum DialFailure {
    /// Every connection was in use for the whole time.
    NoneFree,
    /// The servers, for people, and what failed.
    Failed(String, OpenFailure),
    /// The servers, for people, none of which has answered in time.
    Late(String),
    /// The certificates cannot be used.
    Certificates(Arc<Error>),
}

/// Makes connections.
pub(crate) struct Dialer {
    pub(crate) servers: Vec<Server>,
    pub(crate) options: ConnectOptions,
    pub(crate) certificates: Certificates,
    pub(crate) connect_timeout: Duration,
    /// Made with the first connection.
    pub(crate) tls: OnceLock<ClientConfig>,
}

impl fmt::Debug for Dialer {
    /// Without the options, which hold the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("servers", &self.place())
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// Connects to one of the servers, chosen at random.
    pub(crate) async fn dial(&self, deadline: Instant) -> Result<Connection, DialFailure> {
        let deadline = deadline.min(Instant::now() + self.connect_timeout);
        // A server that swallows packets leaves time for the others.
        let share = self.connect_timeout / u32::try_from(self.servers.len().max(1)).unwrap_or(u32::MAX);
        let config = self.client_config().map_err(|error| DialFailure::Certificates(Arc::new(error)))?;
        let options = self
            .options
            .clone()
            .tls_client_config(config)
            .connection_timeout(share)
            .request_timeout(None)
            .ping_interval(PING)
            .ignore_discovered_servers();
        let addresses = self.servers.iter().map(|server| server.address.clone()).collect();
        match timeout_at(deadline, Connection::open(addresses, options)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(failure)) => Err(DialFailure::Failed(self.place(), failure)),
            Err(_) => Err(DialFailure::Late(self.place())),
        }
    }

    /// The servers, for people.
    pub(crate) fn place(&self) -> String {
        let places: Vec<&str> = self.servers.iter().map(|server| server.place.as_str()).collect();
        places.join(", ")
    }

    fn client_config(&self) -> Result<ClientConfig> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let config = self.certificates.client_config()?;
        Ok(self.tls.get_or_init(|| config).clone())
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

    use super::*;

    #[test]
    fn a_url_names_the_server_and_perhaps_a_login() {
        let parsed = |url: &str| {
            let (server, login) = parse(url).unwrap();
            let login = login.map(|login| match login {
                Login::Password(user, password) => format!("{user} {password}"),
                Login::Token(token) => token,
            });
            (server.place, login)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("nats://localhost"), ("localhost:4222".to_owned(), None));
        assert_eq!(parsed("tls://[::1]:14222/"), ("[::1]:14222".to_owned(), None));
        assert_eq!(parsed("nats://t%40ken@h:1"), ("h:1".to_owned(), some("t@ken")));
        assert_eq!(parsed("nats://me:p%2Fss@h:1"), ("h:1".to_owned(), some("me p/ss")));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_not_echoed() {
        for url in [
            "",
            "localhost:4222",
            "http://me:s3cret@h",
            "ws://h",
            "nats://",
            "nats://me:s3cret@h/x",
            "nats://%ff@h",
        ] {
            let Err(error) = parse(url) else { panic!("{url}") };
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!error.report().contains("s3cret"), "{error}");
        }
        let (server, _) = parse("nats://me:s3cret@h").unwrap();
        assert!(!format!("{server:?}").contains("s3cret"));
    }
}
