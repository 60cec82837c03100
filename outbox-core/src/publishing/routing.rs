//! Which destination a message goes to.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::message::Message;

type Rule<D> = Arc<dyn Fn(&Message) -> D + Send + Sync>;

/// A publisher's routing: a table by topic, else a closure, else one destination for all, else the topic as its name.
#[derive(Clone)]
pub struct Routing<D> {
    /// Destinations by topic.
    pub table: HashMap<String, D>,
    /// The closure.
    pub rule: Option<Rule<D>>,
    /// The one for all.
    pub default: Option<D>,
}

impl<D> Default for Routing<D> {
    fn default() -> Self {
        Self { table: HashMap::new(), rule: None, default: None }
    }
}

impl<D: Clone> Routing<D> {
    /// The destination of a message; `named` makes one of a name.
    pub fn route(&self, message: &Message, named: impl FnOnce(&str) -> D) -> D {
        match (self.table.get(message.topic()), &self.rule, &self.default) {
            (Some(destination), _, _) | (None, None, Some(destination)) => destination.clone(),
            (None, Some(rule), _) => rule(message),
            (None, None, None) => named(message.topic()),
        }
    }

    /// The destinations it names itself.
    pub fn destinations(&self) -> impl Iterator<Item = &D> {
        self.table.values().chain(&self.default)
    }
}

impl<D: fmt::Debug> fmt::Debug for Routing<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing")
            .field("table", &self.table)
            .field("rule", &self.rule.is_some())
            .field("default", &self.default)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_before_the_rule_and_the_rule_before_the_rest() {
        let message = |topic: &str| Message::bytes(topic, "").build().unwrap();
        let mut routing = Routing::<String>::default();
        let route = |routing: &Routing<String>, topic: &str| routing.route(&message(topic), str::to_owned);
        assert_eq!(route(&routing, "a"), "a");
        routing.default = Some("all".to_owned());
        assert_eq!(route(&routing, "a"), "all");
        routing.rule = Some(Arc::new(|message| message.topic().to_uppercase()));
        routing.table.insert("b".to_owned(), "table".to_owned());
        assert_eq!(route(&routing, "a"), "A");
        assert_eq!(route(&routing, "b"), "table");
    }
}
