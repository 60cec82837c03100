//! The log: one line for each thing that happens, on the standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Format, Log};
use crate::exit::Failure;

/// Starts to log, for the whole process.
///
/// # Errors
/// If the filter cannot be understood, or something else logs already.
pub(crate) fn start(log: &Log) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| Failure::wrong(format!("log.filter is invalid: {error}")))?;
    let colors = anstream::stderr().current_choice() != anstream::ColorChoice::Never;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        Format::Text => {
            builder.with_ansi(colors && std::io::stderr().is_terminal()).with_target(false).try_init()
        }
        Format::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    started.map_err(|error| Failure::failed(format!("the log cannot be started: {error}")))
}
