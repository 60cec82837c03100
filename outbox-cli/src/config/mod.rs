//! Settings: from a file, the environment and the command line to what they mean.

#[cfg(any(feature = "amqp", feature = "nats", feature = "webhook"))]
mod certificates;
mod explain;
mod fault;
mod http;
mod kind;
mod layers;
mod log;
mod relay;
mod route;
mod secret;
mod section;
mod telemetry;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use self::explain::Explanation;
use self::fault::Faults;
use self::section::Reading;
use self::tree::{Origin, Table};

pub(crate) use self::fault::Fault;
pub(crate) use self::http::Http;
pub(crate) use self::kind::{ReadKind, kind};
pub(crate) use self::log::{Format, Log};
pub(crate) use self::route::Route;
pub(crate) use self::secret::Secret;
pub(crate) use self::section::Section;
pub(crate) use self::telemetry::Telemetry;

/// The file that is read if none is named.
pub(crate) const DEFAULT_FILE: &str = "outbox.toml";

/// Everything that can be set.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) log: Log,
    pub(crate) http: Option<Http>,
    pub(crate) telemetry: Option<Telemetry>,
    pub(crate) routes: Vec<Route>,
    /// What was set, and where, for people.
    pub(crate) explanation: String,
}

/// The three places settings come from.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    /// The file's name; without one, [`DEFAULT_FILE`] is read if it is there.
    pub(crate) file: Option<&'a Path>,
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// What `--set` says, later ones before earlier ones.
    pub(crate) flags: &'a [String],
}

impl Config {
    /// Reads all settings.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) fn load(sources: &Sources<'_>) -> Result<Self, Vec<Fault>> {
        let root = read_file(sources.file).map_err(|fault| vec![fault])?;
        Self::of(root, sources)
    }

    /// Reads settings of which the file is a text, for tests.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn of_text(text: &str, sources: &Sources<'_>) -> Result<Self, Vec<Fault>> {
        let root = tree::parse(&DEFAULT_FILE.into(), text).map_err(|fault| vec![fault])?;
        Self::of(root, sources)
    }

    fn of(mut root: Table, sources: &Sources<'_>) -> Result<Self, Vec<Fault>> {
        let (faults, explanation) = (Faults::default(), Explanation::default());
        layers::variables(&mut root, sources.environment, &faults);
        layers::flags(&mut root, sources.flags, &faults);
        let reading =
            Reading { faults: &faults, explanation: &explanation, environment: sources.environment };
        let section = Section::new(&reading, "", &root, &Origin::Nowhere);
        let log = log::read(section.section("log"));
        let http = http::read(section.section("http"));
        let telemetry = telemetry::read(section.section("telemetry"), cfg!(feature = "otel"));
        let routes = route::read_all(&section);
        section.finish();
        let made = routes.map(|routes| (log, routes));
        let (log, routes) = faults.or(made)?;
        Ok(Self { log, http, telemetry, routes, explanation: explanation.to_string() })
    }
}

fn read_file(file: Option<&Path>) -> Result<Table, Fault> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let name: Arc<str> = path.display().to_string().into();
    match std::fs::read_to_string(path) {
        Ok(text) => tree::parse(&name, &text),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(Table::new()),
        Err(error) => {
            let origin = Origin::File { name, line: 1 };
            Err(Fault::new(origin, "", format!("the configuration file cannot be read: {error}")))
        }
    }
}

#[cfg(test)]
mod tests;
