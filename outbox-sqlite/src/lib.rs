#![doc = include_str!("../README.md")]

mod config;
mod dead_letters;
mod error;
mod lease;
mod open;
mod outbox;
mod reader;
mod row;
mod schema;
mod settle;
mod sql;
mod store;
mod transaction;
mod wake;

pub use config::Config;
pub use open::{Durability, OpenOptions};
pub use outbox::Outbox;
/// The driver: a public dependency, since its types are in this crate's interface.
pub use sqlx;
pub use store::SqliteStore;
