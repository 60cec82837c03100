//! A connection of one call at a time, which sends nothing any more once it is dropped.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::{oneshot, watch};

use crate::verdict::Silence;

/// Longer than any connection lives.
const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// What the server has reported on a connection besides answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signs {
    /// The connection has ended.
    pub(crate) closed: bool,
    /// Subjects to which the user may not publish.
    pub(crate) forbidden: BTreeSet<String>,
    /// The subject for answers, if the user may not subscribe to it.
    pub(crate) unheard: Option<String>,
}

/// A connection to the server.
///
/// The client library has a task for every connection, which writes everything in its queue and which reconnects
/// automatically. A publisher must not send messages of a call that is over. Therefore every connection has a thread with a
/// separate runtime. The runtime ends with this value, and with it the task and the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    signs: watch::Receiver<Signs>,
    /// The thread ends when this is dropped.
    _alive: oneshot::Sender<Infallible>,
}

/// The reason why a connection could not be opened. Several messages can fail with the same one.
#[derive(Clone, Debug)]
pub(crate) enum OpenFailure {
    /// The server could not be reached, or refused.
    Connect(Arc<ConnectError>),
    /// The system did not give a thread.
    Thread(Arc<std::io::Error>),
    /// The thread has ended.
    Ended,
}

impl Connection {
    /// Connects to one of the servers.
    ///
    /// # Cancel safety
    /// The attempt ends when the future is dropped.
    pub(crate) async fn open(servers: Vec<ServerAddr>, options: ConnectOptions) -> Result<Self, OpenFailure> {
        let (reporting, signs) = watch::channel(Signs::default());
        let (alive, dropped) = oneshot::channel();
        let (opened, opening) = oneshot::channel();
        let spawned = std::thread::Builder::new()
            .name("outbox-nats".to_owned())
            .spawn(move || serve(servers, options, reporting, dropped, opened));
        if let Err(error) = spawned {
            return Err(OpenFailure::Thread(Arc::new(error)));
        }
        match opening.await {
            Ok(client) => Ok(Self { client: client?, signs, _alive: alive }),
            Err(_) => Err(OpenFailure::Ended),
        }
    }

    pub(crate) fn signs(&self) -> watch::Receiver<Signs> {
        self.signs.clone()
    }

    /// Whether the next call may use it. Rights may be granted meanwhile, so a connection on which some were missing is not
    /// used again.
    pub(crate) fn is_usable(&self) -> bool {
        let signs = self.signs.borrow();
        !signs.closed && signs.forbidden.is_empty() && signs.unheard.is_none()
    }
}

/// Waits until the server reports that no answer will come.
pub(crate) async fn silence_of(signs: &mut watch::Receiver<Signs>, subject: &str) -> Silence {
    let of = |signs: &Signs| {
        if signs.forbidden.contains(subject) {
            Some(Silence::Forbidden)
        } else if signs.unheard.is_some() {
            Some(Silence::Unheard)
        } else {
            signs.closed.then_some(Silence::Closed)
        }
    };
    match signs.wait_for(|signs| of(signs).is_some()).await {
        Ok(signs) => of(&signs).unwrap_or(Silence::Closed),
        // The thread of the connection has ended.
        Err(_) => Silence::Closed,
    }
}

/// The thread of a connection.
fn serve(
    servers: Vec<ServerAddr>,
    options: ConnectOptions,
    reporting: watch::Sender<Signs>,
    dropped: oneshot::Receiver<Infallible>,
    opened: oneshot::Sender<Result<Client, OpenFailure>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = opened.send(Err(OpenFailure::Thread(Arc::new(error))));
            return;
        }
    };
    runtime.block_on(async move {
        tokio::select! {
            biased;
            _ = dropped => {}
            () = live(servers, options, reporting, opened) => {}
        }
    });
    // With the runtime end the tasks of the client. What is still in their queues is not sent. A name that is being looked up is
    // not waited for.
    runtime.shutdown_background();
}

/// Connects, and returns when the connection has ended.
async fn live(
    servers: Vec<ServerAddr>,
    options: ConnectOptions,
    reporting: watch::Sender<Signs>,
    opened: oneshot::Sender<Result<Client, OpenFailure>>,
) {
    let mut signs = reporting.subscribe();
    let reporting = Arc::new(reporting);
    let connected = Arc::new(AtomicBool::new(false));
    let options = options
        .event_callback({
            let reporting = Arc::clone(&reporting);
            move |event| {
                note(&reporting, event);
                ready(())
            }
        })
        // The client asks how long to wait before each attempt to connect, so a second time when the connection has ended.
        .reconnect_delay_callback({
            let connected = Arc::clone(&connected);
            move |_| {
                if !connected.load(Ordering::Acquire) {
                    return Duration::ZERO;
                }
                reporting.send_modify(|signs| signs.closed = true);
                FOREVER
            }
        });
    let client = options.connect(servers).await;
    // No other task of this thread has run yet.
    connected.store(true, Ordering::Release);
    let failed = client.is_err();
    if opened.send(client.map_err(|error| OpenFailure::Connect(Arc::new(error)))).is_err() || failed {
        return;
    }
    let _ = signs.wait_for(|signs| signs.closed).await;
}

fn note(reporting: &watch::Sender<Signs>, event: Event) {
    let Event::ServerError(ServerError::Other(text)) = event else { return };
    match violation(&text) {
        Some(Violation::Publish(subject)) => {
            reporting.send_modify(|signs| {
                signs.forbidden.insert(subject.to_owned());
            });
        }
        Some(Violation::Subscription(subject)) => {
            reporting.send_modify(|signs| signs.unheard = Some(subject.to_owned()));
        }
        None => tracing::debug!(error = text, "the NATS server reports an error"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Violation<'a> {
    Publish(&'a str),
    Subscription(&'a str),
}

/// Reads `Permissions Violation for Publish to "subject"`, and the same of a subscription.
fn violation(text: &str) -> Option<Violation<'_>> {
    const START: &str = "permissions violation for ";
    let start = text.get(..START.len()).filter(|start| start.eq_ignore_ascii_case(START))?;
    let (what, rest) = text.get(start.len()..)?.split_once(" to \"")?;
    let (subject, _) = rest.split_once('"')?;
    match what.to_ascii_lowercase().as_str() {
        "publish" => Some(Violation::Publish(subject)),
        "subscription" => Some(Violation::Subscription(subject)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_are_read_from_the_servers_words() {
        assert_eq!(
            violation("Permissions Violation for Publish to \"orders.Eu\""),
            Some(Violation::Publish("orders.Eu"))
        );
        assert_eq!(
            violation("Permissions Violation for Subscription to \"_INBOX.x.*\" using queue \"q\""),
            Some(Violation::Subscription("_INBOX.x.*"))
        );
        for other in ["Permissions Violation for Publish to", "Maximum Payload Violation", "permissions", "ü"]
        {
            assert_eq!(violation(other), None, "{other}");
        }
    }
}
