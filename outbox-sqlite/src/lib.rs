#![doc = include_str!("../README.md")]

mod config;
mod dead_letters;
mod error;
mod inbox;
mod inspection;
mod lease;
mod open;
mod outbox;
mod packed;
mod reader;
mod row;
mod schema;
mod settle;
mod sql;
mod store;
mod transaction;
mod wake;

pub use config::Config;
pub use error::map_error;
pub use inbox::Inbox;
pub use open::{Durability, OpenOptions};
pub use outbox::Outbox;
pub use store::SqliteStore;

/// The version of sqlx that this crate's functions take executors and pools of.
pub use sqlx;
