//! The relays of a run.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use integration_tests::Subprocess;

use crate::clock::{Clock, Clocks};

/// How long a relay may take to stop when it is asked to, with a server that may not answer.
const GRACE: Duration = Duration::from_secs(60);

/// Processes of the program itself.
#[derive(Debug)]
pub(crate) struct Relays {
    program: PathBuf,
    database: String,
    broker: String,
    clocks: Option<Clocks>,
    running: Vec<Running>,
    /// What ended in a way that nobody asked for.
    failures: Vec<String>,
}

#[derive(Debug)]
struct Running {
    process: Subprocess,
    clock: Option<Clock>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.clock.is_some() {
            Clock::forget(self.process.pid());
        }
    }
}

impl Relays {
    /// None yet. With `clocks`, each relay has a wall clock of its own.
    pub(crate) fn new(program: PathBuf, database: String, broker: String, clocks: Option<Clocks>) -> Self {
        Self { program, database, broker, clocks, running: Vec::new(), failures: Vec::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    pub(crate) fn join(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["relay", &self.database, &self.broker]).env("RUST_BACKTRACE", "1");
        let clock = self.clocks.as_ref().map(|clocks| clocks.give(&mut command));
        self.running.push(Running { process: Subprocess::start("relay", command), clock });
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.running.remove(index).process.kill();
    }

    pub(crate) fn stop(&self, index: usize) {
        self.running[index].process.stop();
    }

    pub(crate) fn cont(&self, index: usize) {
        self.running[index].process.cont();
    }

    pub(crate) fn jump(&self, index: usize, dice: usize) {
        self.running[index].clock.as_ref().expect("it was given a clock").jump(dice);
    }

    /// Asks one to leave. It may have to give up on what is in flight, if its servers do not answer, and says so by its
    /// status; but it must end.
    pub(crate) async fn leave(&mut self, index: usize) {
        let mut relay = self.running.remove(index);
        relay.process.terminate();
        relay.process.wait(GRACE).await;
    }

    /// Replaces those that have ended by themselves, and takes that down as a failure.
    pub(crate) fn look_after(&mut self) {
        for index in (0..self.running.len()).rev() {
            if let Some(status) = self.running[index].process.status() {
                let log = self.running.remove(index).process.log();
                let tail: String = log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
                self.failures
                    .push(format!("a relay ended by itself with {status}; the end of its log:\n{tail}"));
                self.join();
            }
        }
    }

    /// Asks all to leave, which nothing keeps them from any more.
    pub(crate) async fn end(&mut self) {
        for relay in &self.running {
            relay.process.terminate();
        }
        for mut relay in self.running.drain(..) {
            let status = relay.process.wait(GRACE).await;
            if !status.success() {
                self.failures.push(format!("a relay did not stop cleanly: {status}"));
            }
        }
    }
}
