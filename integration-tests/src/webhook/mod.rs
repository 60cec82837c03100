//! A receiver of webhooks for tests.

mod certificates;
mod delivery;
mod desk;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;

pub use certificates::{Authority, Certificate};
pub use delivery::Delivery;
pub use desk::Fault;

use self::desk::Desk;
use crate::environment::Environment;
use crate::proxy::Proxy;
use crate::report::{self, Way};
use crate::serving::Serving;

/// An HTTP server that takes webhooks, in a thread of this process, on a free loopback port. It supports HTTP/1.1 and
/// HTTP/2.
///
/// It records each request that it takes before it answers. The record is in the memory of the test and is still
/// there after [`kill`](Self::kill) and [`restart`](Self::restart).
///
/// ```no_run
/// use integration_tests::Receiver;
/// use integration_tests::webhook::Fault;
///
/// # async fn example() {
/// let receiver = Receiver::start().await;
/// receiver.set(Fault::Status(503));
/// // ... send webhooks to receiver.url("/hooks") ...
/// assert!(receiver.deliveries().is_empty());
/// # }
/// ```
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    serving: Mutex<Option<Serving>>,
    desk: Arc<Desk>,
}

impl Receiver {
    /// A receiver without encryption.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        Self::launch(None).await
    }

    /// A receiver with TLS. It shows `certificate`, and asks for a certificate of the client that `clients` has issued, if that
    /// is set.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_with_tls(certificate: &Certificate, clients: Option<&Authority>) -> Self {
        Self::launch(Some(Arc::new(certificates::server_config(certificate, clients)))).await
    }

    async fn launch(tls: Option<Arc<ServerConfig>>) -> Self {
        let receiver = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, crate::ports::free())),
            tls,
            serving: Mutex::default(),
            desk: Arc::default(),
        };
        receiver.restart().await;
        report::used(&Environment::of_process(), "webhook", Way::InTest, "hyper 1");
        receiver
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of it with this path. The path `/status/404` and its like is always answered with that status.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// A proxy in front of it.
    pub async fn proxy(&self) -> Proxy {
        Proxy::start(self.address).await
    }

    /// Changes what happens to requests that arrive from now on.
    pub fn set(&self, fault: Fault) {
        self.desk.set(fault);
    }

    /// Returns the requests that it has taken since it was made, in that order.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.desk.taken(0)
    }

    /// Returns the same without the first `skip` requests.
    pub fn deliveries_after(&self, skip: usize) -> Vec<Delivery> {
        self.desk.taken(skip)
    }

    /// Returns how many requests it has taken.
    pub fn taken(&self) -> usize {
        self.desk.count()
    }

    /// Returns how many complete requests have arrived, taken or not.
    pub fn requests(&self) -> usize {
        self.desk.requests()
    }

    /// Returns the maximum number of requests in progress at one time.
    pub fn most_at_once(&self) -> usize {
        self.desk.most_at_once()
    }

    /// Returns how many connections were opened.
    pub fn connections(&self) -> usize {
        self.desk.connections()
    }

    /// Ends it at once. Does nothing if it does not run.
    pub async fn kill(&self) {
        if let Some(serving) = self.serving.lock().await.take() {
            serving.end().await;
        }
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// If it runs, or does not start.
    pub async fn restart(&self) {
        let mut serving = self.serving.lock().await;
        assert!(serving.is_none(), "it runs");
        let (desk, tls) = (self.desk.clone(), self.tls.clone());
        let started = Serving::start("webhook", self.address, |listener| serve(listener, desk, tls)).await;
        *serving = Some(started.expect("the server starts"));
    }
}

async fn serve(listener: TcpListener, desk: Arc<Desk>, tls: Option<Arc<ServerConfig>>) {
    let tls = tls.map(TlsAcceptor::from);
    while let Ok((stream, _)) = listener.accept().await {
        desk.connected();
        tokio::spawn(connection(stream, desk.clone(), tls.clone()));
    }
}

/// The client notices when it ends.
async fn connection(stream: TcpStream, desk: Arc<Desk>, tls: Option<TlsAcceptor>) {
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { desk.answer(request).await }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = match tls {
        None => builder.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => Ok(()),
        },
    };
}
