#![doc = include_str!("../README.md")]

mod error;
mod inbox;
mod outbox;
mod rows;
mod values;

pub use error::map_error;
pub use inbox::Inbox;
pub use outbox::Outbox;
pub use outbox_sql::postgres::Config;

/// The version of tokio-postgres that this crate's functions take clients and transactions of.
pub use tokio_postgres;
