//! The relays of a run.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use integration_tests::Subprocess;

use crate::clock::{Clock, Clocks};

/// How long a relay may take to stop when it is asked to, while a server may not answer.
const GRACE: Duration = Duration::from_secs(60);

/// Processes of this program.
#[derive(Debug)]
pub(crate) struct Relays {
    program: PathBuf,
    database: String,
    broker: String,
    clocks: Option<Clocks>,
    running: Vec<Running>,
    /// Relays that exited without being asked.
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
    /// Starts without relays. With `clocks`, each relay has a separate wall clock.
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

    /// Asks one relay to leave. It may have to give up messages in flight if its servers do not answer, and
    /// reports this by its status; but it must exit.
    pub(crate) async fn leave(&mut self, index: usize) {
        let mut relay = self.running.remove(index);
        relay.process.terminate();
        relay.process.wait(GRACE).await;
    }

    /// Replaces relays that have exited without being asked, and records this as a failure.
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

    /// Asks all relays to leave, now without failures.
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
