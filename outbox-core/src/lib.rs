#![doc = include_str!("../README.md")]

pub mod dead_letter;
pub mod error;
pub mod event;
pub mod identity;
pub mod inspection;
pub mod memory;
pub mod message;
pub mod metrics;
mod outbox_message;
pub mod publisher;
pub mod publishing;
pub mod relay;
pub mod store;
pub mod time;

pub use dead_letter::{DeadLetter, DeadLetterFilter, DeadLetters};
pub use error::{Error, ErrorKind, Result, Scope, Verdict};
pub use event::{Delivery, Event, Events, Received};
pub use identity::{Identity, RowId};
pub use inspection::{Finding, Group, Health, Inspection, Waiting};
pub use message::{
    Headers, Message, MessageBuilder, MessageId, Options, PublisherOptions, TRACEPARENT, TRACESTATE, Trace,
    TraceContext,
};
pub use outbox_message::OutboxMessage;
pub use publisher::{Outcome, Publisher, PublisherCapabilities, fail_all};
pub use relay::{KeyOrder, Relay, RelayBuilder, RelayHandle, RetryPolicy, Settings};
pub use store::{
    Batch, Content, Count, FetchLimit, Fetched, Membership, Partition, Position, Reader, RelayId, Settle,
    Settlement, Stats, Store, StoreExt, Wakeups,
};
pub use time::Timestamp;

/// For the code that `#[derive(OutboxMessage)]` generates.
#[doc(hidden)]
pub mod __derive {
    pub use serde::Serialize;
}
