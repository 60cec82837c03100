//! Which queue a message goes to.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use outbox_core::Message;

/// A queue, by name or by URL.
///
/// A name is looked up once ([`GetQueueUrl`](https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueUrl.html)),
/// in the region and account of the client. A queue whose name ends in `.fifo` is a FIFO queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queue(Address);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    Name(String),
    Url(String),
}

impl Queue {
    /// The queue of this name.
    pub fn name(name: impl Into<String>) -> Self {
        Self(Address::Name(name.into()))
    }

    /// The queue at this URL, such as `https://sqs.eu-central-1.amazonaws.com/123456789012/orders`. It may be in
    /// another account, but not in another region than the client.
    pub fn url(url: impl Into<String>) -> Self {
        Self(Address::Url(url.into()))
    }

    /// The URL, where it is known without looking it up.
    pub(crate) fn as_url(&self) -> Option<&str> {
        match &self.0 {
            Address::Url(url) => Some(url),
            Address::Name(_) => None,
        }
    }

    /// Its name or URL, for people.
    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            Address::Url(text) | Address::Name(text) => text,
        }
    }

    pub(crate) fn is_fifo(&self) -> bool {
        self.as_str().ends_with(".fifo")
    }
}

type Rule = Arc<dyn Fn(&Message) -> Queue + Send + Sync>;

/// The publisher's routing: a table by topic, else a closure, else one queue for all, else the topic as the name.
#[derive(Clone, Default)]
pub(crate) struct Routing {
    pub(crate) table: HashMap<String, Queue>,
    pub(crate) rule: Option<Rule>,
    pub(crate) queue: Option<Queue>,
}

impl Routing {
    pub(crate) fn route(&self, message: &Message) -> Queue {
        match (self.table.get(message.topic()), &self.rule, &self.queue) {
            (Some(queue), _, _) | (None, None, Some(queue)) => queue.clone(),
            (None, Some(rule), _) => rule(message),
            (None, None, None) => Queue::name(message.topic()),
        }
    }

    /// The queues it names itself.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.table.values().chain(&self.queue)
    }
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing")
            .field("table", &self.table)
            .field("rule", &self.rule.is_some())
            .field("queue", &self.queue)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_before_the_rule_and_the_rule_before_the_rest() {
        let message = |topic: &str| Message::bytes(topic, "").build().unwrap();
        let mut routing = Routing::default();
        assert_eq!(routing.route(&message("a")), Queue::name("a"));
        routing.queue = Some(Queue::url("https://sqs/1/all.fifo"));
        assert_eq!(routing.route(&message("a")), Queue::url("https://sqs/1/all.fifo"));
        routing.rule = Some(Arc::new(|message| Queue::name(message.topic().to_uppercase())));
        routing.table.insert("b".to_owned(), Queue::name("table"));
        assert_eq!(routing.route(&message("a")), Queue::name("A"));
        assert_eq!(routing.route(&message("b")), Queue::name("table"));
    }

    #[test]
    fn a_fifo_queue_is_known_by_its_name() {
        assert!(Queue::name("orders.fifo").is_fifo());
        assert!(Queue::url("https://sqs.eu-central-1.amazonaws.com/1/orders.fifo").is_fifo());
        assert!(!Queue::name("orders").is_fifo());
    }
}
