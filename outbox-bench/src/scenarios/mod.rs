//! What is measured.

pub mod drain;

use anyhow::Result;

use crate::options::{Arguments, Scenario};

/// Runs a scenario.
///
/// # Errors
/// If a server cannot be had, or a run was not right.
pub async fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.scenario {
        Scenario::Drain => drain::run(&arguments.common).await,
    }
}

/// Says what is going on, apart from the figures.
#[allow(clippy::print_stderr, reason = "whoever waits for minutes wants to know what for")]
pub(crate) fn say(text: impl std::fmt::Display) {
    eprintln!("{text}");
}
