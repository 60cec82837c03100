//! What the fuzz targets reach of the private parts.

use std::collections::BTreeMap;

use outbox_core::message::Headers;

use crate::config::{Config, Fault, Sources};

/// Reads settings of a file's text, variables and what `--set` says: what was read, in all its forms for people, or what is
/// wrong.
///
/// # Errors
/// Everything that is wrong, each fault as people see it.
pub fn settings(
    file: &str,
    environment: &BTreeMap<String, String>,
    flags: &[String],
) -> Result<String, Vec<String>> {
    let sources = Sources { file: None, environment, flags };
    match Config::of_text(file, &sources) {
        Ok(config) => Ok(format!("{config:?}\n{}", config.explanation)),
        Err(faults) => Err(faults.iter().map(Fault::to_string).collect()),
    }
}

/// The trace that a message's headers carry, written again; `None` if they carry none that we go on with.
#[cfg(feature = "otel")]
pub fn trace(headers: &Headers) -> Option<Headers> {
    crate::telemetry::written_again(headers)
}
