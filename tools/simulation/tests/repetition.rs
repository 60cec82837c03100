//! A seed determines a run completely: whenever and wherever it is run, the same events happen.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

use std::process::Command;

use outbox_simulation::simulate;

/// Enough for a run in which the order of wake-ups matters.
const SEEDS: u64 = 300;

fn hashes(seeds: impl Iterator<Item = u64>) -> Vec<u64> {
    seeds.map(|seed| simulate(seed, false).trace.hash()).collect()
}

#[test]
fn every_world_repeats_on_another_thread_and_in_another_order() {
    let first = fastrand::u64(..1 << 48);
    println!("seeds from {first}");
    let seeds = first..first + SEEDS;
    // Both concurrently, so that they disturb each other if anything but the seed matters.
    let (forwards, mut backwards) = std::thread::scope(|scope| {
        let forwards = scope.spawn(|| hashes(seeds.clone()));
        let backwards = scope.spawn(|| hashes(seeds.clone().rev()));
        (forwards.join().unwrap(), backwards.join().unwrap())
    });
    backwards.reverse();
    for (seed, (once, again)) in seeds.zip(forwards.into_iter().zip(backwards)) {
        assert_eq!(once, again, "seed {seed} behaved differently the second time");
    }
}

#[test]
fn a_world_is_another_with_another_seed() {
    let mut hashes = hashes(0..50);
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 50, "seeds that share a trace");
}

#[test]
fn every_world_repeats_in_another_process() {
    let first = fastrand::u64(..1 << 48);
    println!("seeds from {first}");
    let sum = hashes(first..first + 50).into_iter().fold(0, u64::wrapping_add);
    let program = env!("CARGO_BIN_EXE_outbox-simulation");
    let run = Command::new(program).args(["--seeds", "50", "--first", &first.to_string()]).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(text.contains(&format!("sum of traces {sum:016x}")), "{sum:016x} here, and there: {text}");
}
