//! Where a message goes when its own options do not say.

use std::collections::BTreeSet;

use outbox_core::Message;
use outbox_core::publishing;

/// An exchange and a routing key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Route {
    /// The exchange; `""` is the default exchange, which leads to the queue named by the routing key.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Whether a message that no queue takes counts as failed. Default: `true`. See
    /// [`not_mandatory`](crate::AmqpPublisherBuilder::not_mandatory) for what `false` costs.
    pub mandatory: bool,
}

impl Route {
    /// Names an exchange and a routing key. Both may have at most 255 bytes.
    pub fn new(exchange: impl Into<String>, routing_key: impl Into<String>) -> Self {
        Self { exchange: exchange.into(), routing_key: routing_key.into(), mandatory: true }
    }

    /// Sets [`mandatory`](Self::mandatory).
    #[must_use]
    pub fn mandatory(mut self, yes: bool) -> Self {
        self.mandatory = yes;
        self
    }
}

/// The publisher's routing: what is said of topics, else the default exchange with the topic as key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    pub(crate) exchange: String,
    pub(crate) routes: publishing::Routing<Route>,
    /// Exchanges to which messages go without the `mandatory` flag.
    pub(crate) not_mandatory: BTreeSet<String>,
}

impl Routing {
    pub(crate) fn route(&self, message: &Message) -> Route {
        self.routes.route(message, |topic| Route::new(self.exchange.as_str(), topic))
    }

    /// Whether messages to this exchange are mandatory, if no route says otherwise.
    pub(crate) fn is_mandatory(&self, exchange: &str) -> bool {
        !self.not_mandatory.contains(exchange)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_nothing_is_said_of_goes_to_the_default_exchange() {
        let message = |topic: &str| Message::bytes(topic, "").build().unwrap();
        let mut routing = Routing { exchange: "events".to_owned(), ..Routing::default() };
        routing.routes.table.insert("b".to_owned(), Route::new("table", "bb"));
        assert_eq!(routing.route(&message("a")), Route::new("events", "a"));
        assert_eq!(routing.route(&message("b")), Route::new("table", "bb"));

        routing.routes.rule = Some(Arc::new(|message| Route::new("rule", message.topic().to_uppercase())));
        assert_eq!(routing.route(&message("a")), Route::new("rule", "A"));
    }
}
