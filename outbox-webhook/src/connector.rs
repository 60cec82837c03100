//! Connections to addresses that were checked, with TLS where the URL asks for it.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::network::Guard;
use crate::resolve::Resolve;

type BoxError = Box<dyn StdError + Send + Sync>;
type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Connects to the host of a URL.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: HttpsConnector<HttpConnector<Checked>>,
    guard: Arc<Guard>,
    limit: Duration,
}

impl Connector {
    pub(crate) fn new(
        guard: Arc<Guard>,
        names: Arc<dyn Resolve>,
        tls: ClientConfig,
        limit: Duration,
    ) -> Self {
        let mut http = HttpConnector::new_with_resolver(Checked { guard: Arc::clone(&guard), names });
        http.enforce_http(false);
        http.set_nodelay(true);
        // Divides the time among the addresses of a host, so that one that does not answer leaves some for the others.
        http.set_connect_timeout(Some(limit));
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        Self { inner, guard, limit }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response, BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // Addresses are not asked of the resolver.
        if let Some(address) = literal(&uri).filter(|address| !self.guard.allows(*address)) {
            return Box::pin(async move { Err(Refused(vec![address]).into()) });
        }
        let (connecting, limit) = (self.inner.call(uri), self.limit);
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within connect_timeout")
                        .into())
                }
            }
        })
    }
}

fn literal(uri: &Uri) -> Option<IpAddr> {
    let host = uri.host()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// A resolver that returns allowed addresses only. What connects uses these and looks up nothing again.
#[derive(Clone)]
struct Checked {
    guard: Arc<Guard>,
    names: Arc<dyn Resolve>,
}

impl Service<Name> for Checked {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Connecting<Self::Response, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { guard, names } = self.clone();
        Box::pin(async move {
            let found = names.resolve(name.as_str()).await?;
            let (allowed, refused): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|address| guard.allows(*address));
            match (allowed.is_empty(), refused.is_empty()) {
                (false, _) => {}
                (true, false) => return Err(Refused(refused).into()),
                (true, true) => {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address").into());
                }
            }
            let addresses: Vec<_> = allowed.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

/// The host has only addresses to which nothing may be sent.
#[derive(Debug)]
struct Refused(Vec<IpAddr>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.0.iter().take(4).map(IpAddr::to_string).collect();
        write!(f, "the address {} is not a public one", addresses.join(", "))
    }
}

impl StdError for Refused {}

/// Whether the connection was not made because its address is not allowed.
pub(crate) fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source()).any(|error| error.is::<Refused>())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use rustls::RootCertStore;

    use super::*;

    /// Gives the next of some answers each time, as a name does that is bound again between check and use.
    struct Script(Mutex<Vec<Vec<IpAddr>>>);

    #[async_trait]
    impl Resolve for Script {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.lock().unwrap().pop().expect("the name is looked up once for each connection"))
        }
    }

    fn connector(allowed: &[&str], answers: &[&[&str]]) -> Connector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let guard = Guard { allowed: allowed.iter().map(|text| text.parse().unwrap()).collect() };
        let answers =
            answers.iter().rev().map(|answer| answer.iter().map(|text| text.parse().unwrap()).collect());
        let names = Arc::new(Script(Mutex::new(answers.collect())));
        Connector::new(Arc::new(guard), names, tls, Duration::from_secs(60))
    }

    async fn connect(connector: &mut Connector, uri: &str) -> Result<SocketAddr, BoxError> {
        std::future::poll_fn(|cx| connector.poll_ready(cx)).await?;
        match connector.call(uri.parse().unwrap()).await? {
            MaybeHttpsStream::Http(stream) => Ok(stream.inner().peer_addr()?),
            MaybeHttpsStream::Https(_) => panic!("it speaks no TLS"),
        }
    }

    async fn listener() -> (tokio::net::TcpListener, u16) {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn a_name_is_checked_and_the_checked_address_is_used() {
        let (_listener, port) = listener().await;
        let uri = format!("http://customer.example:{port}/");
        // The second answer is what an attacker returns to a second lookup.
        let mut connector = connector(&["127.0.0.1"], &[&["127.0.0.1"], &["169.254.169.254"]]);
        assert_eq!(connect(&mut connector, &uri).await.unwrap().ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        let error = connect(&mut connector, &uri).await.unwrap_err();
        assert!(is_refused(&*error), "{error}");
    }

    #[tokio::test]
    async fn of_several_addresses_only_allowed_ones_are_used() {
        let (_listener, port) = listener().await;
        let mut connector = connector(&["127.0.0.1"], &[&["127.0.0.2", "10.0.0.1", "::1", "127.0.0.1"]]);
        let peer = connect(&mut connector, &format!("http://customer.example:{port}/")).await.unwrap();
        assert_eq!(peer.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
    }

    #[tokio::test]
    async fn an_address_is_checked_like_a_name() {
        let (_listener, port) = listener().await;
        let (_six, six) = (tokio::net::TcpListener::bind("[::1]:0").await.ok(), 1);
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"] {
            let port = if host == "[::1]" { six } else { port };
            let error =
                connect(&mut connector(&[], &[]), &format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(is_refused(&*error), "{host}: {error}");
        }
        connect(&mut connector(&["127.0.0.1"], &[]), &format!("http://127.0.0.1:{port}/")).await.unwrap();
    }

    #[tokio::test]
    async fn a_host_without_addresses_is_not_taken_for_a_refused_one() {
        let error = connect(&mut connector(&[], &[&[]]), "http://customer.example/").await.unwrap_err();
        assert!(!is_refused(&*error), "{error}");
    }
}
