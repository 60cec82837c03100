//! A container of a program under test.

use super::{Docker, fresh_name};
use crate::scratch::{Record, Scratch};

/// The end of a log that a failing test shows, in lines.
const LOG_TAIL: &str = "60";

/// A container, which is removed when dropped, or else when the test process ends. Unlike the containers of servers it need
/// not have been started.
#[derive(Debug)]
pub struct Container {
    docker: Docker,
    name: String,
    /// Emptied by `drop` alone.
    record: Option<(Record, Scratch)>,
}

impl Docker {
    /// Makes a container of an image with these options of `docker create` and this command, and does not start it.
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

    /// Stops its processes where they are. Connections stay open, and nothing is answered.
    ///
    /// # Panics
    /// If it does not run.
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

    /// Asks its program to end, and kills it if it still runs after `seconds`. Returns its exit code, which is 137 if it was
    /// killed.
    ///
    /// # Panics
    /// If the daemon does not answer.
    pub fn stop(&self, seconds: u32) -> i32 {
        self.docker.run(&["stop", "--time", &seconds.to_string(), &self.name]);
        let code = self.docker.inspect(&self.name, "{{.State.ExitCode}}");
        code.parse().unwrap_or_else(|_| panic!("{code:?} is not an exit code"))
    }

    /// What its program has printed so far, on both of its outputs.
    ///
    /// # Panics
    /// If the daemon does not answer.
    pub fn log(&self) -> String {
        // The client sends each output to its own.
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$0\" logs \"$1\" 2>&1"]).arg(&self.docker.program).arg(&self.name);
        super::finish(&mut command).unwrap_or_else(|said| panic!("docker logs: {said}"))
    }
}

impl Drop for Container {
    /// A test that fails has waited for the program to do something; what it did instead is in its log.
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
