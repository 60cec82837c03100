//! Stores and publishers that break one rule each, and the cases that must detect it.
//!
//! The case that is named next to a defect must catch it, and every case must catch a defect: a case that
//! cannot fail proves nothing.

#![allow(clippy::unwrap_used)] // All of this is test code; a panic in it fails a test.

#[path = "../support/mod.rs"]
mod support;

mod inbox_defects;
mod inspection_defects;
mod publisher_defects;
mod reader_defects;
mod store_defects;
mod transaction_defects;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use outbox_conformance::{
    InboxHarness, PublisherHarness, Stop, StoreHarness, StoreTraits, inbox_suite, publisher_suite,
    store_suite,
};

/// Missing rows are not awaited for long, even if the clock is paused: polling costs time.
fn impatient() -> StoreTraits {
    StoreTraits::default().deadline(Duration::from_secs(4))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs every case for stores, and returns the names of those that failed.
fn failed_store_cases(harness: &dyn StoreHarness) -> BTreeSet<&'static str> {
    let failed = store_suite().into_iter().filter(|case| {
        // A panic, for example of a database driver that reads invalid data, is a failure like any other.
        let run = AssertUnwindSafe(case.run(harness)).catch_unwind();
        !matches!(runtime().block_on(run), Ok(Ok(()) | Err(Stop::NotApplicable(_))))
    });
    failed.map(|case| case.name).collect()
}

/// Runs every case for inboxes, and returns the names of those that failed.
fn failed_inbox_cases(harness: &dyn InboxHarness) -> BTreeSet<&'static str> {
    let failed = inbox_suite().into_iter().filter(|case| {
        // The clock is paused, so that an unsuccessful wait costs no time.
        let run = async {
            tokio::time::pause();
            AssertUnwindSafe(case.run(harness)).catch_unwind().await
        };
        !matches!(runtime().block_on(run), Ok(Ok(()) | Err(Stop::NotApplicable(_))))
    });
    failed.map(|case| case.name).collect()
}

/// Runs every case for publishers, and returns the names of those that failed.
fn failed_publisher_cases(harness: &dyn PublisherHarness) -> BTreeSet<&'static str> {
    let failed = publisher_suite().into_iter().filter(|case| {
        let run = AssertUnwindSafe(case.run(harness)).catch_unwind();
        !matches!(runtime().block_on(run), Ok(Ok(()) | Err(Stop::NotApplicable(_))))
    });
    failed.map(|case| case.name).collect()
}

/// A defect, the case that must catch it, and the harness for the cases.
type Found<H> = (String, &'static str, Arc<H>);

/// The failed cases of each defect.
type Failed = BTreeMap<String, BTreeSet<&'static str>>;

/// Runs every case with every defect, on as many threads as the machine has.
fn run<H>(found: &[Found<H>], failed_cases: fn(&H) -> BTreeSet<&'static str>) -> Failed
where
    H: ?Sized + Send + Sync,
{
    // A defect that two cases must catch is listed twice, and run once.
    let defects: BTreeMap<&String, &Arc<H>> = found.iter().map(|(name, _, h)| (name, h)).collect();
    let left = Mutex::new(defects.into_iter());
    let failed = Mutex::new(Failed::new());
    let work = || {
        loop {
            let next = left.lock().unwrap().next();
            let Some((name, harness)) = next else { return };
            let cases = failed_cases(&**harness);
            failed.lock().unwrap().insert(name.clone(), cases);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    failed.into_inner().unwrap()
}

/// Fails unless every defect was caught by its case, and every case has caught a defect.
fn judge<H: ?Sized>(found: &[Found<H>], failed: &Failed, cases: &[&'static str]) {
    let mut problems = Vec::new();
    for (defect, expected, _) in found {
        assert!(cases.contains(expected), "{defect}: there is no case {expected}");
        let failed = &failed[defect];
        if !failed.contains(expected) {
            problems.push(format!("{defect} should be caught by {expected}, but is by {failed:?}"));
        }
    }
    for case in cases {
        if !failed.values().any(|failed| failed.contains(case)) {
            problems.push(format!("{case} catches nothing: it needs a defect of its own"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_broken_store_is_caught() {
    let cases: Vec<_> = store_suite().iter().map(|case| case.name).collect();
    let defects =
        [reader_defects::all(), store_defects::all(), transaction_defects::all(), inspection_defects::all()];
    let found = defects.concat();
    judge(&found, &run(&found, failed_store_cases), &cases);
}

#[test]
fn every_broken_publisher_is_caught() {
    let cases: Vec<_> = publisher_suite().iter().map(|case| case.name).collect();
    let found = publisher_defects::all();
    judge(&found, &run(&found, failed_publisher_cases), &cases);
}

#[test]
fn every_broken_inbox_is_caught() {
    let cases: Vec<_> = inbox_suite().iter().map(|case| case.name).collect();
    let found = inbox_defects::all();
    judge(&found, &run(&found, failed_inbox_cases), &cases);
    let sound = inbox_defects::Harness(inbox_defects::Defect::Nothing);
    assert_eq!(failed_inbox_cases(&sound), BTreeSet::new());
}
