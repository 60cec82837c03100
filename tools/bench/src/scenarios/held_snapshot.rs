//! The rate at which a backlog is drained while another session holds an old snapshot, so that dead rows
//! cannot be removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Entrants, say};
use crate::contenders::{self, Contender};
use crate::databases::Database;
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::Common;
use crate::servers;
use crate::verify::{Watched, verify, verify_part};

const MESSAGES: u64 = 200_000;
/// A contender that has not finished by then is stopped, and is measured by its progress.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common) -> Result<()> {
    let database = servers::database(common).await?;
    let load = Load::new(common.messages.unwrap_or(MESSAGES), common.payload, common.keys);
    let mut entrants = Entrants::new(common, &["ours", "floor", "claim"])?;
    let mut rates: BTreeMap<(&str, bool), Vec<f64>> = BTreeMap::new();
    for round in 0..common.rounds {
        for name in entrants.next_round() {
            let contender = contenders::all().into_iter().find(|contender| contender.name() == name);
            let contender = contender.context("a contender is missing")?;
            for held in [false, true] {
                let rate = measure(contender.as_ref(), &database, &load, held).await?;
                say(format_args!("round {round}: {name} {rate:.0}/s, snapshot held: {held}"));
                rates.entry((name, held)).or_default().push(rate);
            }
        }
    }
    let output = Output::new(common);
    for ((name, held), rounds) in &rates {
        let mut line = Line::new("held-snapshot", "rate", "messages/s", *name, common, rounds)
            .with("store", database.name())
            .with("messages", load.messages)
            .with("held", *held);
        if let Some(without) = rates.get(&(*name, false)).filter(|_| *held) {
            line = line.against(format!("{name} without"), without);
        }
        output.emit(&line)?;
    }
    Ok(())
}

async fn measure(
    contender: &dyn Contender,
    database: &Arc<dyn Database>,
    load: &Load,
    held: bool,
) -> Result<f64> {
    database.clear().await?;
    database.fill(contender.table(), load).await?;
    let snapshot = if held { Some(database.hold_snapshot().await?) } else { None };
    let publisher = Watched::noop(load.messages, None);
    let drained = tokio::time::timeout(LIMIT, contender.drain(database.clone(), publisher.clone())).await;
    drop(snapshot);
    let Ok(took) = drained else {
        let arrivals = publisher.arrivals();
        verify_part(load, &arrivals)?;
        return Ok(arrivals.len() as f64 / LIMIT.as_secs_f64());
    };
    let took = took?;
    ensure!(database.waiting(contender.table()).await? == 0, "no figure: messages are left in the table");
    verify(load, &publisher.arrivals(), true)?;
    Ok(load.messages as f64 / took.as_secs_f64())
}
