//! The servers of this program, and the place of their data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use integration_tests::Environment;

use crate::brokers::{self, Broker, OnKinesis, OnPubSub, OnRabbitMq, OnSqs};
use crate::databases::{Database, OnMariaDb, OnPostgres, OnSqlite};
use crate::options::{Common, Publisher, Queue, Store};

/// The variable that sets the harness's folder for data.
pub const TMPDIR: &str = "OUTBOX_TEST_TMPDIR";

/// The folder for the servers' data.
pub fn folder(disk: bool) -> &'static Path {
    Path::new(if disk { "/var/tmp" } else { "/dev/shm" })
}

/// Servers as processes of this machine: their processor time is to be read, and their data to be where we say.
pub fn environment(disk: bool) -> Environment {
    Environment::of_process()
        .with("OUTBOX_TEST_MODE", "process")
        .with("OUTBOX_TEST_DURABLE", if disk { "1" } else { "" })
}

/// Starts the database that was asked for.
///
/// # Errors
/// If no server can be started.
pub async fn database(common: &Common) -> Result<Arc<dyn Database>> {
    let environment = environment(common.disk);
    Ok(match common.store {
        Store::Postgres => Arc::new(OnPostgres::start(environment).await?),
        Store::Mariadb => Arc::new(OnMariaDb::start(environment).await?),
        Store::Sqlite => Arc::new(OnSqlite::start(&sqlite_folder(common.disk)).await?),
    })
}

/// Where SQLite's files go: where the servers' data would.
fn sqlite_folder(disk: bool) -> PathBuf {
    std::env::var_os(TMPDIR).map_or_else(|| folder(disk).to_owned(), PathBuf::from)
}

/// Starts the broker that was asked for, if one was.
///
/// # Errors
/// If no server can be started.
pub async fn broker(common: &Common) -> Result<Option<Arc<dyn Broker>>> {
    let environment = environment(common.disk);
    let queue = match common.queue {
        Queue::Classic => brokers::Queue::Classic,
        Queue::Quorum => brokers::Queue::Quorum,
    };
    Ok(match common.publisher {
        Publisher::Noop => None,
        Publisher::Amqp => Some(Arc::new(OnRabbitMq::start(environment, queue).await?)),
        Publisher::Sqs => Some(Arc::new(OnSqs::start(environment).await?)),
        Publisher::Kinesis => Some(Arc::new(OnKinesis::start().await)),
        Publisher::Pubsub => Some(Arc::new(OnPubSub::start(environment).await?)),
    })
}
