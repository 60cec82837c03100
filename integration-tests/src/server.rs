//! The common parts of all services: how the harness provides one, and the operations on it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::sync::OnceCell;
use url::Url;

use crate::availability::{Unavailable, Ways, available};
use crate::environment::Environment;
use crate::eventually::poll_until;
use crate::failure::Definite;
use crate::instance::Instance;
use crate::proxy::Proxy;
use crate::report::{self, Way};
use crate::runtime;
use crate::service::Service;

/// Timeout for one attempt to reach a server.
const ANSWER: Duration = Duration::from_secs(10);
/// Number of attempts to start a local server or a container: another process may take one of its ports in
/// between.
pub(crate) const STARTS: usize = 3;

/// A real server for tests.
///
/// Methods that change the state of the server panic when they fail: a test that wanted to kill its server
/// proves nothing while the server lives.
pub trait Server: Sized + Send + Sync + 'static {
    /// The service.
    const SERVICE: Service;

    /// The installed server that [`locate`](Self::locate) found.
    type Installation: Send + Sync;

    /// Where the server runs.
    fn instance(&self) -> &Instance;

    /// The address for clients.
    fn address(&self) -> SocketAddr;

    /// Keeps the server that the tests of this process share.
    fn shared_cell() -> &'static OnceCell<Result<Self, Unavailable>>;

    /// Connects to a running server. `url` is the value of the service's URL variable.
    ///
    /// # Errors
    /// If the URL is not valid.
    fn external(environment: &Environment, url: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Returns whether the server's image may be run: some have terms that must be accepted.
    ///
    /// # Errors
    /// If the terms are not accepted, with what to do.
    fn terms_accepted(_environment: &Environment) -> Result<()> {
        Ok(())
    }

    /// Starts a new server in a container.
    ///
    /// # Errors
    /// If no Docker daemon answers, or the container does not start.
    #[cfg(feature = "containers")]
    fn container(environment: &Environment) -> impl Future<Output = Result<Self>> + Send;

    /// Searches for an installed server.
    ///
    /// # Errors
    /// If there is no server that the harness can start.
    fn locate(environment: &Environment) -> Result<Self::Installation>;

    /// Starts the installed server with a new data directory. It need not be ready yet.
    ///
    /// # Errors
    /// If it exits immediately.
    fn launch(installation: &Self::Installation) -> impl Future<Output = Result<Self>> + Send;

    /// One attempt of a real client to use the server.
    ///
    /// # Errors
    /// The client's error, if the attempt fails.
    fn answers(&self) -> impl Future<Output = Result<()>> + Send;

    /// Whether this error of [`answers`](Self::answers) comes from a server that has started, so that waiting
    /// does not help.
    fn is_definite(_error: &anyhow::Error) -> bool {
        false
    }

    /// The version that the server reports.
    ///
    /// # Errors
    /// The client's error, if the server does not answer.
    fn version(&self) -> impl Future<Output = Result<String>> + Send;

    /// Returns the server that the tests of this process share, which the first caller starts. It must not be
    /// harmed.
    ///
    /// Returns `None` if there is no such server and it is not required. The skip has been reported, and the
    /// test must return.
    ///
    /// # Panics
    /// If there is no such server and `OUTBOX_TEST_REQUIRE` names it.
    fn shared() -> impl Future<Output = Option<&'static Self>> + Send {
        async {
            let environment = Environment::of_process();
            let acquire = || {
                let environment = environment.clone();
                runtime::run(async move { acquire(&environment, true).await })
            };
            let result = Self::shared_cell().get_or_init(acquire).await;
            available(result.as_ref().map_err(Clone::clone), &environment)
        }
    }

    /// Starts a server for the caller alone, which may be harmed and ends when the value is dropped. A URL in
    /// the environment is not used here, because that server must not be harmed.
    ///
    /// Returns `None` if the test must return, as with [`shared`](Self::shared).
    ///
    /// # Panics
    /// If there is no such server and `OUTBOX_TEST_REQUIRE` names it.
    fn start() -> impl Future<Output = Option<Self>> + Send {
        Self::start_in(Environment::of_process())
    }

    /// Like [`start`](Self::start), with variables chosen by the caller.
    ///
    /// # Panics
    /// Like [`start`](Self::start).
    fn start_in(environment: Environment) -> impl Future<Output = Option<Self>> + Send {
        async move { available(Self::try_start(environment.clone()).await, &environment) }
    }

    /// Like [`start_in`](Self::start_in), without the decision between a skip and a failure.
    ///
    /// # Errors
    /// If no method led to a server: the methods tried, and how each failed.
    fn try_start(environment: Environment) -> impl Future<Output = Result<Self, Unavailable>> + Send {
        runtime::run(async move { acquire(&environment, false).await })
    }

    /// Kills the server with all its processes, as a power failure would (`SIGKILL`).
    fn kill(&self) -> impl Future<Output = ()> + Send {
        act(self, "kill", self.instance().kill())
    }

    /// Stops the server with all its processes: connections stay open, the system accepts new ones, and
    /// nothing is answered (`SIGSTOP`).
    fn stop(&self) -> impl Future<Output = ()> + Send {
        act(self, "stop", self.instance().stop())
    }

    /// Continues a stopped server (`SIGCONT`).
    fn cont(&self) -> impl Future<Output = ()> + Send {
        act(self, "continue", self.instance().cont())
    }

    /// Restarts the server on the same ports with the same data, and waits until it answers. Kills it first
    /// if it is up.
    fn restart(&self) -> impl Future<Output = ()> + Send {
        act(self, "restart", async {
            self.instance().restart().await?;
            wait_until_ready(self).await
        })
    }

    /// Creates a proxy in front of the server, which lets everything pass until it is instructed otherwise.
    fn proxy(&self) -> impl Future<Output = Proxy> + Send {
        Proxy::start(self.address())
    }
}

async fn act<S: Server>(_server: &S, what: &str, action: impl Future<Output = Result<()>> + Send) {
    if let Err(error) = action.await {
        panic!("cannot {what} {}: {error:#}", S::SERVICE);
    }
}

/// Tries one method after the other.
pub(crate) async fn acquire<S: Server>(environment: &Environment, shared: bool) -> Result<S, Unavailable> {
    let (way, server) = first_of_the_ways(environment, shared).await?;
    report::service(environment, &server, way).await;
    Ok(server)
}

async fn first_of_the_ways<S: Server>(
    environment: &Environment,
    shared: bool,
) -> Result<(Way, S), Unavailable> {
    let variable = S::SERVICE.url_variable();
    let mut reasons = Vec::new();
    match environment.get(variable) {
        Some(url) if shared => {
            return match external(environment, url).await {
                Ok(server) => Ok((Way::Url, server)),
                // A server given by its URL must be used.
                Err(error) => {
                    Err(Unavailable::service(S::SERVICE, vec![format!("{variable}: {error:#}")], true))
                }
            };
        }
        Some(_) => reasons.push(format!("{variable} is no use: the test needs a server that it may harm")),
        None => reasons.push(format!("{variable} is not set")),
    }
    let ways = Ways::of(environment);
    let mut within_reach = false;
    let mut failed_container = None;
    if !ways.container {
        reasons.push("container: not allowed by OUTBOX_TEST_MODE".to_owned());
    } else if let Err(error) = may_use_containers::<S>(environment).await {
        reasons.push(format!("container: {error:#}"));
    } else {
        within_reach = true;
        match container(environment).await {
            Ok(server) => return Ok((Way::Container, server)),
            Err(error) => {
                let reason = format!("container: {error:#}");
                failed_container = Some(reason.clone());
                reasons.push(reason);
            }
        }
    }
    if !ways.process {
        reasons.push("installed server: not allowed by OUTBOX_TEST_MODE".to_owned());
    } else {
        match process(environment).await {
            Ok(server) => {
                if let Some(reason) = failed_container {
                    report::fallback(S::SERVICE, &reason);
                }
                return Ok((Way::Process, server));
            }
            Err(error) => reasons.push(format!("installed server: {error:#}")),
        }
    }
    Err(Unavailable::service(S::SERVICE, reasons, within_reach))
}

async fn external<S: Server>(environment: &Environment, url: &str) -> Result<S> {
    let server = S::external(environment, url).await?;
    wait_until_ready(&server).await?;
    Ok(server)
}

#[cfg(feature = "containers")]
async fn may_use_containers<S: Server>(environment: &Environment) -> Result<()> {
    S::terms_accepted(environment)?;
    crate::container::daemon().await
}

#[cfg(feature = "containers")]
async fn container<S: Server>(environment: &Environment) -> Result<S> {
    several_times(|| S::container(environment)).await
}

#[cfg(not(feature = "containers"))]
#[allow(clippy::unused_async, reason = "its twin is asynchronous")]
async fn may_use_containers<S: Server>(environment: &Environment) -> Result<()> {
    S::terms_accepted(environment)?;
    anyhow::bail!("the harness was built without its feature `containers`")
}

#[cfg(not(feature = "containers"))]
#[allow(clippy::unused_async, reason = "its twin is asynchronous")]
async fn container<S: Server>(environment: &Environment) -> Result<S> {
    may_use_containers::<S>(environment).await?;
    unreachable!("without the feature there are no containers to use")
}

async fn process<S: Server>(environment: &Environment) -> Result<S> {
    let installation = S::locate(environment)?;
    several_times(|| S::launch(&installation)).await
}

/// Restarts a server if it exits before it answers: another process may have taken one of its ports.
async fn several_times<S, F, Fut>(start: F) -> Result<S>
where
    S: Server,
    F: Fn() -> Fut,
    Fut: Future<Output = Result<S>>,
{
    let mut failure = anyhow!("never tried");
    for _ in 0..STARTS {
        let started = async {
            let server = start().await?;
            wait_until_ready(&server).await?;
            anyhow::Ok(server)
        };
        match started.await {
            Ok(server) => return Ok(server),
            Err(error) if error.is::<Definite>() => return Err(error),
            Err(error) => failure = error,
        }
    }
    Err(failure).with_context(|| format!("did not come up in {STARTS} starts"))
}

/// The time limits for waiting for a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until it answers. A busy machine needs a multiple of the time of an idle one.
    pub(crate) ready: Duration,
    /// While it answers with definite errors: it may do so while it starts.
    pub(crate) definite: Duration,
    /// Interval at which the last answer is printed.
    pub(crate) report: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { ready: seconds(300), definite: seconds(10), report: seconds(10) }
    }
}

async fn wait_until_ready<S: Server>(server: &S) -> Result<()> {
    wait(server, Patience::default()).await
}

/// Waits until the server answers, and prints its last answer at intervals.
pub(crate) async fn wait<S: Server>(server: &S, patience: Patience) -> Result<()> {
    let wait = Mutex::new(Wait::new(patience));
    let ready = poll_until(patience.ready, || async {
        // A server that has exited does not answer any more: no need to wait.
        if let Err(error) = server.instance().check().await {
            return Some(Err(error));
        }
        let error = match tokio::time::timeout(ANSWER, server.answers()).await {
            Ok(Ok(())) => return Some(Ok(())),
            Ok(Err(error)) => error,
            Err(_) => anyhow!("no answer within {ANSWER:?}"),
        };
        let mut wait = wait.lock().unwrap_or_else(PoisonError::into_inner);
        wait.answered::<S>(error).map(Err)
    })
    .await;
    let last = wait.into_inner().unwrap_or_else(PoisonError::into_inner).last;
    ready.unwrap_or_else(|| {
        let ready = patience.ready;
        Err(Definite(format!("{} is not ready after {ready:?}: {last:#}", S::SERVICE)).into())
    })
}

/// The knowledge about a server that is not ready yet.
struct Wait {
    patience: Patience,
    started: Instant,
    last: anyhow::Error,
    /// When the last answer was printed.
    reported: Instant,
    /// Since when all answers have been definite errors.
    definite: Option<Instant>,
}

impl Wait {
    fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self { patience, started: now, last: anyhow!("never tried"), reported: now, definite: None }
    }

    /// Records an answer. Returns an error if waiting any longer is pointless.
    fn answered<S: Server>(&mut self, error: anyhow::Error) -> Option<anyhow::Error> {
        if S::is_definite(&error) {
            let since = self.definite.get_or_insert_with(Instant::now);
            if since.elapsed() > self.patience.definite {
                let text = format!("{} answers with an error: {error:#}", S::SERVICE);
                return Some(Definite(text).into());
            }
        } else {
            self.definite = None;
        }
        if self.reported.elapsed() > self.patience.report {
            self.reported = Instant::now();
            let seconds = self.started.elapsed().as_secs();
            report::line(&format!("waiting for {} for {seconds} s; its last answer: {error:#}", S::SERVICE));
        }
        self.last = error;
        None
    }
}

/// The address in a URL. Tests use nearby servers, so the first address of a name is good enough.
pub(crate) fn address(url: &Url, default_port: u16) -> Result<SocketAddr> {
    let addresses = url.socket_addrs(|| Some(default_port)).context("the host of the URL is not known")?;
    // The servers that the harness starts, and most others, listen on IPv4.
    let best = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    best.copied().ok_or_else(|| anyhow!("the URL has no host"))
}
