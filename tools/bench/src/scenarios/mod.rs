//! The scenarios.

pub mod backlog;
pub mod drain;
pub mod enqueue;
pub mod held_snapshot;
pub mod idle;
pub mod instructions;
pub mod memory;
pub mod relays;
pub mod steady;
pub mod wakeup;

use anyhow::{Result, bail, ensure};

use crate::brokers::Place;
use crate::options::{Arguments, Common, Part, Scenario};
use crate::verify::Watched;

/// Runs a scenario.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let common = &arguments.common;
    match &arguments.scenario {
        Scenario::Drain => drain::run(common).await,
        Scenario::Steady(options) => steady::run(common, options).await,
        Scenario::Wakeup(options) => wakeup::run(common, options).await,
        Scenario::HeldSnapshot => held_snapshot::run(common).await,
        Scenario::Backlog(options) => backlog::run(common, options).await,
        Scenario::Relays(options) => relays::run(common, options).await,
        Scenario::Enqueue(options) => enqueue::run(common, options).await,
        Scenario::Idle(options) => idle::run(common, options).await,
        Scenario::Memory(options) => memory::run(common, options).await,
        Scenario::Instructions(options) => instructions::run(common, options).await,
        Scenario::Report(options) => crate::report::run(options).await,
        Scenario::Part(_) => bail!("a part is no scenario"),
    }
}

/// Runs a part of a scenario, in a separate process.
///
/// # Errors
/// If it cannot be run, or was not correct.
pub fn run_part(part: &Part) -> Result<()> {
    match part {
        Part::Drain { url, messages, keys } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(memory::part(url, *messages, *keys))
        }
        Part::Engine { messages } => instructions::part(*messages),
    }
}

/// Prints progress, apart from the figures.
#[allow(clippy::print_stderr, reason = "a run takes minutes, so it reports progress")]
pub(crate) fn say(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// The participants, in the order of the next round.
struct Entrants {
    names: Vec<&'static str>,
}

impl Entrants {
    fn new(common: &Common, names: &[&'static str]) -> Result<Self> {
        let wanted =
            |name: &&'static str| common.only.is_empty() || common.only.iter().any(|only| only == name);
        let names: Vec<&str> = names.iter().copied().filter(wanted).collect();
        ensure!(!names.is_empty(), "there is no contender with such a name");
        Ok(Self { names })
    }

    /// Alternating, and not always the same one first.
    fn next_round(&mut self) -> Vec<&'static str> {
        self.names.rotate_left(1);
        self.names.clone()
    }
}

/// The messages that arrived at the broker, or at the publisher without one.
async fn arrivals(place: Option<&dyn Place>, publisher: &Watched, messages: u64) -> Result<Vec<u64>> {
    match place {
        Some(place) => place.arrivals(messages).await,
        None => Ok(publisher.arrivals()),
    }
}
