//! The time from the commit to the call to the publisher for the first message after a pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outbox_core::{Publisher, Relay};

use super::{Entrants, say};
use crate::databases::{Database, Table, Write};
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::{Common, Wakeup};
use crate::servers;
use crate::stats::Latencies;
use crate::verify::{Watched, verify};

/// Long enough for a relay to fall asleep.
const PAUSE: std::ops::Range<u64> = 150..250;
/// A time that no delivery takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common, options: &Wakeup) -> Result<()> {
    let database = servers::database(common).await?;
    let mut entrants = Entrants::new(common, &["ours", "floor"])?;
    let mut figures: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for round in 0..common.rounds {
        for name in entrants.next_round() {
            let load = Load::new(options.commits, common.payload, common.keys);
            let latencies = measure(&database, &load, name == "floor").await?;
            say(format_args!("round {round}: {name} p50 {:.2} ms", latencies.quantile(0.5)));
            for (metric, part) in [("p50", 0.5), ("p99", 0.99)] {
                figures.entry((metric, name)).or_default().push(latencies.quantile(part));
            }
        }
    }
    let output = Output::new(common);
    for ((metric, name), rounds) in &figures {
        let mut line =
            Line::new("wakeup", *metric, "ms", *name, common, rounds).with("store", database.name());
        if let Some(floor) = figures.get(&(*metric, "floor")).filter(|_| *name == "ours") {
            line = line.against("floor", floor);
        }
        output.emit(&line)?;
    }
    Ok(())
}

/// One round. `directly`: without an outbox, commit and publish.
async fn measure(database: &Arc<dyn Database>, load: &Load, directly: bool) -> Result<Latencies> {
    database.clear().await?;
    let publisher = Watched::noop(load.messages, None);
    let (sender, mut called) = tokio::sync::mpsc::unbounded_channel();
    publisher.on_confirm(move |_| {
        let _ = sender.send(Instant::now());
    });
    let relay = if directly {
        None
    } else {
        let relay = Relay::builder(database.own_store().await?, publisher.clone()).build()?.spawn();
        relay.status().wait_for(|status| !status.owned.is_empty()).await?;
        Some(relay)
    };
    let mut latencies = Latencies::new()?;
    for number in 0..load.messages {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(PAUSE))).await;
        let message = load.message(number)?;
        let business = Write::Business(message.payload());
        let at = if directly {
            let at = database.commit(&[business]).await?;
            publisher.publish(&[message]).await;
            at
        } else {
            database.commit(&[business, Write::Enqueue(std::slice::from_ref(&message))]).await?
        };
        let called = tokio::time::timeout(PATIENCE, called.recv()).await?;
        ensure!(called.is_some(), "the publisher is gone");
        let latency = called.map(|called| called.saturating_duration_since(at)).unwrap_or_default();
        latencies.record(latency);
    }
    if let Some(relay) = relay {
        relay.shutdown().await?;
        ensure!(database.waiting(Table::Outbox).await? == 0, "no figure: messages are left in the table");
    }
    verify(load, &publisher.arrivals(), true)?;
    Ok(latencies)
}
