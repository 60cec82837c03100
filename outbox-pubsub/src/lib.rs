#![doc = include_str!("../README.md")]

mod attributes;
mod builder;
mod call;
mod check;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod options;
mod outgoing;
mod plan;
mod publisher;
mod routing;
mod verdict;
mod wire;

pub use builder::PubSubPublisherBuilder;
pub use options::PubSubOptions;
pub use publisher::PubSubPublisher;
pub use routing::Topic;

/// Google's credentials, which are part of this crate's interface.
pub use google_cloud_auth;
/// The gRPC library, whose transport is part of this crate's interface.
pub use tonic;

/// The publisher's name: the key of its options, and a metric label.
pub(crate) const NAME: &str = "pubsub";
