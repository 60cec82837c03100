#![doc = include_str!("../README.md")]

mod error;
mod inbox;
mod outbox;
mod statements;

/// The version of diesel that this crate's functions take connections of.
pub use diesel;
/// The version of diesel-async that this crate's functions take connections of.
#[cfg(feature = "async")]
pub use diesel_async;
pub use error::{TransactionError, map_error};
pub use inbox::Inbox;
pub use outbox::Outbox;
pub use outbox_sql::postgres::Config;
