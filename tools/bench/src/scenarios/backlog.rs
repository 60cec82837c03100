//! The rate at which a small backlog and the beginning of a large one are drained.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use outbox_core::Relay;

use super::say;
use crate::databases::{Database, Table};
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::{Backlog, Common};
use crate::servers;
use crate::verify::{Watched, verify_part};

/// This many messages of the large backlog are measured; this many small backlogs are drained in a round for
/// one figure.
const PART: u64 = 200_000;
const SMALL_ONES: u64 = 5;

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common, options: &Backlog) -> Result<()> {
    let database = servers::database(common).await?;
    let load = |messages| Load::new(messages, common.payload, common.keys);
    let mut rates: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    // The large backlog is filled once for all rounds, because that takes minutes; each round takes a part of
    // it away. The small ones use another server, so that the database stays small.
    let small_database = servers::database(common).await?;
    database.clear().await?;
    say(format_args!("filling {} messages", options.large));
    database.fill(Table::Outbox, &load(options.large)).await?;
    let part = PART.min(options.large / (2 * common.rounds as u64).max(1)).max(1);
    let mut taken = 0;
    for round in 0..common.rounds {
        let large = measure(&database, &load(options.large), taken, part).await?;
        taken += large.confirmed;
        let mut small = Vec::new();
        for _ in 0..SMALL_ONES {
            small_database.clear().await?;
            small_database.fill(Table::Outbox, &load(options.small)).await?;
            small.push(measure(&small_database, &load(options.small), 0, options.small).await?);
        }
        let seconds: f64 = small.iter().map(|measured| measured.seconds).sum();
        let messages: u64 = small.iter().map(|measured| measured.messages).sum();
        rates.entry(options.large).or_default().push(large.messages as f64 / large.seconds);
        rates.entry(options.small).or_default().push(messages as f64 / seconds);
        say(format_args!("round {round}: {rates:.0?}"));
    }
    let output = Output::new(common);
    for (backlog, rounds) in &rates {
        let mut line = Line::new("backlog", "rate", "messages/s", "ours", common, rounds)
            .with("store", database.name())
            .with("backlog", *backlog);
        if let Some(small) = rates.get(&options.small).filter(|_| *backlog == options.large) {
            line = line.against(format!("{} waiting", options.small), small);
        }
        output.emit(&line)?;
    }
    Ok(())
}

struct Measured {
    /// From the first call to the publisher to the last one that counts, and the messages after the first
    /// call.
    seconds: f64,
    messages: u64,
    /// All messages, including those in flight when the relay was stopped.
    confirmed: u64,
}

/// Drains a part, measured from the first call to the publisher, so that the start of a relay does not count.
async fn measure(database: &Arc<dyn Database>, load: &Load, taken: u64, part: u64) -> Result<Measured> {
    let publisher = Watched::noop(part, None);
    let relay = Relay::builder(database.store(), publisher.clone()).build()?.spawn();
    publisher.some_confirmed(1).await;
    let (before, started) = (publisher.confirmed(), Instant::now());
    publisher.all_confirmed().await;
    let (after, seconds) = (publisher.confirmed(), started.elapsed().as_secs_f64());
    relay.shutdown().await?;
    let arrivals = publisher.arrivals();
    let confirmed = arrivals.len() as u64;
    let left = database.waiting(Table::Outbox).await?;
    ensure!(
        left + confirmed + taken == load.messages,
        "no figure: {confirmed} arrived, {left} are left, and together with {taken} from before that is not {}",
        load.messages
    );
    verify_part(load, &arrivals)?;
    Ok(Measured { seconds, messages: after - before, confirmed })
}
