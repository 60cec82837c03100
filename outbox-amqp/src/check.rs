//! Looking for what the settings name, before there is a message.

use std::collections::BTreeSet;

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use outbox_core::{Error, ErrorKind, Result};

use crate::error::{Stage, judge};
use crate::link::Link;
use crate::routing::{Route, Routing};

/// Tries each exchange, and each queue that is named as such.
pub(crate) async fn run(link: &Link, routing: &Routing) -> Result<()> {
    let routes = || routing.routes.table.values().chain(&routing.routes.default);
    // The exchange of topics of which nothing is said. With the default one, each has a queue of its own name.
    let mut targets: BTreeSet<(&str, &str)> = BTreeSet::from([(routing.exchange.as_str(), "")]);
    targets.extend(routes().map(|route| (route.exchange.as_str(), route.routing_key.as_str())));
    for (exchange, routing_key) in targets {
        may_publish(link, exchange, routing_key).await.map_err(|error| {
            judge(&error, Stage::Alone).with("exchange", exchange).with("routing_key", routing_key)
        })?;
    }
    for Route { exchange, routing_key, .. } in routes() {
        if exchange.is_empty() {
            is_queue(link, routing_key).await.map_err(|error| missing(&error, routing_key))?;
        }
    }
    Ok(())
}

/// Maximum number of attempts to learn why the broker closed a channel.
const ATTEMPTS: usize = 20;

/// Returns the broker's error if it refuses messages to this exchange.
async fn may_publish(link: &Link, exchange: &str, routing_key: &str) -> lapin::Result<()> {
    let mut attempt = 1;
    loop {
        match publish_nothing(link, exchange, routing_key).await {
            // The broker closed the channel before the rollback was sent. The client then reports the state of the channel and
            // not the broker's reason, which only a call that is waiting for an answer gets.
            Err(error)
                if matches!(error.kind(), lapin::ErrorKind::InvalidChannelState(..))
                    && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Publishes a message in a transaction and rolls it back. The broker checks rights and exchange when it receives a message, so it
/// has checked them when it confirms the rollback.
async fn publish_nothing(link: &Link, exchange: &str, routing_key: &str) -> lapin::Result<()> {
    let channel = link.open_channel().await?;
    channel.tx_select().await?;
    let options = BasicPublishOptions::default();
    channel
        .basic_publish(exchange.into(), routing_key.into(), options, &[], BasicProperties::default())
        .await?;
    channel.tx_rollback().await?;
    channel.close(200, "".into()).await
}

async fn is_queue(link: &Link, queue: &str) -> lapin::Result<()> {
    let channel = link.open_channel().await?;
    let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), look, FieldTable::default()).await?;
    channel.close(200, "".into()).await
}

fn missing(error: &lapin::Error, queue: &str) -> Error {
    let judged = judge(error, Stage::Alone);
    let judged = match judged.kind() {
        ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, "the queue does not exist").with_source(error.clone())
        }
        _ => judged,
    };
    judged.with("queue", queue)
}
