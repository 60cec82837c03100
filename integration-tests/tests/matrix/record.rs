//! The result of each test, for the table of pairs.

use std::fs::File;
use std::io::Write;

use crate::ends::{Broker, Database};

/// A file to which each test adds a line: store, publisher, scenario, result, missing service, and the
/// process id, with which the report of services shows how the two ends ran.
const PAIR_REPORT: &str = "OUTBOX_TEST_PAIR_REPORT";

/// A running test. It has failed unless another result is recorded before this is dropped.
pub(crate) struct Record {
    test: [&'static str; 3],
    result: (&'static str, &'static str),
}

impl Record {
    pub(crate) fn new(database: Database, broker: Broker, scenario: &'static str) -> Self {
        Self { test: [database.name(), broker.name(), scenario], result: ("failed", "") }
    }

    /// It is not run, because this service is missing.
    pub(crate) fn skipped(mut self, service: &'static str) {
        self.result = ("skipped", service);
    }

    pub(crate) fn passed(mut self) {
        self.result = ("passed", "");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(report) = std::env::var_os(PAIR_REPORT).filter(|report| !report.is_empty()) else { return };
        let ([database, broker, scenario], (result, why)) = (self.test, self.result);
        let pid = std::process::id();
        let line = format!("{database}\t{broker}\t{scenario}\t{result}\t{why}\t{pid}\n");
        // One write, because other tests are writing too. A panic here would hide the original one.
        let written = File::options().create(true).append(true).open(&report);
        let written = written.and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            assert!(std::thread::panicking(), "{PAIR_REPORT}: cannot write to {report:?}: {error}");
        }
    }
}
