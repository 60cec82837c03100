//! How the program tells what it does.

use tracing_subscriber::EnvFilter;

use super::section::Section;

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// How the program tells what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) format: Format,
    /// Which lines are wanted, in the language of `tracing`.
    pub(crate) filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Format::Text, filter: "info".to_owned() }
    }
}

pub(super) fn read(section: Section<'_>) -> Log {
    let mut log = Log::default();
    if let Some(format) = section.choice("format", &[("text", Format::Text), ("json", Format::Json)]) {
        log.format = format;
    }
    let allowed =
        "a level (error, warn, info, debug, trace), or levels by target such as \"info,outbox_core=debug\"";
    let filter = section.text("filter", allowed, |text| EnvFilter::try_new(text).is_ok());
    section.fill("filter", filter, &mut log.filter);
    section.finish();
    log
}
