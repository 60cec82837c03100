//! Where a message goes when its own options do not say.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use outbox_core::Message;

/// An exchange and a routing key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The exchange; `""` is the default exchange, which leads to the queue named by the routing key.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
}

impl Route {
    /// Names an exchange and a routing key. Both may have at most 255 bytes.
    pub fn new(exchange: impl Into<String>, routing_key: impl Into<String>) -> Self {
        Self { exchange: exchange.into(), routing_key: routing_key.into() }
    }
}

type Rule = Arc<dyn Fn(&Message) -> Route + Send + Sync>;

/// The publisher's routing: a table by topic, else a closure, else the default exchange with the topic as key.
#[derive(Clone, Default)]
pub(crate) struct Routing {
    pub(crate) exchange: String,
    pub(crate) table: HashMap<String, Route>,
    pub(crate) rule: Option<Rule>,
}

impl Routing {
    pub(crate) fn route(&self, message: &Message) -> Route {
        match (self.table.get(message.topic()), &self.rule) {
            (Some(route), _) => route.clone(),
            (None, Some(rule)) => rule(message),
            (None, None) => Route::new(self.exchange.as_str(), message.topic()),
        }
    }
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing")
            .field("exchange", &self.exchange)
            .field("table", &self.table)
            .field("rule", &self.rule.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_before_the_rule_and_the_rule_before_the_default() {
        let message = |topic: &str| Message::bytes(topic, "").build().unwrap();
        let mut routing = Routing { exchange: "events".to_owned(), ..Routing::default() };
        assert_eq!(routing.route(&message("a")), Route::new("events", "a"));

        routing.rule = Some(Arc::new(|message| Route::new("rule", message.topic().to_uppercase())));
        routing.table.insert("b".to_owned(), Route::new("table", "bb"));
        assert_eq!(routing.route(&message("a")), Route::new("rule", "A"));
        assert_eq!(routing.route(&message("b")), Route::new("table", "bb"));
    }
}
