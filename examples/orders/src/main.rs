//! A small service with a transactional outbox: orders in PostgreSQL, their events to RabbitMQ, and a consumer that
//! drops duplicates.
//!
//! ```text
//! cargo run -p orders -- --postgres postgres://… --amqp amqp://… --orders 20
//! ```
//!
//! Three parts run side by side: the shop takes orders, the relay publishes what the shop has enqueued, and the
//! warehouse consumes. They share a process here for convenience only; nothing goes from one to another except
//! through PostgreSQL and RabbitMQ.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

mod shop;
mod warehouse;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use outbox::amqp::{AmqpPublisher, Binding, Exchange, Queue};
use outbox::postgres::sqlx::postgres::{PgPool, PgPoolOptions};
use outbox::postgres::{Config, Outbox};
use outbox::{Event, Events, Received, Relay};
use tokio_util::sync::CancellationToken;

use crate::shop::Shop;
use crate::warehouse::Warehouse;

/// The exchange to which the shop's events go, with the topic as routing key.
const EXCHANGE: &str = "shop";
/// The warehouse's queue.
const QUEUE: &str = "warehouse";
/// Where deliveries end that the warehouse cannot understand.
const REFUSED: &str = "warehouse-refused";

/// Takes orders in PostgreSQL, sends their events through RabbitMQ, and ships each order once.
#[derive(Parser)]
#[command(name = "orders")]
struct Arguments {
    /// The database. Default: the environment's DATABASE_URL.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// The broker. Default: the environment's AMQP_URL.
    #[arg(long, value_name = "URL")]
    amqp: Option<String>,
    /// Stop when so many orders have been placed and shipped. Default: go on until Ctrl-C.
    #[arg(long, value_name = "COUNT")]
    orders: Option<u32>,
    /// The pause between two orders, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pause: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    // The relay's own log, in addition to the events below; RUST_LOG=outbox_core=debug shows more.
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error")),
        )
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let database = setting(arguments.postgres, "DATABASE_URL").context(
        "which PostgreSQL? give --postgres postgres://user:password@host/database, or set DATABASE_URL",
    )?;
    let broker = setting(arguments.amqp, "AMQP_URL")
        .context("which RabbitMQ? give --amqp amqp://user:password@host/vhost, or set AMQP_URL")?;

    let pool = PgPoolOptions::new()
        .max_connections(10)
        .acquire_timeout(Duration::from_secs(10))
        .connect(&database)
        .await
        .context("cannot connect to PostgreSQL")?;
    let outbox = Outbox::new(Config::new())?;
    outbox.migrate(&pool).await.context("cannot make the outbox's tables")?;
    let shop = Shop::open(pool.clone(), outbox.clone()).await.context("cannot make the shop's tables")?;
    let warehouse =
        Warehouse::open(pool.clone(), broker.clone()).await.context("cannot make the warehouse's tables")?;

    let publisher = publisher(&broker)?;
    // A relay would wait for a broker that is down. At the start, a wrong URL is the likelier reason.
    publisher.connect().await.context("cannot connect to RabbitMQ")?;
    let relay = Relay::builder(outbox.store(pool.clone()), publisher).build()?;
    let reporter = tokio::spawn(report(relay.events()));

    let stop = CancellationToken::new();
    let interrupted = tokio::spawn({
        let stop = stop.clone();
        async move {
            let signal = interrupted().await;
            match &signal {
                Ok(()) => eprintln!("stopping in good order"),
                Err(error) => eprintln!("stopping, because signals cannot be had: {error}"),
            }
            stop.cancel();
            signal
        }
    });

    // Whichever part ends first, in whatever way, the others are stopped in good order.
    let pause = Duration::from_millis(arguments.pause);
    let shop = Box::pin(last_word(&stop, "the shop", shop.run(arguments.orders, pause, &stop)));
    let relay = Box::pin(last_word(&stop, "the relay", async { Ok(relay.run(stop.cancelled()).await?) }));
    let warehouse = Box::pin(last_word(&stop, "the warehouse", warehouse.run(&stop)));
    let (sold, relayed, shipped) = tokio::join!(shop, relay, warehouse);

    interrupted.abort();
    // It ends with the relay's events.
    reporter.await?;
    // What is said at the end is true only if all went well.
    let (sold, (), shipped) = (sold?, relayed?, shipped?);
    println!(
        "{} orders placed; {} shipped, {} duplicates dropped, {} deliveries refused",
        sold, shipped.orders, shipped.duplicates, shipped.refused
    );
    unfinished(&pool).await?;
    pool.close().await;
    Ok(())
}

/// A URL from the arguments or the environment. An empty one is none.
fn setting(argument: Option<String>, variable: &str) -> Option<String> {
    argument.or_else(|| std::env::var(variable).ok()).filter(|value| !value.is_empty())
}

/// The publisher, and the exchange and queues that it declares whenever it connects.
fn publisher(uri: &str) -> outbox::Result<AmqpPublisher> {
    AmqpPublisher::builder(uri)
        .connection_name("orders: relay")
        .exchange(EXCHANGE)
        .declare_exchange(Exchange::new(EXCHANGE, "topic"))
        .declare_queue(
            Queue::quorum(QUEUE)
                // Several consumers at once would overtake each other, and the order of a key would be lost again.
                .argument("x-single-active-consumer", true)
                .argument("x-dead-letter-exchange", "")
                .argument("x-dead-letter-routing-key", REFUSED),
        )
        .declare_queue(Queue::quorum(REFUSED))
        .bind_queue(Binding::new(EXCHANGE, QUEUE, "order.#"))
        .build()
}

/// Runs a part and, when it has ended, tells the others to stop.
async fn last_word<T>(
    stop: &CancellationToken,
    name: &'static str,
    part: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let result = part.await.context(name);
    stop.cancel();
    if let Err(error) = &result {
        // At once, and not only when the others have stopped as well.
        eprintln!("{error:#}");
    }
    result
}

/// Waits for Ctrl-C, or for a service manager that asks the program to end.
#[cfg(unix)]
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// Prints what a person should know of the relay's doings, until it has ended.
async fn report(mut events: Events) {
    while let Some(received) = events.recv().await {
        match received {
            Received::Event(Event::Retrying { delivery, after }) => {
                let error = delivery.error.as_deref().unwrap_or("no reason");
                eprintln!("relay: position {} failed, again in {after:?}: {error}", delivery.position);
            }
            Received::Event(Event::DeadLettered(delivery)) => {
                let error = delivery.error.as_deref().unwrap_or("no reason");
                eprintln!("relay: position {} is a dead letter: {error}", delivery.position);
            }
            Received::Event(Event::CircuitOpened { pause, error }) => {
                eprintln!("relay: the broker is down, next look in {pause:?}: {error}");
            }
            Received::Event(Event::CircuitClosed) => eprintln!("relay: the broker is back"),
            Received::Event(Event::StoreFailed { operation, error }) => {
                eprintln!("relay: {operation} failed and is repeated: {error}");
            }
            Received::Event(Event::StoreRecovered { outage, .. }) => {
                eprintln!("relay: the database answers again after {outage:?}");
            }
            Received::Event(Event::LeasesChanged { owned, relays }) => {
                eprintln!("relay: works on {} partitions, one of {relays} relays", owned.len());
            }
            // One line for every delivery would drown the rest.
            Received::Event(_) => {}
            Received::Missed(events) => eprintln!("relay: {events} events were missed here, and only here"),
        }
    }
}

/// Says what the next start will find, if this one was interrupted.
async fn unfinished(pool: &PgPool) -> anyhow::Result<()> {
    let orders = shop::waiting(pool).await?;
    if orders > 0 {
        println!("{orders} orders are placed and not yet shipped; they will be, after the next start");
    }
    Ok(())
}
