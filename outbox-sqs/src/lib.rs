#![doc = include_str!("../README.md")]

mod attributes;
mod builder;
mod check;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod options;
mod outgoing;
mod publisher;
mod queue;
mod queues;
mod request;
mod text;
mod verdict;

pub use builder::SqsPublisherBuilder;
pub use options::SqsOptions;
pub use publisher::SqsPublisher;
pub use queue::Queue;

/// The client library, whose client is part of this crate's interface.
pub use aws_sdk_sqs;

/// The publisher's name: the key of its options, and a metric label.
pub(crate) const NAME: &str = "sqs";
