//! The log: one line for each thing that happens, on the standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

use crate::config::{Format, Log};
use crate::exit::Failure;

/// Starts to log, for the whole process.
///
/// # Errors
/// If the filter cannot be understood, or something else logs already.
pub(crate) fn start(log: &Log) -> Result<(), Failure> {
    let filter =
        filter(&log.filter).map_err(|error| Failure::wrong(format!("log.filter is invalid: {error}")))?;
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

/// Libraries whose lines can hold messages, headers or passwords, with what is left of each. All that lapin reports
/// comes back to us as an error; its own lines hold returned messages as a whole, at the level of warnings.
const GUARDED: &[(&str, &str)] = &[
    ("lapin", "lapin=off"),
    ("amq_protocol", "amq_protocol=off"),
    ("aws", "aws=info"),
    ("google_cloud", "google_cloud=info"),
    ("h2", "h2=info"),
    ("hyper", "hyper=info"),
    ("reqwest", "reqwest=info"),
    ("rustls", "rustls=info"),
    ("sqlx", "sqlx=info"),
    ("tcp_stream", "tcp_stream=info"),
    ("tiberius", "tiberius=info"),
    ("tonic", "tonic=info"),
    ("tower", "tower=info"),
];

/// The filter as it is written, in which a level for everything does not include the libraries above. Whoever wants to
/// see their lines names them.
fn filter(written: &str) -> Result<EnvFilter, ParseError> {
    let mut filter = EnvFilter::try_new(written)?;
    let level = written.split(',').filter_map(|part| part.trim().parse::<LevelFilter>().ok()).next_back();
    let level = level.unwrap_or(LevelFilter::ERROR);
    for (target, directive) in GUARDED {
        // A directive must not show more of a library than the level for everything does.
        let is_needed = level > LevelFilter::INFO || directive.ends_with("=off");
        if is_needed && !written.split(',').any(|part| part.trim().starts_with(target)) {
            filter = filter.add_directive(directive.parse()?);
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is logged under a filter when several libraries log at several levels.
    fn logged(written: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(written).unwrap())
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "lapin::channel", "lapin error");
            tracing::warn!(target: "lapin::returned_messages", "lapin warning");
            tracing::debug!(target: "lapin::frames", "lapin debug");
            tracing::trace!(target: "aws_smithy_runtime::client", "aws trace");
            tracing::warn!(target: "aws_config", "aws warning");
            tracing::debug!(target: "sqlx::query", "sqlx debug");
            tracing::debug!(target: "outbox_amqp::call", "outbox debug");
            tracing::info!(target: "outbox_core::relay", "outbox info");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_that_can_log_messages_do_so_only_if_they_are_named() {
        for (written, expected) in [
            ("info", &["aws warning", "outbox info"][..]),
            ("trace", &["aws warning", "outbox debug", "outbox info"]),
            ("info,outbox_amqp=debug", &["aws warning", "outbox debug", "outbox info"]),
            ("info,lapin=warn", &["lapin error", "lapin warning", "aws warning", "outbox info"]),
            ("error,lapin::frames=debug", &["lapin debug", "lapin error"]),
            ("debug,sqlx=debug", &["aws warning", "sqlx debug", "outbox debug", "outbox info"]),
        ] {
            let log = logged(written);
            let all = [
                "lapin error",
                "lapin warning",
                "lapin debug",
                "aws trace",
                "aws warning",
                "sqlx debug",
                "outbox debug",
                "outbox info",
            ];
            for line in all {
                assert_eq!(log.contains(line), expected.contains(&line), "{written}: {line} in\n{log}");
            }
        }
    }
}
