//! Handles a test whose service is unavailable: a clearly visible skip, or a failure if the service is
//! required.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::environment::Environment;
use crate::report;
use crate::service::Service;
use crate::tool::Tool;

/// The required services and tools: a comma-separated list, or `all`.
const REQUIRE: &str = "OUTBOX_TEST_REQUIRE";
/// A file to which every skip appends one line, so that a runner of several test binaries can count them.
const SKIP_REPORT: &str = "OUTBOX_TEST_SKIP_REPORT";
/// `container` or `process`: the only mode in which servers may be started.
const MODE: &str = "OUTBOX_TEST_MODE";

/// The reasons why a service or tool is unavailable: every method that was tried, and its result.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// The name in `OUTBOX_TEST_REQUIRE`.
    name: &'static str,
    /// The name for messages.
    title: String,
    remedy: String,
    reasons: Vec<String>,
    /// Whether `all` includes it.
    part_of_all: bool,
}

impl Unavailable {
    /// `within_reach` is true if one of the methods should have led to the service, on this machine and with
    /// these variables.
    pub(crate) fn service(service: Service, reasons: Vec<String>, within_reach: bool) -> Self {
        Self {
            name: service.name(),
            title: service.to_string(),
            remedy: service.remedy(),
            reasons,
            part_of_all: service.is_local() || within_reach,
        }
    }

    pub(crate) fn tool(tool: Tool, reason: String) -> Self {
        let remedy = format!("run scripts/test, which installs it; or `apt-get install {}`", tool.package());
        let (name, reasons) = (tool.name(), vec![reason]);
        Self { name, title: name.to_owned(), remedy, reasons, part_of_all: true }
    }

    /// An image of the list that neither the daemon nor a registry has.
    #[cfg(feature = "containers")]
    pub(crate) fn image(name: &str, reason: String) -> Self {
        let remedy = format!("run scripts/container-images {name}");
        let title = format!("the image {name}");
        Self { name: Tool::Docker.name(), title, remedy, reasons: vec![reason], part_of_all: true }
    }

    /// The same, but not part of `all`: no method on this machine could have led to it.
    pub(crate) fn out_of_reach(self) -> Self {
        Self { part_of_all: false, ..self }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for reason in &self.reasons {
            writeln!(f, "  - {reason}")?;
        }
        write!(f, "  To have {}: {}.", self.title, self.remedy)
    }
}

impl std::error::Error for Unavailable {}

/// How servers may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ways {
    pub(crate) container: bool,
    pub(crate) process: bool,
}

impl Ways {
    pub(crate) fn of(environment: &Environment) -> Self {
        match environment.get(MODE) {
            None | Some("auto") => Self { container: true, process: true },
            Some("container") => Self { container: true, process: false },
            Some("process") => Self { container: false, process: true },
            Some(other) => panic!("{MODE} is {other:?}; it may be auto, container or process"),
        }
    }
}

/// The reaction of a test to an unavailable service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Skip,
    Fail,
}

pub(crate) fn decide(environment: &Environment, unavailable: &Unavailable) -> Decision {
    let known: Vec<_> =
        Service::ALL.map(Service::name).into_iter().chain(Tool::ALL.map(Tool::name)).collect();
    let mut decision = Decision::Skip;
    for entry in environment.list(REQUIRE) {
        // A misspelt name would require nothing and let the run pass.
        assert!(
            entry == "all" || known.contains(&entry),
            "{REQUIRE} names {entry:?}; it may name {known:?}, or be \"all\""
        );
        if entry == unavailable.name || (entry == "all" && unavailable.part_of_all) {
            decision = Decision::Fail;
        }
    }
    decision
}

/// Returns the service if it is available. Otherwise panics if it is required, and reports a skip if it is
/// not.
pub(crate) fn available<T>(result: Result<T, Unavailable>, environment: &Environment) -> Option<T> {
    let unavailable = match result {
        Ok(value) => return Some(value),
        Err(unavailable) => unavailable,
    };
    match decide(environment, &unavailable) {
        Decision::Fail => panic!("{REQUIRE} names {}, which cannot be had:\n{unavailable}", unavailable.name),
        Decision::Skip => {
            report_skip(&unavailable, environment);
            None
        }
    }
}

fn report_skip(unavailable: &Unavailable, environment: &Environment) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);

    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let text = notice(unavailable, test, count);
    // The test runner captures the output of `eprintln!`, and shows it only if the test fails. Output written
    // to the stream itself is always shown. One write keeps the lines together.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    if let Some(file) = environment.get(SKIP_REPORT) {
        let reasons = unavailable.reasons.join("; ").replace(['\t', '\n'], " ");
        let line = format!("{} {test}\t{reasons}\n", unavailable.name);
        report::append(Path::new(file), &line)
            .unwrap_or_else(|error| panic!("{SKIP_REPORT}: cannot write to {file}: {error}"));
    }
}

fn notice(unavailable: &Unavailable, test: &str, count: usize) -> String {
    let title = &unavailable.title;
    format!(
        "\n==== SKIPPED, NOT PASSED: {test} needs {title} ({count} skipped so far in this test binary)\n\
         {unavailable}\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> Unavailable {
        Unavailable::service(Service::Postgres, vec!["it is raining".to_owned()], false)
    }

    #[test]
    fn a_service_that_nobody_requires_is_skipped() {
        for require in ["", "rabbitmq", " rabbitmq , psql"] {
            let environment = Environment::from_pairs([(REQUIRE, require)]);
            assert_eq!(decide(&environment, &unavailable()), Decision::Skip, "{require:?}");
        }
    }

    #[test]
    fn a_service_that_is_required_fails_the_test() {
        for require in ["all", "postgres", "rabbitmq, postgres", "rabbitmq,all"] {
            let environment = Environment::from_pairs([(REQUIRE, require)]);
            assert_eq!(decide(&environment, &unavailable()), Decision::Fail, "{require:?}");
        }
    }

    #[test]
    fn all_does_not_mean_what_is_out_of_reach() {
        let decide_on = |service, within_reach, require| {
            let unavailable = Unavailable::service(service, Vec::new(), within_reach);
            decide(&Environment::from_pairs([(REQUIRE, require)]), &unavailable)
        };
        assert_eq!(decide_on(Service::SqlServer, false, "all"), Decision::Skip);
        assert_eq!(decide_on(Service::SqlServer, true, "all"), Decision::Fail);
        assert_eq!(decide_on(Service::SqlServer, false, "all,sqlserver"), Decision::Fail);
        assert_eq!(decide_on(Service::MySql, false, "all"), Decision::Fail);
    }

    #[test]
    #[should_panic(expected = "OUTBOX_TEST_REQUIRE names postgres, which cannot be had:\n  - it is raining")]
    fn the_failure_gives_the_reasons() {
        available::<()>(Err(unavailable()), &Environment::from_pairs([(REQUIRE, "postgres")]));
    }

    #[test]
    #[should_panic(expected = "OUTBOX_TEST_REQUIRE names \"postgers\"")]
    fn a_misspelt_requirement_is_refused() {
        decide(&Environment::from_pairs([(REQUIRE, "postgers")]), &unavailable());
    }

    #[test]
    fn a_skip_names_the_test_the_reason_and_the_remedy() {
        let text = notice(&unavailable(), "my_test", 7);
        for part in
            ["SKIPPED, NOT PASSED: my_test needs PostgreSQL (7 ", "raining", "scripts/test", "_POSTGRES_URL"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn the_mode_limits_the_ways() {
        let ways = |mode: &str| Ways::of(&Environment::from_pairs([(MODE, mode)]));
        assert_eq!(ways(""), Ways { container: true, process: true });
        assert_eq!(ways("auto"), Ways { container: true, process: true });
        assert_eq!(ways("container"), Ways { container: true, process: false });
        assert_eq!(ways("process"), Ways { container: false, process: true });
    }
}
