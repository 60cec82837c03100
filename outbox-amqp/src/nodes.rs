//! The nodes of a broker, and the addresses of each, in the order in which they are tried.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lapin::ConnectionProperties;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::dial::{DialFailure, Endpoint};
use crate::error::is_transient;
use crate::link::Link;
use crate::socket::open;

/// A URI and where it leads to.
pub(crate) struct Node {
    /// Holds a password, and is never shown.
    uri: AMQPUri,
    endpoint: Endpoint,
}

/// The nodes of a broker, any of which will do.
pub(crate) struct Nodes {
    nodes: Vec<Node>,
    tls: OwnedTLSConfig,
    /// The node and the address of the latest connection.
    latest: Mutex<Option<(usize, SocketAddr)>>,
}

/// How one address failed.
struct Failure {
    at: String,
    /// `None` if it did not answer in its share of the time.
    error: Option<lapin::Error>,
}

impl Nodes {
    pub(crate) fn new(uris: Vec<AMQPUri>, tls: OwnedTLSConfig) -> Self {
        let nodes = uris.into_iter().map(|uri| Node { endpoint: Endpoint::of(&uri), uri }).collect();
        Self { nodes, tls, latest: Mutex::default() }
    }

    /// All of them, for errors.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let all = |part: fn(&Endpoint) -> &String| {
            let mut parts: Vec<&str> = Vec::new();
            for node in &self.nodes {
                let part = part(&node.endpoint);
                if !parts.contains(&part.as_str()) {
                    parts.push(part);
                }
            }
            parts.join(", ")
        };
        Endpoint { broker: all(|endpoint| &endpoint.broker), vhost: all(|endpoint| &endpoint.vhost) }
    }

    /// Connects to the first address that lets us in: first the node and address of the latest connection, then the
    /// other nodes in random order, so that the publishers of a cluster spread over it.
    ///
    /// Each address gets an equal share of the time that is left, and hands on what it does not use. One that swallows
    /// packets, or accepts and stays silent, does not keep us from the others.
    pub(crate) async fn connect(
        &self,
        properties: &ConnectionProperties,
        limit: Instant,
    ) -> Result<Link, DialFailure> {
        let latest = *self.latest();
        let mut failures = Vec::new();
        let order = self.order(latest.map(|(index, _)| index));
        for (done, (index, node)) in order.iter().enumerate() {
            let until = share(limit, order.len() - done);
            let (host, port) = (node.uri.authority.host.as_str(), node.uri.authority.port);
            let mut addresses: Vec<SocketAddr> =
                match timeout_at(until, tokio::net::lookup_host((host, port))).await {
                    Ok(Ok(addresses)) => addresses.collect(),
                    Ok(Err(error)) => {
                        failures.push(Failure { at: format!("{host}:{port}"), error: Some(error.into()) });
                        continue;
                    }
                    Err(_) => {
                        failures.push(Failure { at: format!("{host}:{port}"), error: None });
                        continue;
                    }
                };
            if addresses.is_empty() {
                let error = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
                failures.push(Failure { at: format!("{host}:{port}"), error: Some(error.into()) });
            }
            // A stable sort: the others keep the resolver's order.
            addresses.sort_by_key(|address| latest != Some((*index, *address)));
            for (tried, &address) in addresses.iter().enumerate() {
                let attempt = open(node.uri.clone(), address, &self.tls, properties.clone());
                let until = share(until, addresses.len() - tried);
                let error = match timeout_at(until, attempt).await {
                    Ok(Ok((connection, socket))) => {
                        *self.latest() = Some((*index, address));
                        return Ok(Link::new(connection, Some(socket), node.endpoint.clone()));
                    }
                    Ok(Err(error)) => Some(error),
                    Err(_) => None,
                };
                debug!(broker = %node.endpoint.broker, %address, ?error, "cannot connect");
                failures.push(Failure { at: address.to_string(), error });
            }
        }
        Err(judge(failures))
    }

    fn order(&self, first: Option<usize>) -> Vec<(usize, &Node)> {
        let mut order: Vec<_> = self.nodes.iter().enumerate().collect();
        fastrand::shuffle(&mut order);
        order.sort_by_key(|(index, _)| first != Some(*index));
        order
    }

    fn latest(&self) -> MutexGuard<'_, Option<(usize, SocketAddr)>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the first of so many attempts has to be over.
fn share(limit: Instant, attempts: usize) -> Instant {
    let now = Instant::now();
    let left = limit.saturating_duration_since(now);
    now + left / u32::try_from(attempts.max(1)).unwrap_or(u32::MAX)
}

/// One failure for all addresses: what a broker has said rather than that another one was away.
fn judge(failures: Vec<Failure>) -> DialFailure {
    let tried = (failures.len() > 1).then(|| {
        let tried = failures.iter().map(|failure| match &failure.error {
            Some(error) => format!("{}: {error}", failure.at),
            None => format!("{}: no answer in time", failure.at),
        });
        tried.collect::<Vec<_>>().join("; ")
    });
    let mut errors: Vec<_> = failures.into_iter().filter_map(|failure| failure.error).collect();
    errors.sort_by_key(is_transient);
    match errors.into_iter().next() {
        Some(error) => DialFailure::Refused { error, tried },
        None => DialFailure::TimedOut { tried },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_is_shared_and_what_is_not_used_is_handed_on() {
        let start = Instant::now();
        let limit = start + Duration::from_secs(12);
        assert_eq!(share(limit, 3) - start, Duration::from_secs(4));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(share(limit, 2) - start, Duration::from_secs(7));
        assert_eq!(share(limit, 1), limit);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(share(limit, 1), Instant::now());
    }

    #[test]
    fn the_latest_node_comes_first_and_the_others_in_any_order() {
        let uris = (1..=3).map(|node| format!("amqp://node{node}").parse().unwrap()).collect();
        let nodes = Nodes::new(uris, OwnedTLSConfig::default());
        let order = |first| nodes.order(first).iter().map(|(index, _)| *index).collect::<Vec<_>>();
        let firsts: std::collections::HashSet<usize> = (0..1_000).map(|_| order(None)[0]).collect();
        assert_eq!(firsts.len(), 3);
        for _ in 0..100 {
            assert_eq!(order(Some(2))[0], 2);
        }
        assert_eq!(nodes.endpoint().broker, "amqp://node1:5672, amqp://node2:5672, amqp://node3:5672");
        assert_eq!(nodes.endpoint().vhost, "/");
    }

    #[test]
    fn a_broker_s_answer_is_worth_more_than_silence() {
        let failure = |at: &str, error| Failure { at: at.to_owned(), error };
        let refused = || lapin::ErrorKind::IOError(Arc::new(io::ErrorKind::ConnectionRefused.into())).into();
        let answer = || lapin::ErrorKind::AuthProviderError("no".to_owned()).into();
        let judged = judge(vec![
            failure("a:1", Some(refused())),
            failure("b:2", Some(answer())),
            failure("c:3", None),
        ]);
        let DialFailure::Refused { error, tried: Some(tried) } = judged else { panic!("{judged:?}") };
        assert!(!is_transient(&error), "{error}");
        for part in ["a:1: ", "connection refused", "; b:2: ", "c:3: no answer in time"] {
            assert!(tried.contains(part), "{part} is not in {tried}");
        }
        let judged = judge(vec![failure("a:1", None)]);
        assert!(matches!(judged, DialFailure::TimedOut { tried: None }), "{judged:?}");
    }
}
