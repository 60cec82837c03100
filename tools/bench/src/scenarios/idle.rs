//! The load of an idle relay on the database.

use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_core::Relay;

use super::say;
use crate::line::{Line, Output};
use crate::options::{Common, Idle};
use crate::servers;
use crate::statements;
use crate::verify::Watched;

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable.
pub async fn run(common: &Common, options: &Idle) -> Result<()> {
    let database = servers::database(common).await?;
    let time = Duration::from_secs_f64(options.seconds);
    let (mut asked, mut servers_time, mut own_time) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..common.rounds {
        let relay = Relay::builder(database.own_store().await?, Watched::noop(1, None)).build()?.spawn();
        relay.status().wait_for(|status| !status.owned.is_empty()).await?;
        // The relay is sleeping by then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = (statements::count(), database.cpu_time()?, own_cpu_time()?, Instant::now());
        tokio::time::sleep(time).await;
        let seconds = before.3.elapsed().as_secs_f64();
        asked.push((statements::count() - before.0) as f64 / seconds * 60.0);
        let per_cent =
            |before: Duration, after: Duration| 100.0 * after.saturating_sub(before).as_secs_f64() / seconds;
        if let Some((before, after)) = before.1.zip(database.cpu_time()?) {
            servers_time.push(per_cent(before, after));
        }
        own_time.push(per_cent(before.2, own_cpu_time()?));
        relay.shutdown().await?;
        say(format_args!(
            "round {round}: {:.0} statements a minute",
            asked.last().copied().unwrap_or_default()
        ));
    }
    let output = Output::new(common);
    let figures = [
        ("statements", "per minute", asked),
        ("server's time", "% of a core", servers_time),
        ("relay's time", "% of a core", own_time),
    ];
    for (metric, unit, rounds) in figures {
        if !rounds.is_empty() {
            let line =
                Line::new("idle", metric, unit, "ours", common, &rounds).with("store", database.name());
            output.emit(&line)?;
        }
    }
    Ok(())
}

/// The processor time of this process so far.
fn own_cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
