#![doc = include_str!("../README.md")]

pub mod error;
pub mod memory;
pub mod message;
pub mod publisher;
pub mod store;
pub mod time;

pub use error::{Error, ErrorKind, Result, Scope, Verdict};
pub use message::{
    Headers, Message, MessageBuilder, MessageId, Options, PublisherOptions, TRACEPARENT, TRACESTATE, Trace,
    TraceContext,
};
pub use publisher::{Outcome, Publisher, PublisherCapabilities, fail_all};
pub use store::{
    Batch, Content, Count, DeadLetter, DeadLetterFilter, DeadLetters, FetchLimit, Fetched, Membership, Partition,
    Position, Reader, RelayId, Settle, Settlement, Stats, Store, StoreExt, Wakeups,
};
pub use time::Timestamp;
