#![doc = include_str!("../README.md")]
// A harness for tests: to fail loudly, and at once, is its job.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(any(feature = "mysql", feature = "postgres", feature = "rabbitmq")),
    allow(dead_code, reason = "without a service that is started as a process only the tools are of use")
)]

mod availability;
mod downloads;
mod environment;
mod eventually;
mod failure;
mod instance;
mod launch;
mod names;
mod ports;
mod process;
mod proxy;
mod report;
mod runtime;
mod scratch;
mod server;
mod service;
#[cfg(any(feature = "kinesis", feature = "webhook"))]
mod serving;
mod signal;
mod subprocess;
mod tool;

#[cfg(feature = "containers")]
mod container;
#[cfg(feature = "containers")]
pub mod docker;
#[cfg(any(feature = "rabbitmq", feature = "sqs"))]
mod http;
#[cfg(feature = "kinesis")]
pub mod kinesis;
#[cfg(feature = "mssql")]
pub mod mssql;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "pubsub")]
pub mod pubsub;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "sqs")]
pub mod sqs;
#[cfg(feature = "webhook")]
pub mod webhook;

pub use availability::Unavailable;
pub use environment::Environment;
pub use eventually::{eventually, with_growing_limit};
pub use instance::Instance;
#[cfg(feature = "kinesis")]
pub use kinesis::Kinesis;
#[cfg(feature = "mssql")]
pub use mssql::SqlServer;
#[cfg(feature = "mysql")]
pub use mysql::{MariaDb, MySql};
#[cfg(feature = "nats")]
pub use nats::Nats;
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresNext};
pub use proxy::{Mode, Proxy};
#[cfg(feature = "pubsub")]
pub use pubsub::PubSub;
#[cfg(feature = "rabbitmq")]
pub use rabbitmq::RabbitMq;
pub use server::Server;
pub use service::Service;
#[cfg(feature = "sqs")]
pub use sqs::Sqs;
pub use subprocess::Subprocess;
pub use tool::Tool;
#[cfg(feature = "webhook")]
pub use webhook::Receiver;
