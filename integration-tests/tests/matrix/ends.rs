//! The ends of a pair: what the adapters' conformance suites know about each store and each broker.

use outbox_conformance::{PublisherHarness, StoreHarness};

#[path = "../../../outbox-mssql/tests/support/mod.rs"]
mod mssql;
#[path = "../../../outbox-mysql/tests/support/mod.rs"]
mod mysql;
#[path = "../../../outbox-postgres/tests/support/mod.rs"]
mod postgres;
#[path = "../../../outbox-sqlite/tests/common/mod.rs"]
mod sqlite;

#[path = "../../../outbox-amqp/tests/support/mod.rs"]
mod amqp;
#[path = "../../../outbox-kinesis/tests/support/mod.rs"]
mod kinesis;
#[path = "../../../outbox-nats/tests/support/mod.rs"]
mod nats;
#[path = "../../../outbox-pubsub/tests/support/mod.rs"]
mod pubsub;
#[path = "../../../outbox-sqs/tests/support/mod.rs"]
mod sqs;
#[path = "../../../outbox-webhook/tests/support/mod.rs"]
mod webhook;

/// Where messages come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Database {
    Postgres,
    MySql,
    MariaDb,
    SqlServer,
    Sqlite,
}

impl Database {
    /// The name in the table of pairs. Where it has a server, this is what `OUTBOX_TEST_REQUIRE` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
            Self::SqlServer => "sqlserver",
            Self::Sqlite => "sqlite",
        }
    }

    /// `None` where there is no server; the harness of servers has said so, or has failed.
    pub(crate) fn harness(self) -> Option<Box<dyn StoreHarness>> {
        fn boxed(harness: impl StoreHarness + 'static) -> Box<dyn StoreHarness> {
            Box::new(harness)
        }
        match self {
            Self::Postgres => postgres::fixture::Harness::Installed.if_available().map(boxed),
            Self::MySql => mysql::fixture::Harness::new(mysql::Product::MySql).map(boxed),
            Self::MariaDb => mysql::fixture::Harness::new(mysql::Product::MariaDb).map(boxed),
            Self::SqlServer => mssql::fixture::Harness::new().map(boxed),
            Self::Sqlite => Some(boxed(sqlite::fixture::Harness)),
        }
    }
}

/// Where they go to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broker {
    Amqp,
    Sqs,
    Kinesis,
    PubSub,
    Nats,
    Webhook,
}

impl Broker {
    /// The name of the publisher, in the table of pairs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Sqs => "sqs",
            Self::Kinesis => "kinesis",
            Self::PubSub => "pubsub",
            Self::Nats => "nats",
            Self::Webhook => "webhook",
        }
    }

    /// What `OUTBOX_TEST_REQUIRE` calls its server.
    pub(crate) fn service(self) -> &'static str {
        if matches!(self, Self::Amqp) { "rabbitmq" } else { self.name() }
    }

    /// `None` where there is no server; the harness of servers has said so, or has failed. Where a broker can keep the
    /// order of a key or not, it does.
    pub(crate) fn harness(self) -> Option<Box<dyn PublisherHarness>> {
        fn boxed(harness: impl PublisherHarness + 'static) -> Box<dyn PublisherHarness> {
            Box::new(harness)
        }
        match self {
            Self::Amqp => amqp::fixture::Harness::new().map(boxed),
            Self::Sqs => sqs::fixture::Harness::new(true).map(boxed),
            Self::Kinesis => Some(boxed(kinesis::fixture::Harness)),
            Self::PubSub => pubsub::fixture::Harness::new(true).map(boxed),
            Self::Nats => nats::fixture::Harness::new().map(boxed),
            Self::Webhook => Some(boxed(webhook::fixture::Harness)),
        }
    }
}
