#![doc = include_str!("../README.md")]

pub use outbox_core::*;
#[cfg(feature = "derive")]
pub use outbox_derive::OutboxMessage;

#[cfg(feature = "amqp")]
#[doc(inline)]
pub use outbox_amqp as amqp;
#[cfg(feature = "diesel")]
#[doc(inline)]
pub use outbox_diesel as diesel;
#[cfg(feature = "kinesis")]
#[doc(inline)]
pub use outbox_kinesis as kinesis;
#[cfg(feature = "mssql")]
#[doc(inline)]
pub use outbox_mssql as mssql;
#[cfg(feature = "mysql")]
#[doc(inline)]
pub use outbox_mysql as mysql;
#[cfg(feature = "nats")]
#[doc(inline)]
pub use outbox_nats as nats;
#[cfg(feature = "postgres")]
#[doc(inline)]
pub use outbox_postgres as postgres;
#[cfg(feature = "pubsub")]
#[doc(inline)]
pub use outbox_pubsub as pubsub;
#[cfg(feature = "sqlite")]
#[doc(inline)]
pub use outbox_sqlite as sqlite;
#[cfg(feature = "sqs")]
#[doc(inline)]
pub use outbox_sqs as sqs;
#[cfg(feature = "tokio-postgres")]
#[doc(inline)]
pub use outbox_tokio_postgres as tokio_postgres;
#[cfg(feature = "webhook")]
#[doc(inline)]
pub use outbox_webhook as webhook;
