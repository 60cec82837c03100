#![doc = include_str!("../README.md")]

mod answer;
mod builder;
mod call;
mod check;
mod client;
mod connector;
mod destination;
mod endpoint;
mod headers;
mod network;
mod options;
mod outgoing;
mod publisher;
mod resolve;
mod signature;
mod tls;
mod verdict;

pub use builder::WebhookPublisherBuilder;
pub use endpoint::{Endpoint, MessageUrls};
pub use network::Network;
pub use options::WebhookOptions;
pub use publisher::WebhookPublisher;
pub use resolve::Resolve;

/// The publisher's name: the key of its options, and a metric label.
pub(crate) const NAME: &str = "webhook";
