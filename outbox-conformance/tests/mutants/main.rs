//! Stores and publishers that break one rule each, and the cases that must notice.
//!
//! Every defect must be caught by the case that is named beside it, and every case must catch some defect: a case
//! that cannot fail proves nothing.

#[path = "../support/mod.rs"]
mod support;

mod publisher_defects;
mod reader_defects;
mod store_defects;
mod transaction_defects;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use outbox_conformance::{PublisherHarness, Stop, StoreHarness, StoreTraits, publisher_suite, store_suite};

/// What does not come is not waited for long, even if the clock is paused: looking costs time.
fn impatient() -> StoreTraits {
    StoreTraits::default().deadline(Duration::from_secs(4))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs every case for stores, and returns the names of those that failed.
fn failed_store_cases(harness: &dyn StoreHarness) -> BTreeSet<&'static str> {
    let failed = store_suite().into_iter().filter(|case| {
        // A panic, say of a database driver that meets nonsense, is a failure like any other.
        let run = AssertUnwindSafe(case.run(harness)).catch_unwind();
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

/// A defect, the case that must catch it, and what to run the cases on.
type Found<H> = (String, &'static str, Arc<H>);

/// Fails unless every defect was caught by the case that should, and every case has caught something.
fn judge(caught: Vec<(String, &'static str, BTreeSet<&'static str>)>, cases: &[&'static str]) {
    let mut problems = Vec::new();
    let mut useful: BTreeMap<&str, usize> = BTreeMap::new();
    for (defect, expected, failed) in caught {
        assert!(cases.contains(&expected), "{defect}: there is no case {expected}");
        if !failed.contains(expected) {
            problems.push(format!("{defect} should be caught by {expected}, but is by {failed:?}"));
        }
        for case in failed {
            *useful.entry(case).or_default() += 1;
        }
    }
    for case in cases {
        if !useful.contains_key(case) {
            problems.push(format!("{case} catches nothing: it needs a defect of its own"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_broken_store_is_caught() {
    let cases: Vec<_> = store_suite().iter().map(|case| case.name).collect();
    let all = [reader_defects::all(), store_defects::all(), transaction_defects::all()].concat();
    // A defect that two cases must catch is listed twice, and run once.
    let mut failed: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    let caught = all.into_iter().map(|(name, case, harness)| {
        let failed = failed.entry(name.clone()).or_insert_with(|| failed_store_cases(&*harness));
        (name, case, failed.clone())
    });
    judge(caught.collect(), &cases);
}

#[test]
fn every_broken_publisher_is_caught() {
    let cases: Vec<_> = publisher_suite().iter().map(|case| case.name).collect();
    let mut failed: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    let caught = publisher_defects::all().into_iter().map(|(name, case, harness)| {
        let failed = failed.entry(name.clone()).or_insert_with(|| failed_publisher_cases(&*harness));
        (name, case, failed.clone())
    });
    judge(caught.collect(), &cases);
}
