#![doc = include_str!("../README.md")]

mod builder;
mod check;
mod format;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod options;
mod outgoing;
mod publisher;
mod request;
mod stream;
mod text;
mod verdict;

pub use builder::KinesisPublisherBuilder;
pub use format::Format;
pub use options::KinesisOptions;
pub use publisher::KinesisPublisher;
pub use stream::Stream;

/// The client library, whose client is part of this crate's interface.
pub use aws_sdk_kinesis;

/// The publisher's name: the key of its options, and a metric label.
pub(crate) const NAME: &str = "kinesis";
