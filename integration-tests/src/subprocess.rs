//! A program of this repository as a separate process, which a test can kill.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::eventually::poll_until;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::signal;

/// A process of a program of this repository, such as a relay, which a test can kill. It is killed when
/// dropped, and does not outlive the test process. If the test fails, the end of its log is shown.
///
/// All methods panic when the system refuses the operation.
///
/// ```no_run
/// use std::process::Command;
/// use integration_tests::Subprocess;
///
/// # async fn example() {
/// let mut command = Command::new(env!("CARGO_PKG_NAME")); // in a test: env!("CARGO_BIN_EXE_...")
/// command.env("DATABASE_URL", "postgres://...");
/// let mut relay = Subprocess::start("relay", command);
/// relay.kill();
/// # }
/// ```
#[derive(Debug)]
pub struct Subprocess {
    process: Process,
    name: String,
    // Declared after the process: the folder is removed when the process is gone.
    _scratch: Scratch,
}

impl Subprocess {
    /// Starts a process without an input. Its output goes to its [`log`](Self::log).
    ///
    /// # Panics
    /// If the program does not exist.
    pub fn start(name: &str, command: Command) -> Self {
        let start = || {
            let scratch = Scratch::new(name)?;
            let process = Process::start(command, name, &scratch)?;
            anyhow::Ok(Self { process, name: name.to_owned(), _scratch: scratch })
        };
        start().unwrap_or_else(|error| panic!("cannot start {name}: {error:#}"))
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns its output so far, from both streams.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns how the process exited, or `None` while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.process.status().unwrap_or_else(|error| panic!("cannot query {}: {error}", self.name))
    }

    /// Kills the process and its descendants (`SIGKILL`), and returns when they have ended.
    pub fn kill(&mut self) -> ExitStatus {
        self.process.kill().unwrap_or_else(|error| panic!("cannot kill {}: {error:#}", self.name))
    }

    /// Kills the process but not its descendants (`SIGKILL`).
    pub fn kill_alone(&mut self) -> ExitStatus {
        self.process.kill_alone().unwrap_or_else(|error| panic!("cannot kill {}: {error}", self.name))
    }

    /// Stops the process and its descendants (`SIGSTOP`).
    pub fn stop(&self) {
        signal::stop_tree(self.pid());
    }

    /// Continues a stopped process (`SIGCONT`).
    pub fn cont(&self) {
        signal::continue_tree(self.pid());
    }

    /// Asks the process to end (`SIGTERM`).
    pub fn terminate(&self) {
        signal::terminate(self.pid());
    }

    /// Waits until the process exits.
    ///
    /// # Panics
    /// If it has not exited when `deadline` has passed. The message contains the end of its log.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let this = std::sync::Mutex::new(&mut *self);
        let status = poll_until(deadline, || async {
            this.lock().unwrap_or_else(std::sync::PoisonError::into_inner).status()
        })
        .await;
        status.unwrap_or_else(|| {
            panic!(
                "{} still runs after {deadline:?}. The end of its log:\n{}",
                self.name,
                self.process.log_tail()
            )
        })
    }
}

impl Drop for Subprocess {
    /// A failed test has waited for an action of the process; its log shows what it did instead.
    #[allow(clippy::print_stderr, reason = "a test's output is captured, and shown if it fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The end of the log of {}:\n{}", self.name, self.process.log_tail());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::eventually::eventually;

    const DEADLINE: Duration = Duration::from_secs(120);

    fn shell(script: &str) -> Subprocess {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Subprocess::start("shell", command)
    }

    async fn says(process: &Subprocess, text: &str) {
        eventually(text, DEADLINE, || async { process.log().contains(text).then_some(()) }).await;
    }

    #[tokio::test]
    async fn a_kill_leaves_no_time_for_anything() {
        let mut process = shell("trap 'echo bye' EXIT TERM; echo up; while :; do sleep 0.01; done");
        says(&process, "up").await;
        assert!(process.status().is_none());
        assert_eq!(process.kill().signal(), Some(9));
        assert_eq!(process.log(), "up\n");
        assert!(process.status().is_some());
    }

    #[tokio::test]
    async fn a_process_that_is_asked_to_end_says_good_bye() {
        let mut process = shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done");
        says(&process, "up").await;
        process.terminate();
        assert_eq!(process.wait(DEADLINE).await.code(), Some(3));
        assert_eq!(process.log(), "up\nbye\n");
    }

    #[tokio::test]
    async fn a_stopped_process_goes_on_where_it_was() {
        let mut process = shell("trap 'echo asked; exit' TERM; echo up; while :; do sleep 0.01; done");
        says(&process, "up").await;
        process.stop();
        // Delivered when it continues.
        process.terminate();
        assert!(tokio::time::timeout(Duration::from_millis(200), process.wait(DEADLINE)).await.is_err());
        process.cont();
        assert!(process.wait(DEADLINE).await.success());
        assert_eq!(process.log(), "up\nasked\n");
    }

    #[tokio::test]
    #[should_panic(expected = "shell still runs after 50ms. The end of its log:\nup\n")]
    async fn the_log_says_why_a_process_does_not_end() {
        let mut process = shell("echo up; sleep 1000");
        says(&process, "up").await;
        process.wait(Duration::from_millis(50)).await;
    }
}
