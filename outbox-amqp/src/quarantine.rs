//! Which messages are sent alone from the start, because the broker closed a channel or connection with them on it.
//!
//! A call sends its suspects alone by itself, if there is time. This is for those that could not be, for culprits that
//! come back, and for exchanges to which the user may not publish.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outbox_core::MessageId;

/// Suspects remembered. Beyond it the oldest is forgotten; if that was a culprit, it is found again the same way.
const IDS: usize = 10_000;
/// Exchanges remembered.
const EXCHANGES: usize = 1_000;
/// How long messages to an exchange that refused us are sent alone, counted from its last refusal.
const EXCHANGE_TTL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Quarantine(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ids: HashSet<MessageId>,
    order: VecDeque<MessageId>,
    exchanges: HashMap<String, Instant>,
}

impl Quarantine {
    /// Whether this message must be sent alone.
    pub(crate) fn holds(&self, id: MessageId, exchange: &str) -> bool {
        let inner = self.lock();
        inner.ids.contains(&id)
            || inner.exchanges.get(exchange).is_some_and(|since| since.elapsed() < EXCHANGE_TTL)
    }

    /// Sends this message alone from now on.
    pub(crate) fn suspect(&self, id: MessageId) {
        let mut inner = self.lock();
        if inner.ids.insert(id) {
            inner.order.push_back(id);
        }
        while inner.order.len() > IDS {
            if let Some(oldest) = inner.order.pop_front() {
                inner.ids.remove(&oldest);
            }
        }
    }

    /// Sends messages to this exchange alone for a while.
    pub(crate) fn suspect_exchange(&self, exchange: &str) {
        let mut inner = self.lock();
        if inner.exchanges.len() >= EXCHANGES {
            inner.exchanges.retain(|_, since| since.elapsed() < EXCHANGE_TTL);
        }
        if inner.exchanges.len() < EXCHANGES {
            inner.exchanges.insert(exchange.to_owned(), Instant::now());
        }
    }

    /// The message is beyond doubt: it got through.
    pub(crate) fn clear(&self, id: MessageId) {
        let mut inner = self.lock();
        if inner.ids.remove(&id) {
            inner.order.retain(|other| *other != id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_are_held_until_cleared_and_never_without_bound() {
        let quarantine = Quarantine::default();
        let first = MessageId::new();
        quarantine.suspect(first);
        quarantine.suspect(first);
        assert!(quarantine.holds(first, "e"));
        quarantine.clear(first);
        assert!(!quarantine.holds(first, "e"));

        quarantine.suspect(first);
        for _ in 0..IDS {
            quarantine.suspect(MessageId::new());
        }
        assert!(!quarantine.holds(first, "e"));
        let inner = quarantine.lock();
        assert_eq!((inner.ids.len(), inner.order.len()), (IDS, IDS));
    }

    #[test]
    fn an_exchange_is_held_with_all_its_messages() {
        let quarantine = Quarantine::default();
        quarantine.suspect_exchange("e");
        assert!(quarantine.holds(MessageId::new(), "e"));
        assert!(!quarantine.holds(MessageId::new(), "f"));
    }
}
