//! A relay from PostgreSQL, MySQL or MariaDB to RabbitMQ as a process of its own, for tests that kill it.
//!
//! `relay-process DATABASE_URL AMQP_URI`; stops on SIGTERM. Its lease is short, so that a test need not wait long
//! for others to take over, and its window small, so that the duplicates a fault may cause can be counted.

use std::sync::Arc;
use std::time::Duration;

use outbox_amqp::AmqpPublisher;
use outbox_core::{Relay, Settings, Store};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use tokio::signal::unix::{SignalKind, signal};

/// What the tests count with.
const MAX_IN_FLIGHT: usize = 1_000;
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let (Some(database), Some(amqp)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: relay-process DATABASE_URL AMQP_URI");
    };
    let mut terminate = signal(SignalKind::terminate())?;
    // The database may be down when a relay starts; it waits for it.
    let store: Arc<dyn Store> = if database.starts_with("postgres") {
        let pool =
            PgPoolOptions::new().max_connections(6).acquire_timeout(PATIENCE).connect_lazy(&database)?;
        Arc::new(outbox_postgres::Outbox::new(outbox_postgres::Config::new())?.store(pool))
    } else {
        let pool =
            MySqlPoolOptions::new().max_connections(6).acquire_timeout(PATIENCE).connect_lazy(&database)?;
        Arc::new(outbox_mysql::Outbox::new(outbox_mysql::Config::new())?.store(pool))
    };
    let publisher = AmqpPublisher::builder(&amqp).build()?;
    let mut settings = Settings::default();
    settings.max_in_flight = MAX_IN_FLIGHT;
    settings.fetch_batch = 500;
    settings.publish_batch = 250;
    settings.publish_timeout = Duration::from_secs(3);
    settings.lease_ttl = Duration::from_secs(6);
    settings.heartbeat_interval = Duration::from_millis(500);
    settings.circuit_max_pause = Duration::from_secs(1);
    let relay = Relay::builder(store, publisher).settings(settings).build()?;
    relay
        .run(async move {
            terminate.recv().await;
        })
        .await?;
    Ok(())
}
