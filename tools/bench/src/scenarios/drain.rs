//! The rate at which a backlog is published.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::say;
use crate::brokers::Broker;
use crate::contenders::{self, Contender};
use crate::databases::Database;
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::Common;
use crate::servers;
use crate::verify::{Watched, verify};

/// The driver alone, from memory: the reference if there is a broker.
const MEMORY: &str = "memory";
const MESSAGES: u64 = 100_000;

/// A participant.
#[derive(Clone)]
enum Entrant {
    Database(Arc<dyn Contender>),
    Memory,
}

impl Entrant {
    fn name(&self) -> &'static str {
        match self {
            Self::Database(contender) => contender.name(),
            Self::Memory => MEMORY,
        }
    }
}

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common) -> Result<()> {
    let database = servers::database(common).await?;
    let broker = servers::broker(common).await?;
    compare(common, &contenders::all(), database, broker).await
}

/// Alternates these contenders, and prints the results.
///
/// # Errors
/// If a run was not correct.
pub async fn compare(
    common: &Common,
    contenders: &[Arc<dyn Contender>],
    database: Arc<dyn Database>,
    broker: Option<Arc<dyn Broker>>,
) -> Result<()> {
    let load = Load::new(common.messages.unwrap_or(MESSAGES), common.payload, common.keys);
    let mut entrants: Vec<Entrant> = contenders.iter().cloned().map(Entrant::Database).collect();
    if broker.is_some() {
        entrants.push(Entrant::Memory);
    }
    entrants
        .retain(|entrant| common.only.is_empty() || common.only.iter().any(|name| name == entrant.name()));
    ensure!(!entrants.is_empty(), "there is no contender with such a name");

    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..common.rounds {
        // Alternating, and not always the same one first.
        entrants.rotate_left(usize::from(round > 0));
        for entrant in &entrants {
            let rate = match entrant {
                Entrant::Database(contender) => {
                    drain(contender.as_ref(), &database, broker.as_deref(), &load).await
                }
                Entrant::Memory => memory(broker.as_deref().context("no broker")?, &load).await,
            };
            let rate = rate.with_context(|| format!("{} in round {round}", entrant.name()))?;
            say(format_args!("round {round}: {} {rate:.0}/s", entrant.name()));
            rates.entry(entrant.name()).or_default().push(rate);
        }
    }

    let output = Output::new(common);
    let publisher = broker.as_ref().map_or("noop", |broker| broker.name());
    for (name, rounds) in &rates {
        let mut line = Line::new("drain", "rate", "messages/s", *name, common, rounds)
            .with("store", database.name())
            .with("publisher", publisher)
            .with("messages", load.messages);
        if *name == "ours" {
            for (other, rounds) in rates.iter().filter(|(other, _)| *other != name) {
                line = line.against(*other, rounds);
            }
        }
        output.emit(&line)?;
    }
    Ok(())
}

/// One run of one contender, in messages per second.
pub(super) async fn drain(
    contender: &dyn Contender,
    database: &Arc<dyn Database>,
    broker: Option<&dyn Broker>,
    load: &Load,
) -> Result<f64> {
    let load = load.at_most(contender.most());
    database.clear().await?;
    database.fill(contender.table(), &load).await?;
    let place = match broker {
        Some(broker) => Some(broker.place().await?),
        None => None,
    };
    let publisher = match &place {
        Some(place) => Watched::before(place.publisher()?, load.messages),
        None => Watched::noop(load.messages, None),
    };
    let took = contender.drain(database.clone(), publisher.clone()).await?;
    let left = database.waiting(contender.table()).await?;
    ensure!(left == 0, "no figure: {left} messages are left in the table");
    let ordered = place.as_ref().is_none_or(|place| place.is_ordered());
    verify(&load, &super::arrivals(place.as_deref(), &publisher, load.messages).await?, ordered)?;
    Ok(load.messages as f64 / took.as_secs_f64())
}

async fn memory(broker: &dyn Broker, load: &Load) -> Result<f64> {
    let place = broker.place().await?;
    let took = place.publish_alone(load).await?;
    verify(load, &place.arrivals(load.messages).await?, place.is_ordered())?;
    Ok(load.messages as f64 / took.as_secs_f64())
}
