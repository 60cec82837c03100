//! Signals to a server and all its descendants.
//!
//! A signal to the first process alone is not enough: PostgreSQL's sessions are processes in separate
//! sessions, and keep answering while the first one is stopped.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually::poll_until_blocking;

/// Long compared with the time the kernel needs to end a process.
const GONE: Duration = Duration::from_secs(120);

/// Stops a process and its descendants.
pub(crate) fn stop_tree(pid: u32) -> Vec<u32> {
    let mut stopped = Vec::new();
    stop_into(pid, &mut stopped);
    stopped
}

fn stop_into(pid: u32, stopped: &mut Vec<u32>) {
    // Stopped before its children are listed, because a stopped process cannot fork.
    send(pid, Signal::STOP);
    // One of its threads receives the signal and stops the others. On a busy machine these may continue for a
    // while, and a server would answer.
    poll_until_blocking(GONE, || is_stopped(pid).then_some(()));
    for child in children(pid) {
        stop_into(child, stopped);
    }
    stopped.push(pid);
}

/// Continues a stopped process and its descendants.
pub(crate) fn continue_tree(pid: u32) {
    for child in children(pid) {
        continue_tree(child);
    }
    send(pid, Signal::CONT);
}

/// Asks a process to end.
pub(crate) fn terminate(pid: u32) {
    send(pid, Signal::TERM);
}

/// Returns the processor time that a process, its descendants, and its exited children and theirs have used
/// so far, in ticks of the system's clock.
pub(crate) fn ticks(pid: u32) -> u64 {
    let used = |pid: u32, fields: std::ops::RangeInclusive<usize>| -> u64 {
        let stat = stat(pid).unwrap_or_default();
        stat.get(fields).unwrap_or_default().iter().filter_map(|field| field.parse::<u64>().ok()).sum()
    };
    // Its own user and system time, and that of children that it has waited for.
    used(pid, 11..=14) + children(pid).into_iter().map(ticks).sum::<u64>()
}

/// Kills a process and its descendants, and returns their process ids.
pub(crate) fn kill_tree(pid: u32) -> Vec<u32> {
    let tree = stop_tree(pid);
    for &member in &tree {
        send(member, Signal::KILL);
    }
    tree
}

/// Waits until none of these processes runs. A zombie does not count as running.
pub(crate) fn wait_until_gone(pids: &[u32]) -> bool {
    poll_until_blocking(GONE, || pids.iter().all(|&pid| !runs(pid)).then_some(())).is_some()
}

fn send(pid: u32, signal: Signal) {
    // It may have exited meanwhile.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Returns the processes that any thread of this one has forked.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Whether no thread of a process runs.
fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let state = read_stat(&thread.path().join("stat")).and_then(|fields| fields.into_iter().next());
        state.is_none_or(|state| matches!(&*state, "T" | "t" | "Z" | "X"))
    })
}

fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z" && state != "X"))
}

/// Returns the start time of the process, in ticks since the system booted. Together with the process id it
/// identifies a process permanently.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

fn stat(pid: u32) -> Option<Vec<String>> {
    read_stat(Path::new(&format!("/proc/{pid}/stat")))
}

/// The fields of a file `stat` after the name, which may contain blanks and parentheses.
fn read_stat(file: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(file).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
