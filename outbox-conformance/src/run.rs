//! Running cases: one as a test, or all of them with a report.

use std::fmt;

use crate::case::{CaseResult, Stop};
use crate::inbox_harness::InboxHarness;
use crate::publisher_harness::PublisherHarness;
use crate::store_harness::StoreHarness;
use crate::suites::{inbox_suite, publisher_suite, store_suite};

/// The result of one case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaseReport {
    /// The case's name.
    pub name: &'static str,
    /// The promise.
    pub promise: &'static str,
    /// Its result.
    pub result: CaseResult,
}

/// The results of the cases of a suite. Its printed form has one line per case.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The cases in the order in which they ran.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// The cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| matches!(case.result, Err(Stop::Failed(_))))
    }

    /// Returns whether no case failed.
    pub fn is_ok(&self) -> bool {
        self.failed().next().is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut passed, mut not_applicable) = (0, 0);
        for CaseReport { name, promise, result } in &self.cases {
            match result {
                Ok(()) => {
                    passed += 1;
                    writeln!(f, "ok      {name}")?;
                }
                Err(Stop::NotApplicable(reason)) => {
                    not_applicable += 1;
                    writeln!(f, "n/a     {name}: {reason}")?;
                }
                Err(Stop::Failed(text)) => writeln!(f, "FAILED  {name}: {promise} {text}")?,
            }
        }
        let failed = self.cases.len() - passed - not_applicable;
        write!(f, "{passed} passed, {failed} failed, {not_applicable} not applicable")
    }
}

/// Runs every case for stores, one after the other.
pub async fn run_store_suite(harness: &dyn StoreHarness) -> Report {
    let mut report = Report::default();
    for case in store_suite() {
        let result = case.run(harness).await;
        report.cases.push(CaseReport { name: case.name, promise: case.promise, result });
    }
    report
}

/// Runs every case for publishers, one after the other.
pub async fn run_publisher_suite(harness: &dyn PublisherHarness) -> Report {
    let mut report = Report::default();
    for case in publisher_suite() {
        let result = case.run(harness).await;
        report.cases.push(CaseReport { name: case.name, promise: case.promise, result });
    }
    report
}

/// Runs every case for inboxes, one after the other.
pub async fn run_inbox_suite(harness: &dyn InboxHarness) -> Report {
    let mut report = Report::default();
    for case in inbox_suite() {
        let result = case.run(harness).await;
        report.cases.push(CaseReport { name: case.name, promise: case.promise, result });
    }
    report
}

/// Runs one case for inboxes as a separate test. `inbox_tests!` expands to it.
#[doc(hidden)]
pub fn inbox_test(harness: &dyn InboxHarness, name: &str) {
    let cases = inbox_suite();
    let case = cases.iter().find(|case| case.name == name);
    as_test(name, case.map(|case| (case.promise, case.run(harness))));
}

/// Runs one case for stores as a separate test. `store_tests!` expands to it.
#[doc(hidden)]
pub fn store_test(harness: &dyn StoreHarness, name: &str) {
    let cases = store_suite();
    let case = cases.iter().find(|case| case.name == name);
    as_test(name, case.map(|case| (case.promise, case.run(harness))));
}

/// Runs one case for publishers as a separate test. `publisher_tests!` expands to it.
#[doc(hidden)]
pub fn publisher_test(harness: &dyn PublisherHarness, name: &str) {
    let cases = publisher_suite();
    let case = cases.iter().find(|case| case.name == name);
    as_test(name, case.map(|case| (case.promise, case.run(harness))));
}

// A test fails by panicking and prints the reason.
#[allow(clippy::panic, clippy::print_stderr)]
fn as_test(name: &str, case: Option<(&str, impl Future<Output = CaseResult>)>) {
    let Some((promise, run)) = case else { panic!("there is no case {name}") };
    // One thread, so that a harness may pause tokio's clock.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("a runtime is needed to run {name}: {error}"),
    };
    match runtime.block_on(run) {
        Ok(()) => {}
        Err(Stop::NotApplicable(reason)) => eprintln!("{name} does not apply: {reason}"),
        Err(Stop::Failed(text)) => panic!("broken promise {name}: {promise}\n{text}"),
    }
}
