//! `outbox-simulation`: see the crate's README.

// To say what it has found is its job.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use outbox_simulation::simulate;

/// Runs the relay in simulations with random failures, one for each seed.
///
/// Exit codes: 0 if no run broke a rule, 1 if one did.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of runs.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed; each further run adds one. Default: a random seed, which is printed.
    #[arg(long)]
    first: Option<u64>,
    /// Run only this seed, and print all its events.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Run each seed twice, and fail if the second run differs.
    #[arg(long)]
    twice: bool,
    /// Continue after a run that broke a rule.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed),
        None => many(&arguments),
    }
}

fn one(seed: u64) -> ExitCode {
    let outcome = simulate(seed, true);
    for line in outcome.trace.lines() {
        println!("{line}");
    }
    println!("{}", outcome.verdict);
    if let Some(failure) = &outcome.failure {
        println!("FAILED: {failure}");
    }
    println!("trace {:016x}, drained in {:.1?} of virtual time", outcome.trace.hash(), outcome.drained);
    if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn many(arguments: &Arguments) -> ExitCode {
    let first = arguments.first.unwrap_or_else(|| fastrand::u64(..1 << 48));
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let (broken, arrived, duplicates, slowest, traces) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        while arguments.keep_going || broken.load(Ordering::Relaxed) == 0 {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            if offset >= arguments.seeds {
                break;
            }
            let seed = first.wrapping_add(offset);
            let outcome = simulate(seed, false);
            arrived.fetch_add(outcome.verdict.arrived, Ordering::Relaxed);
            duplicates.fetch_add(outcome.verdict.duplicates, Ordering::Relaxed);
            slowest.fetch_max(outcome.drained.as_millis() as u64, Ordering::Relaxed);
            traces.fetch_add(outcome.trace.hash(), Ordering::Relaxed);
            if arguments.twice {
                let again = simulate(seed, false).trace.hash();
                if again != outcome.trace.hash() {
                    broken.fetch_add(1, Ordering::Relaxed);
                    println!(
                        "seed {seed}: trace {:016x}, and {again:016x} the second time",
                        outcome.trace.hash()
                    );
                }
            }
            if !outcome.is_clean() {
                broken.fetch_add(1, Ordering::Relaxed);
                let failure = outcome.failure.unwrap_or_default();
                println!("seed {seed}: {} {failure}", outcome.verdict);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let seeds = load(&next).min(arguments.seeds);
    println!(
        "{seeds} seeds from {first}: {} broken; {} messages arrived, {} of them repeats; the slowest drained in {:.1?} of \
         virtual time; {:.0} seeds a second; sum of traces {:016x}",
        load(&broken),
        load(&arrived),
        load(&duplicates),
        Duration::from_millis(load(&slowest)),
        seeds as f64 / began.elapsed().as_secs_f64(),
        load(&traces),
    );
    if load(&broken) == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
