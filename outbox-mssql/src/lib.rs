#![doc = include_str!("../README.md")]

mod call;
mod config;
mod dead_letters;
mod error;
mod group;
mod inbox;
mod inspection;
mod keys;
mod migrate;
mod outbox;
mod outboxer;
mod pool;
mod reader;
mod row;
mod rows;
mod settle;
mod sql;
mod store;
mod transaction;

pub use config::Config;
pub use error::map_error;
pub use inbox::Inbox;
pub use outbox::Outbox;
pub use outbox_sql::outboxer::Event as OutboxerEvent;
pub use pool::{Client, Connection, Manager, Pool};
pub use store::MssqlStore;

/// The version of deadpool that pools are made with, for settings of your own.
pub use deadpool;
/// The version of tiberius that this crate's functions take clients of.
pub use tiberius;
