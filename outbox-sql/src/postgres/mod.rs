//! PostgreSQL without a driver: names, tables, the statements of services and consumers, and what errors mean.
//!
//! `outbox-postgres` and the crates for other drivers have all of this from here.

mod config;
pub mod ddl;
pub mod enqueueing;
mod inbox;
mod size;
mod sqlstate;
#[cfg(test)]
mod tests;

pub use config::{Config, Names, quote};
pub use inbox::InboxStatements;
pub use size::check_size;
pub use sqlstate::server_error;
