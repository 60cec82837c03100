//! Running whole suites, and cases that do not apply.

#![allow(clippy::unwrap_used)] // All of this is test code; a panic in it fails a test.

mod support;

use std::sync::Arc;

use outbox_conformance::{
    PublisherHarness, Report, Stop, StoreHarness, publisher_suite, run_publisher_suite, run_store_suite,
    store_suite,
};
use support::{MemoryHarness, PublisherMemoryHarness};

const LATE: &str = "reading::late_commits_are_delivered";

fn result<'r>(report: &'r Report, name: &str) -> &'r outbox_conformance::CaseResult {
    &report.cases.iter().find(|case| case.name == name).unwrap().result
}

/// A paused clock cannot be paused again, so each case has a separate runtime.
fn run_one(harness: &dyn StoreHarness, name: &str) -> outbox_conformance::CaseResult {
    let case = store_suite().into_iter().find(|case| case.name == name).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(case.run(harness))
}

#[test]
fn what_does_not_apply_must_be_listed() {
    let mut harness = MemoryHarness::plain();
    harness.traits = harness.traits.concurrent_writers(false);
    let Err(Stop::Failed(text)) = run_one(&harness, LATE) else { panic!("silently skipped") };
    assert!(text.contains("one writer at a time") && text.contains(LATE), "{text}");
    harness.not_applicable.push(LATE);
    assert!(matches!(run_one(&harness, LATE), Err(Stop::NotApplicable(_))));
}

#[test]
fn what_applies_must_not_be_listed() {
    let mut harness = MemoryHarness::plain();
    harness.not_applicable.push(LATE);
    let Err(Stop::Failed(text)) = run_one(&harness, LATE) else { panic!("passed without notice") };
    assert!(text.contains("remove it from the list"), "{text}");
}

#[test]
fn a_store_with_less_passes_what_is_left() {
    let mut harness = MemoryHarness::plain();
    harness.traits = harness.traits.concurrent_writers(false).wakeups(false);
    let absent = |name: &str| {
        name.contains("late_")
            || name.contains("wakeups_")
            || name.contains("hints")
            || name.contains("open_tran")
    };
    for case in store_suite() {
        harness.not_applicable = if absent(case.name) { vec![case.name] } else { Vec::new() };
        let result = run_one(&harness, case.name);
        let as_expected = match &result {
            Ok(()) => !absent(case.name),
            Err(Stop::NotApplicable(_)) => absent(case.name),
            Err(_) => false,
        };
        assert!(as_expected, "{}: {result:?}", case.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_says_how_each_case_ended() {
    let mut harness = MemoryHarness::plain();
    harness.paused_already = true;
    let report = run_store_suite(&harness).await;
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.cases.len(), store_suite().len());

    harness.traits = harness.traits.concurrent_writers(false);
    let report = run_store_suite(&harness).await;
    assert!(!report.is_ok());
    assert!(matches!(result(&report, LATE), Err(Stop::Failed(_))));
    let text = report.to_string();
    assert!(text.contains("ok      enqueueing::committed_messages_exist"), "{text}");
    assert!(text.contains(&format!("FAILED  {LATE}")), "{text}");

    let mut harness = PublisherMemoryHarness::plain();
    harness.paused_already = true;
    let report = run_publisher_suite(&harness).await;
    assert!(report.is_ok(), "{report}");
    assert!(report.to_string().ends_with("passed, 0 failed, 0 not applicable"), "{report}");
}

#[test]
fn names_are_unique_and_harnesses_are_objects() {
    let mut names: Vec<_> = store_suite().iter().map(|case| case.name).collect();
    names.extend(publisher_suite().iter().map(|case| case.name));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(store_suite().iter().all(|case| case.promise.ends_with('.')));
    let _: Arc<dyn StoreHarness> = Arc::new(MemoryHarness::plain());
    let _: Arc<dyn PublisherHarness> = Arc::new(PublisherMemoryHarness::plain());
}
