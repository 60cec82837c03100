#![doc = include_str!("../README.md")]

mod dead_letters;
mod diagnosis;
mod encoding;
mod error;
mod group;
mod inbox;
mod inspection;
mod migrate;
mod outbox;
mod outboxer;
#[cfg(test)]
mod plan_costs;
#[cfg(test)]
mod plans;
mod reader;
mod repair;
mod row;
mod runs;
mod sessions;
mod settle;
mod sql;
mod store;
mod targets;
mod transaction;
mod wakeups;

pub use error::map_error;
pub use inbox::Inbox;
pub use outbox::Outbox;
/// An event of outboxer's, for [`Outbox::import_outboxer`].
pub use outbox_sql::outboxer::Event as OutboxerEvent;
pub use outbox_sql::postgres::Config;
pub use store::PostgresStore;

/// The version of sqlx that this crate's functions take executors and pools of.
pub use sqlx;
