//! The relays of a run.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use integration_tests::Subprocess;

/// How long a relay may take to stop when it is asked to, with a server that may not answer.
const GRACE: Duration = Duration::from_secs(60);

/// Processes of the program itself.
#[derive(Debug)]
pub(crate) struct Relays {
    program: PathBuf,
    database: String,
    broker: String,
    running: Vec<Subprocess>,
    /// What ended in a way that nobody asked for.
    failures: Vec<String>,
}

impl Relays {
    /// None yet.
    pub(crate) fn new(program: PathBuf, database: String, broker: String) -> Self {
        Self { program, database, broker, running: Vec::new(), failures: Vec::new() }
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
        self.running.push(Subprocess::start("relay", command));
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.running.remove(index).kill();
    }

    pub(crate) fn stop(&self, index: usize) {
        self.running[index].stop();
    }

    pub(crate) fn cont(&self, index: usize) {
        self.running[index].cont();
    }

    /// Asks one to leave. It may have to give up on what is in flight, if its servers do not answer, and says so by its
    /// status; but it must end.
    pub(crate) async fn leave(&mut self, index: usize) {
        let mut relay = self.running.remove(index);
        relay.terminate();
        relay.wait(GRACE).await;
    }

    /// Replaces those that have ended by themselves, and takes that down as a failure.
    pub(crate) fn look_after(&mut self) {
        for index in (0..self.running.len()).rev() {
            if let Some(status) = self.running[index].status() {
                let log = self.running.remove(index).log();
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
            relay.terminate();
        }
        for mut relay in self.running.drain(..) {
            let status = relay.wait(GRACE).await;
            if !status.success() {
                self.failures.push(format!("a relay did not stop cleanly: {status}"));
            }
        }
    }
}
