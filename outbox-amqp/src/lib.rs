#![doc = include_str!("../README.md")]

mod builder;
mod call;
mod check;
mod connections;
mod declarations;
mod dial;
mod error;
mod exchanges;
mod failures;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod nodes;
mod options;
mod outgoing;
mod publisher;
mod quarantine;
mod routing;
mod socket;
mod topology;
mod verdict;
mod window;

pub use builder::AmqpPublisherBuilder;
pub use dial::Connector;
pub use options::AmqpOptions;
pub use publisher::AmqpPublisher;
pub use routing::Route;
pub use topology::{Argument, Binding, Exchange, Queue};

/// The client library, whose types are part of this crate's interface: connections of a [`Connector`], and TLS.
pub use lapin;

/// The publisher's name: the key of its options, and a metric label.
pub(crate) const NAME: &str = "amqp";
