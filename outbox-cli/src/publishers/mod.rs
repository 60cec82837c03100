//! The publishers that this build has, each with its settings.

/// Hands what is set on to a builder, whose methods are called as the settings.
macro_rules! set {
    ($builder:ident: $($name:ident)*) => {
        $(if let Some(value) = $name {
            $builder = $builder.$name(value);
        })*
    };
}

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(any(feature = "kinesis", feature = "sqs"))]
mod aws;
#[cfg(feature = "kinesis")]
mod kinesis;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "pubsub")]
mod pubsub;
#[cfg(feature = "sqs")]
mod sqs;
mod terminal;
#[cfg(feature = "webhook")]
mod webhook;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Finding, Publisher, Result};

use crate::config::{ReadKind, Section};

pub(crate) use terminal::Terminal;

const TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// A broker, as somebody has set it.
#[async_trait]
pub(crate) trait PublisherSettings: Send + Sync {
    /// The broker for people, without secrets.
    fn place(&self) -> String;

    /// Makes the publisher. A broker that is down is noticed later.
    async fn open(&self) -> Result<Box<dyn Broker>>;
}

impl fmt::Debug for dyn PublisherSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

/// A publisher, and what can be asked of it before there is a message.
#[async_trait]
pub(crate) trait Broker: Send + Sync {
    /// The publisher.
    fn publisher(&self) -> Arc<dyn Publisher>;

    /// Connects now, and looks at what the settings name: an error if it does not do, else what else there is to say of it.
    async fn check(&self) -> Result<Vec<Finding>>;
}

/// The publishers of this build, by their names.
const KINDS: &[(&str, ReadKind<Arc<dyn PublisherSettings>>)] = &[
    #[cfg(feature = "amqp")]
    ("amqp", amqp::read),
    #[cfg(feature = "kinesis")]
    ("kinesis", kinesis::read),
    #[cfg(feature = "nats")]
    ("nats", nats::read),
    #[cfg(feature = "pubsub")]
    ("pubsub", pubsub::read),
    #[cfg(feature = "sqs")]
    ("sqs", sqs::read),
    ("terminal", terminal::read),
    #[cfg(feature = "webhook")]
    ("webhook", webhook::read),
];

/// Those that there are.
const ALL: &[&str] = &["amqp", "kinesis", "nats", "pubsub", "sqs", "terminal", "webhook"];

/// Reads `[route.publisher]`.
pub(crate) fn read(section: Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    crate::config::kind(section, KINDS, ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_this_program_is_among_those_that_there_are() {
        let built: Vec<_> = KINDS.iter().map(|(word, _)| *word).collect();
        assert!(built.iter().all(|word| ALL.contains(word)), "{built:?}");
        #[cfg(all(
            feature = "amqp",
            feature = "kinesis",
            feature = "nats",
            feature = "pubsub",
            feature = "sqs",
            feature = "webhook"
        ))]
        assert_eq!(built, ALL);
    }
}
