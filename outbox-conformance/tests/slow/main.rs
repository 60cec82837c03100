//! No case depends on the speed of the machine.
//!
//! The backends in memory run on a paused clock, and every call to them may take up to [`pace::LONGEST_STEP`]
//! longer, before it takes effect or after. A case that fails here fails on a busy machine, too. The delays
//! cost no real time.

#![allow(clippy::unwrap_used)] // All of this is test code; a panic in it fails a test.

#[path = "../support/mod.rs"]
mod support;

mod pace;
mod publisher;
mod store;

use std::future::Future;
use std::sync::{Arc, Mutex};

use outbox_conformance::{CaseResult, Stop, publisher_suite, store_suite};
use pace::Pace;

/// How many single steps of each case are tried. Long cases repeat themselves, so a sample of their steps is
/// enough.
const SAMPLED_STEPS: usize = 16;

/// How many times each case runs with delays at random.
const RANDOM_RUNS: usize = 4;

fn run<F: Future<Output = CaseResult>>(case: F) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(case) {
        Ok(()) | Err(Stop::NotApplicable(_)) => Ok(()),
        Err(stop) => Err(stop.to_string()),
    }
}

/// Runs all cases, each with every pace that `paces` returns for it, on as many threads as the machine has.
fn expect_success<C: Copy + Send>(
    cases: Vec<(&'static str, C)>,
    run_case: impl Fn(C, Arc<Pace>) -> Result<(), String> + Sync,
    paces: impl Fn(usize) -> Vec<Pace> + Sync,
) {
    let left = Mutex::new(cases.into_iter());
    let problems = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = left.lock().unwrap().next();
            let Some((name, case)) = next else { return };
            let undelayed = Arc::new(Pace::undelayed());
            let mut failures: Vec<String> = run_case(case, undelayed.clone())
                .err()
                .map(|text| format!("undelayed: {text}"))
                .into_iter()
                .collect();
            assert!(undelayed.steps() > 0, "{name} made no call that could be delayed");
            for pace in paces(undelayed.steps()) {
                let described = pace.to_string();
                failures
                    .extend(run_case(case, Arc::new(pace)).err().map(|text| format!("{described}: {text}")));
            }
            let count = failures.len();
            if let Some(first) = failures.into_iter().next() {
                problems.lock().unwrap().push(format!("{name} failed {count} times; {first}"));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Every step of a short case, and of a long case its first steps and a random sample of the others.
fn one_slow_step(steps: usize) -> Vec<Pace> {
    let mut chosen: Vec<usize> = (0..steps).collect();
    if steps > SAMPLED_STEPS {
        fastrand::shuffle(&mut chosen[SAMPLED_STEPS / 2..]);
        chosen.truncate(SAMPLED_STEPS);
    }
    chosen.into_iter().map(Pace::one_slow_step).collect()
}

fn random_delays(_: usize) -> Vec<Pace> {
    (0..RANDOM_RUNS).map(|_| Pace::random(fastrand::u64(..))).collect()
}

fn every_store_case(paces: impl Fn(usize) -> Vec<Pace> + Sync) {
    let cases = store_suite().into_iter().map(|case| (case.name, case)).collect();
    expect_success(
        cases,
        |case, pace| {
            let harness = store::SlowHarness::new(pace);
            run(async move { case.run(&harness).await })
        },
        paces,
    );
}

fn every_publisher_case(paces: impl Fn(usize) -> Vec<Pace> + Sync) {
    let cases = publisher_suite().into_iter().map(|case| (case.name, case)).collect();
    expect_success(
        cases,
        |case, pace| {
            let harness = publisher::SlowHarness::new(pace);
            run(async move { case.run(&harness).await })
        },
        paces,
    );
}

#[test]
fn store_cases_pass_with_one_slow_step() {
    every_store_case(one_slow_step);
}

#[test]
fn store_cases_pass_with_random_delays() {
    every_store_case(random_delays);
}

#[test]
fn publisher_cases_pass_with_one_slow_step() {
    every_publisher_case(one_slow_step);
}

#[test]
fn publisher_cases_pass_with_random_delays() {
    every_publisher_case(random_delays);
}
