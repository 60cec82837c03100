//! A container of a program under test.

use super::{Docker, fresh_name};
use crate::scratch::{Record, Scratch};

/// Number of lines at the end of a log that a failing test shows.
const LOG_TAIL: &str = "60";

/// A container, which is removed when dropped, or otherwise when the test process ends. Unlike the containers
/// of servers it may exist without having been started.
#[derive(Debug)]
pub struct Container {
    docker: Docker,
    name: String,
    /// Emptied only by `drop`.
    record: Option<(Record, Scratch)>,
}

impl Docker {
    /// Creates a container of an image with these options of `docker create` and this command, and does not
    /// start it.
    ///
    /// # Panics
    /// If the daemon refuses it.
    pub fn container(&self, image: &str, options: &[&str], command: &[&str]) -> Container {
        let name = fresh_name();
        let scratch = Scratch::new("container").expect("a folder");
        let record = scratch.record_container(&name).expect("a record of the container");
        self.run(&[&["create", "--name", &name], options, &[image], command].concat());
        Container { docker: self.clone(), name, record: Some((record, scratch)) }
    }
}

impl Container {
    /// The name of the container.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(&self) {
        self.docker.run(&["start", &self.name]);
    }

    /// Pauses its processes. Connections stay open, and nothing is answered.
    ///
    /// # Panics
    /// If it is not running.
    pub fn pause(&self) {
        self.docker.run(&["pause", &self.name]);
    }

    /// Resumes a paused container.
    ///
    /// # Panics
    /// If it was not paused.
    pub fn unpause(&self) {
        self.docker.run(&["unpause", &self.name]);
    }

    /// Asks its program to exit, and kills it if it still runs after `seconds`. Returns its exit code, which
    /// is 137 if it was killed.
    ///
    /// # Panics
    /// If the daemon does not answer.
    pub fn stop(&self, seconds: u32) -> i32 {
        self.docker.run(&["stop", "--time", &seconds.to_string(), &self.name]);
        let code = self.docker.inspect(&self.name, "{{.State.ExitCode}}");
        code.parse().unwrap_or_else(|_| panic!("{code:?} is not an exit code"))
    }

    /// Returns the output of its program so far, from both streams.
    ///
    /// # Panics
    /// If the daemon does not answer.
    pub fn log(&self) -> String {
        // The client writes each stream to its own.
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$0\" logs \"$1\" 2>&1"]).arg(&self.docker.program).arg(&self.name);
        super::finish(&mut command).unwrap_or_else(|said| panic!("docker logs: {said}"))
    }
}

impl Drop for Container {
    /// A failed test has waited for an action of the program; its log shows what it did instead.
    #[allow(clippy::print_stderr, reason = "a test's output is captured, and shown where it fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "exec \"$0\" logs --tail \"$1\" \"$2\" 2>&1"]);
            command.arg(&self.docker.program).args([LOG_TAIL, &self.name]);
            let log = super::finish(&mut command).unwrap_or_else(|said| said);
            eprintln!("The end of the log of the container {}:\n{log}", self.name);
        }
        let removed = self.docker.try_run(&["rm", "--force", "--volumes", &self.name]).is_ok();
        if let Some((record, scratch)) = self.record.take()
            && !removed
        {
            scratch.leave(record);
        }
    }
}
