//! A relay from PostgreSQL to RabbitMQ as a process of its own, for tests that kill it.
//!
//! `relay-process POSTGRES_URL AMQP_URI`; stops on SIGTERM. Its lease is short, so that a test need not wait long
//! for others to take over, and its window small, so that the duplicates a fault may cause can be counted.

use std::time::Duration;

use outbox_amqp::AmqpPublisher;
use outbox_core::{Relay, Settings};
use outbox_postgres::sqlx::postgres::PgPoolOptions;
use outbox_postgres::{Config, Outbox};
use tokio::signal::unix::{SignalKind, signal};

/// What the tests count with.
const MAX_IN_FLIGHT: usize = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let (Some(postgres), Some(amqp)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: relay-process POSTGRES_URL AMQP_URI");
    };
    let mut terminate = signal(SignalKind::terminate())?;
    // The database may be down when a relay starts; it waits for it.
    let pool = PgPoolOptions::new()
        .max_connections(6)
        .acquire_timeout(Duration::from_secs(3))
        .connect_lazy(&postgres)?;
    let store = Outbox::new(Config::new())?.store(pool);
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
