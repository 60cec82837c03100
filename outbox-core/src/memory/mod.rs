//! A store and a publisher in memory: reference implementations of the two contracts, and test doubles that
//! behave like the real ones.
//!
//! [`MemoryStore`] has transactions that can commit late, leases, blocked keys, dead letters and wake-ups.
//! [`MemoryPublisher`] records what it publishes. Both can be made to fail in the ways of the real ones: calls
//! that fail, calls that take effect and whose answer is lost, calls that take long, and a server that is down.
//!
//! Their clock is [`tokio::time::Instant`]. Under paused time (`#[tokio::test(start_paused = true)]`) leases, due
//! times and ages follow `tokio::time::advance` and the runtime's own jumps, so a test of an hour takes a moment.
//!
//! ```
//! use outbox_core::memory::MemoryStore;
//! use outbox_core::{Message, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> outbox_core::Result<()> {
//! let store = MemoryStore::new();
//! let mut transaction = store.begin();
//! transaction.enqueue(&Message::bytes("order.placed", "17").key("customer-4").build()?);
//! assert_eq!(store.stats(100).await?.backlog.value, 0);
//! transaction.commit();
//! assert_eq!(store.stats(100).await?.backlog.value, 1);
//! # Ok(())
//! # }
//! ```

mod clock;
mod dead_letters;
mod faults;
mod inspection;
mod lease;
mod publisher;
mod reader;
mod settle;
mod slice;
mod state;
mod store;
mod transaction;
mod wakeups;

#[cfg(test)]
mod tests;

pub use faults::{Faults, Operation};
pub use publisher::{MemoryOptions, MemoryPublisher, MemoryPublisherBuilder, Published};
pub use reader::MemoryReader;
pub use store::{MemoryStore, MemoryStoreBuilder};
pub use transaction::MemoryTransaction;
