//! One log line for a destination that fails, not one for each of its messages.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Message, Outcome, Scope};
use tokio::time::Instant;
use tracing::warn;

use crate::options::AmqpOptions;
use crate::routing::Routing;

/// The pause between two lines about the same failure of the same destination.
const PAUSE: Duration = Duration::from_secs(60);
/// Destinations remembered. They come from messages, so there could be any number. Further ones share a line.
const DESTINATIONS: usize = 1_000;

/// What failed: the exchange, or the queue if it is the default exchange.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Destination {
    exchange: String,
    queue: Option<String>,
}

#[derive(Debug)]
struct Seen {
    logged: Instant,
    /// Failures since that line.
    since: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<(Option<Destination>, ErrorKind), Seen>>);

impl Failures {
    /// Logs the failures that concern a destination. Those of the whole broker are the caller's to log: it knows how
    /// long they last.
    pub(crate) fn report(&self, routing: &Routing, batch: &[Message], outcomes: &[Outcome]) {
        let failed = batch.iter().zip(outcomes).filter_map(|(message, outcome)| {
            let error = outcome.as_ref().err()?;
            let concerned = error.scope() == Scope::Message || error.kind() == ErrorKind::Timeout;
            concerned.then_some((message, error))
        });
        let mut groups: HashMap<(Destination, ErrorKind), (u64, &Error)> = HashMap::new();
        for (message, error) in failed {
            groups.entry((destination(routing, message), error.kind())).or_insert((0, error)).0 += 1;
        }
        for ((destination, kind), (count, error)) in groups {
            if let Some(failed) = self.due(destination.clone(), kind, count) {
                let queue = destination.queue.as_deref().unwrap_or_default();
                // The names come from messages: control characters must not reach the log as they are.
                warn!(
                    exchange = ?destination.exchange,
                    queue = ?queue,
                    failed,
                    error = ?error.report(),
                    "messages are not delivered"
                );
            }
        }
    }

    /// How many failures a line has to report, if it is time for one.
    fn due(&self, destination: Destination, kind: ErrorKind, count: u64) -> Option<u64> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if seen.len() >= DESTINATIONS {
            seen.retain(|_, seen| now - seen.logged < PAUSE);
        }
        let key = (Some(destination), kind);
        let key = if seen.len() >= DESTINATIONS && !seen.contains_key(&key) { (None, kind) } else { key };
        match seen.get_mut(&key) {
            Some(seen) if now - seen.logged < PAUSE => {
                seen.since += count;
                None
            }
            Some(seen) => {
                seen.logged = now;
                Some(count + std::mem::take(&mut seen.since))
            }
            None => {
                seen.insert(key, Seen { logged: now, since: 0 });
                Some(count)
            }
        }
    }
}

/// Where a message goes, as far as that can be told of one that may be malformed.
fn destination(routing: &Routing, message: &Message) -> Destination {
    let options = message.options().get::<AmqpOptions>().ok().flatten().unwrap_or_default();
    let route = routing.route(message);
    let exchange = options.exchange.unwrap_or(route.exchange);
    let queue = exchange.is_empty().then(|| options.routing_key.unwrap_or(route.routing_key));
    Destination { exchange, queue }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(name: &str) -> Destination {
        Destination { exchange: name.to_owned(), queue: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_has_one_line_a_minute_with_the_count_since_the_last() {
        let failures = Failures::default();
        let due = |name: &str, count| failures.due(exchange(name), ErrorKind::Unroutable, count);
        assert_eq!(due("a", 3), Some(3));
        assert_eq!(due("a", 4), None);
        assert_eq!(due("b", 1), Some(1));
        assert_eq!(failures.due(exchange("a"), ErrorKind::Permission, 1), Some(1));
        tokio::time::advance(PAUSE).await;
        assert_eq!(due("a", 5), Some(9));
        assert_eq!(due("a", 1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_destinations_share_a_bounded_memory() {
        let failures = Failures::default();
        let due = |name: &str| failures.due(exchange(name), ErrorKind::NotFound, 1);
        let lines = (0..DESTINATIONS * 2).filter(|n| due(&n.to_string()).is_some()).count();
        assert_eq!(lines, DESTINATIONS + 1);
        assert!(failures.0.lock().unwrap().len() <= DESTINATIONS + 1);
        tokio::time::advance(PAUSE).await;
        assert_eq!(due("new"), Some(1));
        assert_eq!(failures.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_destination_is_the_exchange_or_the_queue_behind_the_default_one() {
        let routing = Routing::default();
        let message = |options: &AmqpOptions| Message::bytes("orders", "").options(options).build().unwrap();
        let plain = destination(&routing, &message(&AmqpOptions::new()));
        assert_eq!(plain, Destination { exchange: String::new(), queue: Some("orders".to_owned()) });
        let named = AmqpOptions::new().exchange("events").routing_key("any");
        assert_eq!(destination(&routing, &message(&named)), exchange("events"));
    }
}
