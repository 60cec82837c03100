//! What the publisher declares before its first message, if asked to.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use outbox_core::{Error, Result};

use crate::declarations::Undeclared;
use crate::outgoing::{possible_exchange, short};

/// The value of an argument of an exchange, a queue or a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Argument {
    /// A text, such as `x-queue-type: quorum`.
    Text(String),
    /// A whole number, such as `x-max-length: 1000`.
    Integer(i64),
    /// A truth value, such as `x-single-active-consumer: true`.
    Bool(bool),
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Argument {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Argument {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

/// An exchange to declare. Durable, neither auto-deleted nor internal unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    name: String,
    kind: String,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Vec<(String, Argument)>,
}

impl Exchange {
    /// An exchange of the given type, such as `direct`, `fanout`, `topic`, `headers` or a plugin's.
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Vec::new(),
        }
    }

    /// Whether it survives a restart of the broker. Default: `true`.
    #[must_use]
    pub fn durable(mut self, yes: bool) -> Self {
        self.durable = yes;
        self
    }

    /// Whether it is deleted when its last binding goes. Default: `false`.
    #[must_use]
    pub fn auto_delete(mut self, yes: bool) -> Self {
        self.auto_delete = yes;
        self
    }

    /// Whether only other exchanges may publish to it. Default: `false`.
    #[must_use]
    pub fn internal(mut self, yes: bool) -> Self {
        self.internal = yes;
        self
    }

    /// Adds an argument such as `alternate-exchange`.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> Self {
        self.arguments.push((name.into(), value.into()));
        self
    }
}

/// A queue to declare. Durable, neither exclusive nor auto-deleted: what a message is to survive in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    name: String,
    durable: bool,
    arguments: Vec<(String, Argument)>,
}

impl Queue {
    /// A quorum queue, replicated over the nodes of a cluster. A confirm then means that a majority has it on disk.
    pub fn quorum(name: impl Into<String>) -> Self {
        Self::classic(name).argument("x-queue-type", "quorum")
    }

    /// A classic queue, which lives on one node. A confirm then means that this node has it on disk.
    pub fn classic(name: impl Into<String>) -> Self {
        Self { name: name.into(), durable: true, arguments: Vec::new() }
    }

    /// Whether it survives a restart of the broker. Default: `true`. Quorum queues must be durable.
    #[must_use]
    pub fn durable(mut self, yes: bool) -> Self {
        self.durable = yes;
        self
    }

    /// Adds an argument such as `x-max-priority` or `x-dead-letter-exchange`.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> Self {
        self.arguments.push((name.into(), value.into()));
        self
    }
}

/// A way from an exchange to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    exchange: String,
    queue: String,
    routing_key: String,
    arguments: Vec<(String, Argument)>,
}

impl Binding {
    /// Messages of `exchange` whose routing key matches `routing_key` go to `queue`.
    pub fn new(
        exchange: impl Into<String>,
        queue: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        Self {
            exchange: exchange.into(),
            queue: queue.into(),
            routing_key: routing_key.into(),
            arguments: Vec::new(),
        }
    }

    /// Adds an argument, such as one a headers exchange matches.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> Self {
        self.arguments.push((name.into(), value.into()));
        self
    }
}

/// Exchanges, queues and bindings, declared in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) bindings: Vec<Binding>,
}

impl Topology {
    pub(crate) fn is_empty(&self) -> bool {
        self.exchanges.is_empty() && self.queues.is_empty() && self.bindings.is_empty()
    }

    /// Whether a message that went to this exchange and was not taken may have missed something of this.
    pub(crate) fn concerns(&self, exchange: &str, routing_key: &str) -> bool {
        match exchange {
            "" => self.queues.iter().any(|queue| queue.name == routing_key),
            name => {
                self.exchanges.iter().any(|exchange| exchange.name == name)
                    || self.bindings.iter().any(|binding| binding.exchange == name)
            }
        }
    }

    /// The names of the declared exchanges, which need no further check.
    pub(crate) fn exchange_names(&self) -> impl Iterator<Item = &str> {
        self.exchanges.iter().map(|exchange| exchange.name.as_str())
    }

    /// Checks all that AMQP would not let through, so that the declarations below can rely on it.
    pub(crate) fn validate(&self) -> Result<()> {
        let named = |what: &'static str, name: &str| match name {
            "" => Err(Error::config(format!("a declared {what} has an empty name"))),
            _ => Ok(()),
        };
        for exchange in &self.exchanges {
            named("exchange", &exchange.name)?;
            configured(&[&exchange.name, &exchange.kind], &exchange.arguments)?;
            declarable(&exchange.name)?;
        }
        for queue in &self.queues {
            named("queue", &queue.name)?;
            configured(&[&queue.name], &queue.arguments)?;
        }
        for binding in &self.bindings {
            named("queue of a binding", &binding.queue)?;
            named("exchange of a binding", &binding.exchange)?;
            configured(&[&binding.exchange, &binding.queue, &binding.routing_key], &binding.arguments)?;
            declarable(&binding.exchange)?;
        }
        Ok(())
    }

    /// Declares everything. Declarations are idempotent, so several publishers may do it at once.
    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), Undeclared> {
        let failed = |what: &'static str, name: &str| {
            let name = name.to_owned();
            move |error: lapin::Error| Undeclared { what, name, error }
        };
        for exchange in &self.exchanges {
            let options = ExchangeDeclareOptions {
                durable: exchange.durable,
                auto_delete: exchange.auto_delete,
                internal: exchange.internal,
                ..ExchangeDeclareOptions::default()
            };
            channel
                .exchange_declare(
                    exchange.name.as_str().into(),
                    kind(&exchange.kind),
                    options,
                    table(&exchange.arguments),
                )
                .await
                .map_err(failed("exchange", &exchange.name))?;
        }
        for queue in &self.queues {
            let options = QueueDeclareOptions { durable: queue.durable, ..QueueDeclareOptions::default() };
            channel
                .queue_declare(queue.name.as_str().into(), options, table(&queue.arguments))
                .await
                .map_err(failed("queue", &queue.name))?;
        }
        for binding in &self.bindings {
            channel
                .queue_bind(
                    binding.queue.as_str().into(),
                    binding.exchange.as_str().into(),
                    binding.routing_key.as_str().into(),
                    QueueBindOptions::default(),
                    table(&binding.arguments),
                )
                .await
                .map_err(failed("binding", &binding.queue))?;
        }
        Ok(())
    }
}

/// The client library's name for an exchange type.
pub(crate) fn kind(name: &str) -> ExchangeKind {
    match name {
        "direct" => ExchangeKind::Direct,
        "fanout" => ExchangeKind::Fanout,
        "topic" => ExchangeKind::Topic,
        "headers" => ExchangeKind::Headers,
        other => ExchangeKind::Custom(other.to_owned()),
    }
}

fn declarable(exchange: &str) -> Result<()> {
    possible_exchange(exchange).map_err(|_| {
        Error::config("the name of an exchange contains a line break")
            .with("exchange", format_args!("{exchange:?}"))
    })
}

fn configured(names: &[&String], arguments: &[(String, Argument)]) -> Result<()> {
    for name in names.iter().copied().chain(arguments.iter().map(|(name, _)| name)) {
        short("topology", name).map_err(|_| {
            Error::config("a declared name is longer than the 255 bytes which AMQP allows").with("name", name)
        })?;
    }
    Ok(())
}

fn table(arguments: &[(String, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Integer(number) => AMQPValue::LongLongInt(*number),
            Argument::Bool(yes) => AMQPValue::Boolean(*yes),
        };
        table.insert(name.as_str().into(), value);
    }
    table
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

    use super::*;

    #[test]
    fn what_amqp_cannot_carry_is_refused_before_connecting() {
        let long = "x".repeat(256);
        for topology in [
            Topology { exchanges: vec![Exchange::new("", "topic")], ..Topology::default() },
            Topology { exchanges: vec![Exchange::new("e\n", "topic")], ..Topology::default() },
            Topology { exchanges: vec![Exchange::new("e", long.clone())], ..Topology::default() },
            Topology { queues: vec![Queue::quorum(long.clone())], ..Topology::default() },
            Topology {
                queues: vec![Queue::classic("q").argument(long.clone(), true)],
                ..Topology::default()
            },
            Topology { bindings: vec![Binding::new("", "q", "k")], ..Topology::default() },
            Topology { bindings: vec![Binding::new("e", "q", long.clone())], ..Topology::default() },
        ] {
            assert_eq!(topology.validate().unwrap_err().kind(), ErrorKind::Config, "{topology:?}");
        }
    }
}
