#![doc = include_str!("../README.md")]

mod answer;
mod builder;
mod call;
mod check;
mod connection;
mod connections;
mod dial;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod missing;
mod options;
mod outgoing;
mod publisher;
mod subject;
mod tls;
mod verdict;

pub use builder::NatsPublisherBuilder;
pub use options::NatsOptions;
pub use publisher::NatsPublisher;
pub use tls::Tls;

/// The client library, whose connection options are part of this crate's interface.
pub use async_nats;

/// The publisher's name: the key of its options, and a metric label.
pub(crate) const NAME: &str = "nats";
