//! What the harness tells whoever runs the tests: lines on the terminal, and files in which several test processes
//! write down what they did.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::environment::Environment;
use crate::server::Server;
use crate::service::Service;

/// A file to which every test process appends a line for each service that it used: package and test binary, service,
/// way, version, and the number of the process.
const SERVICE_REPORT: &str = "OUTBOX_TEST_SERVICE_REPORT";

/// How a server was provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Url,
    Container,
    Process,
    /// As a part of the test process itself.
    #[cfg_attr(
        not(any(feature = "kinesis", feature = "webhook")),
        allow(
            dead_code,
            reason = "only the emulator of Kinesis and the receiver of webhooks are such parts"
        )
    )]
    InTest,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Container => "container",
            Self::Process => "process",
            Self::InTest => "in the test",
        }
    }
}

/// Prints a line. The test runner captures the output of `eprintln!` and shows it only if the test fails; what is
/// written to the stream itself is always shown.
pub(crate) fn line(text: &str) {
    let _ = io::stderr().lock().write_all(format!("==== {text}\n").as_bytes());
}

/// Appends a line to a file to which other test processes may be appending also.
pub(crate) fn append(report: &Path, line: &str) -> io::Result<()> {
    File::options().create(true).append(true).open(report)?.write_all(line.as_bytes())
}

/// Prints once per service that a process takes the place of its container.
pub(crate) fn fallback(service: Service, reason: &str) {
    if is_new(format!("fallback of {}", service.name())) {
        line(&format!("{service} runs as a process. {}", reason.replace('\n', " ")));
    }
}

/// Records how a server was provided, if somebody wants to know.
pub(crate) async fn service<S: Server>(environment: &Environment, server: &S, way: Way) {
    if environment.get(SERVICE_REPORT).is_none() {
        return;
    }
    let version = server.version().await.unwrap_or_else(|error| format!("unknown ({error:#})"));
    used(environment, S::SERVICE.name(), way, &version);
}

/// Records once per process that this service was used in this way and version.
pub(crate) fn used(environment: &Environment, service: &'static str, way: Way, version: &str) {
    let Some(report) = environment.get(SERVICE_REPORT) else { return };
    if !is_new(format!("{report}\n{service}\n{}\n{version}", way.name())) {
        return;
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let suite = suite(
        environment.get("CARGO_PKG_NAME"),
        &std::env::current_dir().unwrap_or_default(),
        &executable.file_stem().unwrap_or_default().to_string_lossy(),
    );
    let version = version.replace(['\t', '\n'], " ");
    let line = format!("{suite}\t{service}\t{}\t{version}\t{}\n", way.name(), std::process::id());
    append(Path::new(report), &line)
        .unwrap_or_else(|error| panic!("{SERVICE_REPORT}: cannot write to {report}: {error}"));
}

/// The package and the name of the test binary, such as `outbox-sqs conformance`. Cargo runs test binaries in the
/// folder of their package, and puts a hash at the end of their names.
fn suite(package: Option<&str>, folder: &Path, executable: &str) -> String {
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    let package = package.unwrap_or(&folder);
    let binary = executable
        .rsplit_once('-')
        .filter(|(_, hash)| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map_or(executable, |(name, _)| name);
    let binary = if binary == package.replace('-', "_") { "(unit tests)" } else { binary };
    format!("{package} {binary}")
}

/// Whether this process has not asked this before.
fn is_new(key: String) -> bool {
    static SEEN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

    SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_named_by_its_package_and_binary() {
        let folder = Path::new("/checkout/outbox-sqs");
        assert_eq!(suite(None, folder, "conformance-0123456789abcdef"), "outbox-sqs conformance");
        assert_eq!(suite(Some("outbox-amqp"), folder, "rabbitmq-0123456789abcdef"), "outbox-amqp rabbitmq");
        assert_eq!(suite(None, folder, "outbox_sqs-0123456789abcdef"), "outbox-sqs (unit tests)");
        assert_eq!(suite(None, folder, "rust_out"), "outbox-sqs rust_out");
        assert_eq!(suite(None, folder, "two-words-0123456789abcdef"), "outbox-sqs two-words");
    }

    #[test]
    fn a_service_is_recorded_once_per_way_and_version() {
        let folder = crate::scratch::Scratch::new("service-report").unwrap();
        let report = folder.path().join("services");
        let environment = Environment::from_pairs([(SERVICE_REPORT, report.to_str().unwrap())]);
        for (way, version) in [
            (Way::Container, "17.12"),
            (Way::Container, "17.12"),
            (Way::Process, "15.18"),
            (Way::Url, "two\nlines"),
        ] {
            used(&environment, "postgres", way, version);
        }
        let text = std::fs::read_to_string(report).unwrap();
        let pid = std::process::id();
        let expected =
            [("container", "17.12"), ("process", "15.18"), ("url", "two lines")].map(|(way, version)| {
                format!("integration-tests (unit tests)\tpostgres\t{way}\t{version}\t{pid}\n")
            });
        assert_eq!(text, expected.concat());
        used(&Environment::default(), "postgres", Way::Url, "1");
    }

    #[test]
    fn lines_of_several_processes_add_up_in_a_report() {
        let folder = crate::scratch::Scratch::new("report").unwrap();
        let report = folder.path().join("lines");
        append(&report, "postgres one\n").unwrap();
        append(&report, "rabbitmq other\n").unwrap();
        assert_eq!(std::fs::read_to_string(report).unwrap(), "postgres one\nrabbitmq other\n");
    }
}
