//! Every store with every publisher, on real servers: `cargo test -p integration-tests --test matrix`.
//!
//! A test is a pair and a scenario, such as `postgres_to_sqs::order_per_key`. The two ends are those of the adapters' own
//! conformance suites, so that what a store or a broker can do is said once. Each test has a new database and a new
//! destination on servers that the whole binary shares.
//!
//! With `OUTBOX_TEST_PAIR_REPORT` each test adds a line to that file; `scripts/test` makes a table of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions next to the tests are test code"
)]

mod ends;
mod failing;
mod gate;
mod intact;
mod ordering;
mod pair;
mod record;

use ends::{Broker, Database};

/// Makes a module for each pair, with a test for each scenario.
macro_rules! pairs {
    ($($name:ident: $database:ident, $broker:ident;)*) => {
        $(mod $name {
            use super::*;

            scenarios! { $database, $broker;
                ordering::commit_and_rollback,
                ordering::order_per_key,
                ordering::restart_of_the_relay,
                failing::dead_letters,
                failing::failures_that_pass,
                intact::large_and_binary_payloads,
                intact::unicode_keys,
                intact::headers_and_options,
            }
        })*
    };
}

macro_rules! scenarios {
    ($database:ident, $broker:ident; $($file:ident::$scenario:ident,)*) => {
        $(#[test]
        fn $scenario() {
            pair::run(Database::$database, Broker::$broker, stringify!($scenario), |pair| {
                Box::pin($file::$scenario(pair))
            });
        })*
    };
}

pairs! {
    postgres_to_amqp: Postgres, Amqp;
    postgres_to_sqs: Postgres, Sqs;
    postgres_to_kinesis: Postgres, Kinesis;
    postgres_to_pubsub: Postgres, PubSub;
    postgres_to_nats: Postgres, Nats;
    postgres_to_webhook: Postgres, Webhook;
    mysql_to_amqp: MySql, Amqp;
    mysql_to_sqs: MySql, Sqs;
    mysql_to_kinesis: MySql, Kinesis;
    mysql_to_pubsub: MySql, PubSub;
    mysql_to_nats: MySql, Nats;
    mysql_to_webhook: MySql, Webhook;
    mariadb_to_amqp: MariaDb, Amqp;
    mariadb_to_sqs: MariaDb, Sqs;
    mariadb_to_kinesis: MariaDb, Kinesis;
    mariadb_to_pubsub: MariaDb, PubSub;
    mariadb_to_nats: MariaDb, Nats;
    mariadb_to_webhook: MariaDb, Webhook;
    sqlserver_to_amqp: SqlServer, Amqp;
    sqlserver_to_sqs: SqlServer, Sqs;
    sqlserver_to_kinesis: SqlServer, Kinesis;
    sqlserver_to_pubsub: SqlServer, PubSub;
    sqlserver_to_nats: SqlServer, Nats;
    sqlserver_to_webhook: SqlServer, Webhook;
    sqlite_to_amqp: Sqlite, Amqp;
    sqlite_to_sqs: Sqlite, Sqs;
    sqlite_to_kinesis: Sqlite, Kinesis;
    sqlite_to_pubsub: Sqlite, PubSub;
    sqlite_to_nats: Sqlite, Nats;
    sqlite_to_webhook: Sqlite, Webhook;
}
