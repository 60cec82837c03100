//! A relay as a separate process, which a run kills.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outbox_amqp::AmqpPublisher;
use outbox_core::{Publisher, Relay, Settings, Store};
use outbox_sqs::SqsPublisher;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use tokio::signal::unix::{SignalKind, signal};

/// Maximum number of messages in flight, which a failure may cause to be repeated.
pub const WINDOW: usize = 1_000;
/// Short, so that a run need not wait long until other relays take over.
pub const LEASE: Duration = Duration::from_secs(6);
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(3);

/// Relays from a database to a broker, until it gets `SIGTERM`.
///
/// # Errors
/// If a URL has an unknown scheme, or the relay exits without being asked.
pub async fn relay(database: &str, broker: &str) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let store = store(database).await?;
    let publisher = publisher(broker)?;
    let mut settings = Settings::default();
    settings.max_in_flight = WINDOW;
    settings.fetch_batch = 500;
    settings.publish_batch = 250;
    settings.publish_timeout = Duration::from_secs(3);
    settings.store_timeout = Duration::from_secs(4);
    settings.lease_ttl = LEASE;
    settings.heartbeat_interval = Duration::from_millis(500);
    settings.circuit_max_pause = Duration::from_secs(1);
    // No message is given up because of a destination that is briefly missing.
    settings.retry.max_attempts = 10_000;
    settings.retry.max = Duration::from_secs(2);
    let relay = Relay::builder(store, publisher).settings(settings).build()?;
    let stop = async move {
        terminate.recv().await;
    };
    relay.run(stop).await?;
    Ok(())
}

/// The database may be down when a relay starts; it waits for it.
async fn store(url: &str) -> Result<Arc<dyn Store>> {
    let (scheme, rest) = url.split_once(':').context("the database has a URL")?;
    Ok(match scheme {
        "postgres" | "postgresql" => {
            let pool = PgPoolOptions::new().max_connections(6).acquire_timeout(PATIENCE).connect_lazy(url)?;
            Arc::new(outbox_postgres::Outbox::new(outbox_postgres::Config::new())?.store(pool))
        }
        "mysql" | "mariadb" => {
            let pool =
                MySqlPoolOptions::new().max_connections(6).acquire_timeout(PATIENCE).connect_lazy(url)?;
            Arc::new(outbox_mysql::Outbox::new(outbox_mysql::Config::new())?.store(pool))
        }
        "sqlite" => {
            let durability = outbox_sqlite::Durability::Normal;
            let pool = outbox_sqlite::OpenOptions::new(rest).durability(durability).open().await?;
            Arc::new(outbox_sqlite::Outbox::new(outbox_sqlite::Config::new())?.store(pool))
        }
        _ => bail!("no store for {scheme}"),
    })
}

fn publisher(url: &str) -> Result<Arc<dyn Publisher>> {
    if let Some(address) = url.strip_prefix("sqs://") {
        let address: SocketAddr = address.parse().context("sqs:// and an address")?;
        let client = integration_tests::sqs::client(address);
        return Ok(Arc::new(
            SqsPublisher::builder(client).call_timeout(Duration::from_millis(2_500)).build()?,
        ));
    }
    Ok(Arc::new(AmqpPublisher::builder(url).build()?))
}
