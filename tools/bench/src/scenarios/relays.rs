//! The rate of several relays, and their load on an idle database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outbox_core::{Relay, RelayHandle};

use super::say;
use crate::databases::{Database, Table};
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::{Common, Relays};
use crate::servers;
use crate::verify::{Watched, verify};

/// The duration of a call of the slow publisher, and its maximum number of messages: a service on the
/// internet whose requests hold ten messages, like Amazon SQS.
const DELAY: Duration = Duration::from_millis(10);
const MOST: usize = 10;
/// With the slow publisher a relay publishes at most 4 000 messages per second.
const SLOW_MESSAGES: u64 = 12_000;
const MESSAGES: u64 = 100_000;
/// How long it may take until every relay has its share.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common, options: &Relays) -> Result<()> {
    let database = servers::database(common).await?;
    let output = Output::new(common);
    for slow in [true, false] {
        let mut rates: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for round in 0..common.rounds {
            for count in &options.counts {
                let messages = if slow { SLOW_MESSAGES } else { common.messages.unwrap_or(MESSAGES) };
                let load = Load::new(messages, common.payload, common.keys);
                let rate = drain(&database, &load, *count, slow).await?;
                say(format_args!("round {round}: {count} relays, slow {slow}: {rate:.0}/s"));
                rates.entry(*count).or_default().push(rate);
            }
        }
        for (count, rounds) in &rates {
            let mut line = Line::new("relays", "rate", "messages/s", "ours", common, rounds)
                .with("store", database.name())
                .with("publisher", if slow { "10 ms a call of 10" } else { "noop" })
                .with("relays", *count);
            if let Some(one) = rates.get(&1).filter(|_| *count > 1) {
                line = line.against("one relay", one);
            }
            output.emit(&line)?;
        }
    }
    database.clear().await?;
    for count in &options.counts {
        let mut costs = Vec::new();
        for _ in 0..common.rounds.min(3) {
            costs.extend(idle(&database, *count, Duration::from_secs_f64(options.seconds)).await?);
        }
        if !costs.is_empty() {
            let line = Line::new("relays", "idle cost", "% of a core", "ours", common, &costs)
                .with("store", database.name())
                .with("relays", *count);
            output.emit(&line)?;
        }
    }
    Ok(())
}

/// Returns relays that share the partitions evenly.
async fn start(
    database: &Arc<dyn Database>,
    publisher: &Arc<Watched>,
    count: usize,
) -> Result<Vec<RelayHandle>> {
    let mut relays = Vec::new();
    for _ in 0..count {
        let store = database.own_store().await?;
        relays.push(Relay::builder(store, publisher.clone()).build()?.spawn());
    }
    let shared = async {
        for relay in &relays {
            let mut status = relay.status();
            let even = |owned: usize| owned > 0 && owned <= 16_usize.div_ceil(count);
            status.wait_for(|status| status.relays == count && even(status.owned.len())).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, shared).await??;
    Ok(relays)
}

/// The relays run and have their shares before the backlog exists.
async fn drain(database: &Arc<dyn Database>, load: &Load, count: usize, slow: bool) -> Result<f64> {
    database.clear().await?;
    let publisher = match slow {
        true => Watched::slow(load.messages, DELAY, MOST),
        false => Watched::noop(load.messages, None),
    };
    let relays = start(database, &publisher, count).await?;
    // In one transaction, so that the whole backlog appears when the clock is started.
    database.insert(Table::Outbox, load, load.messages).await?;
    let (before, started) = (publisher.confirmed(), Instant::now());
    publisher.all_confirmed().await;
    let (messages, took) = (load.messages - before, started.elapsed());
    for relay in relays {
        relay.shutdown().await?;
    }
    ensure!(database.waiting(Table::Outbox).await? == 0, "no figure: messages are left in the table");
    verify(load, &publisher.arrivals(), true)?;
    ensure!(messages * 2 > load.messages, "no figure: most was drained before the clock was started");
    Ok(messages as f64 / took.as_secs_f64())
}

/// The load of sleeping relays on the server, in per cent of a core. `None` if there is no server.
async fn idle(database: &Arc<dyn Database>, count: usize, time: Duration) -> Result<Option<f64>> {
    let relays = start(database, &Watched::noop(1, None), count).await?;
    // They have recorded that they sleep by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, started) = (database.cpu_time()?, Instant::now());
    tokio::time::sleep(time).await;
    let (after, took) = (database.cpu_time()?, started.elapsed());
    for relay in relays {
        relay.shutdown().await?;
    }
    Ok(before
        .zip(after)
        .map(|(before, after)| 100.0 * after.saturating_sub(before).as_secs_f64() / took.as_secs_f64()))
}
