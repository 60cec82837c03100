//! `outbox relay`: runs relays until somebody stops them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::future::join_all;
use metrics::NoopRecorder;
use outbox_core::{Error, ErrorKind, Publisher, Relay, Store, StoreExt};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, warn};

use crate::cli::RelayArgs;
use crate::config::{Config, Route};
use crate::exit::Failure;
use crate::http::{Lately, Running, Server};
use crate::logging;
use crate::outboxes::{self, Opened};
use crate::telemetry::Telemetry;

/// How often `--until-empty` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Minimum time between the first signal and one that abandons the messages in flight. Process groups and supervisors
/// deliver one request to stop as several signals within some milliseconds.
const REPEATED: Duration = Duration::from_secs(2);

/// How long what was measured last may take to be sent.
const FAREWELL: Duration = Duration::from_secs(5);

pub(crate) async fn run(config: &Config, args: &RelayArgs) -> Result<(), Failure> {
    logging::start(&config.log)?;
    let telemetry = Telemetry::start(config.telemetry.as_ref())?;
    let result = relays(config, args, &telemetry).await;
    // Who was asked twice to stop does not wait for a collector.
    let at_most = if matches!(result, Ok(Ended::AtOnce)) { Duration::ZERO } else { FAREWELL };
    telemetry.end(at_most).await;
    match result? {
        Ended::Drained => Ok(()),
        Ended::Undrained(routes) => Err(Failure::not_drained(routes)),
        Ended::AtOnce => Err(Failure::not_drained(vec!["stopped by a second signal".to_owned()])),
    }
}

/// How the relays ended.
enum Ended {
    Drained,
    /// These had messages in flight.
    Undrained(Vec<String>),
    AtOnce,
}

/// Runs the relays of all routes until a signal.
async fn relays(config: &Config, args: &RelayArgs, telemetry: &Telemetry) -> Result<Ended, Failure> {
    let routes = outboxes::select(config, &args.route)?;
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let server = match &config.http {
        Some(http) => Some(Server::start(http, &routes, stop.clone(), telemetry).await?),
        None => {
            telemetry.record(None::<NoopRecorder>)?;
            None
        }
    };
    let runs = join_all(routes.iter().map(|route| {
        let span = tracing::info_span!("route", name = %route.name);
        route_until(route, args, stop.clone(), server.as_ref(), telemetry).instrument(span)
    }));
    tokio::pin!(runs);
    let results = tokio::select! {
        results = &mut runs => results,
        name = signals.next() => {
            info!(signal = name, "stopping; the messages in flight are finished first");
            stop.cancel();
            let since = Instant::now();
            loop {
                tokio::select! {
                    results = &mut runs => break results,
                    name = signals.next() => {
                        if since.elapsed() < REPEATED {
                            info!(signal = name, "ignored: it repeats the request to stop");
                            continue;
                        }
                        warn!(signal = name, "stopping immediately; messages in flight may be published again");
                        return Ok(Ended::AtOnce);
                    }
                }
            }
        }
    };
    let mut undrained = Vec::new();
    for (route, result) in routes.iter().zip(results) {
        if let Err(error) = result {
            match error.kind() {
                ErrorKind::Timeout => undrained.push(format!("{}: {}", route.name, error.report())),
                _ => return Err(Failure::from(error).of(&route.name)),
            }
        }
    }
    Ok(if undrained.is_empty() { Ended::Drained } else { Ended::Undrained(undrained) })
}

/// Runs the relay of one route until `stop`. One that ends before, which wrong settings cause, stops the other routes, so that
/// the process ends with the error instead of going on without the route.
async fn route_until(
    route: &Route,
    args: &RelayArgs,
    stop: CancellationToken,
    server: Option<&Server>,
    telemetry: &Telemetry,
) -> Result<(), Error> {
    let result = relay(route, args, stop.clone(), server, telemetry).await;
    if let Err(failure) = &result
        && failure.kind() != ErrorKind::Timeout
        && !stop.is_cancelled()
    {
        error!(error = failure.report(), "the route cannot run; stopping the relay");
        stop.cancel();
    }
    result
}

/// Runs the relay of one route until `stop`.
async fn relay(
    route: &Route,
    args: &RelayArgs,
    stop: CancellationToken,
    server: Option<&Server>,
    telemetry: &Telemetry,
) -> Result<(), Error> {
    info!(from = route.store.place(), to = route.publisher.place(), "starting");
    let Some(opened) = patiently("open the store", &stop, || outboxes::open(route)).await? else {
        return Ok(());
    };
    let Some(publisher) = patiently("make the publisher", &stop, || route.publisher.open()).await? else {
        return Ok(());
    };
    if args.migrate && patiently("make the tables", &stop, || opened.outbox.migrate()).await?.is_none() {
        return Ok(());
    }
    let store: Arc<dyn Store> = opened.store.clone();
    let publisher: Arc<dyn Publisher> = telemetry.trace(publisher.publisher(), &route.name);
    let relay = Relay::builder(store, publisher)
        .settings(route.settings.clone())
        .metrics_label("route", &route.name)
        .build()?;
    if let Some(running) = server.and_then(|server| server.running(route)) {
        let (store, status) = (opened.store.clone(), relay.status());
        let lately =
            Lately::watch(store.clone(), relay.events(), status.clone(), route.settings.stats_interval);
        // It is empty: each route has one relay.
        let _ = running.set(Running { store, status, lately });
    }
    let stopped = async {
        if args.until_empty {
            tokio::select! {
                () = empty(&opened) => {}
                () = stop.cancelled() => {}
            }
        } else {
            stop.cancelled().await;
        }
    };
    let result = relay.run(stopped).await;
    opened.outbox.close().await;
    match &result {
        Ok(()) => info!("stopped"),
        Err(failure) => error!(error = failure.report(), "stopped with messages in flight"),
    }
    result
}

/// Returns when nothing is left that can be delivered, however often the database fails to answer.
async fn empty(opened: &Opened<'_>) {
    // Blocked messages are all read to find out whether that is so, which is not done five times a second.
    let (mut pause, longest) = (LOOK, LOOK * 25);
    loop {
        match opened.store.stats(1).await {
            Ok(stats) if stats.backlog.value == 0 => return,
            Ok(stats) if stats.dead_letters.value > 0 => {
                if opened.store.nothing_deliverable().await.is_ok_and(|nothing| nothing) {
                    warn!(
                        "the messages that are left wait behind dead letters of their keys; redrive or discard these"
                    );
                    return;
                }
                pause = (pause * 2).min(longest);
            }
            _ => pause = LOOK,
        }
        tokio::time::sleep(pause).await;
    }
}

/// Does something until it succeeds, with growing pauses; gives up when the settings are wrong. `None` if `stop` came
/// first.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    what: &'static str,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Result<Option<T>, Error> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
        .build();
    for pause in pauses {
        let error = tokio::select! {
            result = attempt() => match result {
                Ok(made) => return Ok(Some(made)),
                Err(error) if error.kind() == ErrorKind::Config => return Err(error),
                Err(error) => error,
            },
            () = stop.cancelled() => return Ok(None),
        };
        warn!(error = error.report(), ?pause, "cannot {what} yet; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
    Ok(None)
}

/// The signals that ask a process to end.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        #[cfg(unix)]
        let signals = {
            use tokio::signal::unix::{SignalKind, signal};
            Self { terminate: signal(SignalKind::terminate())?, hangup: signal(SignalKind::hangup())? }
        };
        #[cfg(not(unix))]
        let signals = Self {};
        Ok(signals)
    }

    async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await;
            "SIGINT"
        }
    }
}
