//! A project of Docker Compose.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Docker, finish, fresh_name};
use crate::scratch::{Record, Scratch};
use crate::tool::Tool;

/// Containers, networks and volumes of a compose file, under a unique name. They are removed when it is
/// dropped, or otherwise when the test process ends.
#[derive(Debug)]
pub struct Project {
    docker: Docker,
    compose: PathBuf,
    file: PathBuf,
    name: String,
    variables: Vec<(String, String)>,
    /// Emptied only by `drop`.
    record: Option<(Record, Scratch)>,
}

impl Docker {
    /// Creates a project of this compose file, without starting any of its services.
    ///
    /// Returns `None` if a new enough Docker Compose is missing and `OUTBOX_TEST_REQUIRE` does not name it.
    /// The skip has been reported, and the test must return.
    ///
    /// # Panics
    /// If it is missing and `OUTBOX_TEST_REQUIRE` names `compose`.
    pub fn compose(&self, file: &Path) -> Option<Project> {
        let compose = Tool::Compose.find()?;
        let name = fresh_name();
        let scratch = Scratch::new("compose").expect("a folder");
        let record = scratch.record_project(&name).expect("a record of the project");
        let (docker, file, record) = (self.clone(), file.to_owned(), Some((record, scratch)));
        Some(Project { docker, compose, file, name, variables: Vec::new(), record })
    }
}

impl Project {
    /// Sets a variable of the file.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Returns the port of this machine that leads to a port of a service. Docker has chosen it if the file asks for port 0.
    ///
    /// # Panics
    /// If the service is not running, or does not publish the port.
    pub fn port(&self, service: &str, port: u16) -> u16 {
        let address = self.run(&["port", service, &port.to_string()]);
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{address:?} is not an address"))
    }

    /// Runs Docker Compose with these arguments, and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|said| panic!("docker compose {arguments:?}: {said}"))
    }

    fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.compose);
        // The variables of the test process would take precedence over those in `.env`.
        command.env_clear().envs(
            ["PATH", "HOME", "DOCKER_HOST"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .args(["--project-name", &self.name, "--ansi", "never", "--file"])
            .arg(&self.file)
            .args(arguments);
        finish(&mut command)
    }

    /// The names of the containers of a service, in the order of their numbers.
    ///
    /// # Panics
    /// If Docker Compose fails.
    pub fn containers(&self, service: &str) -> Vec<String> {
        let names = self.run(&["ps", "--all", "--format", "{{.Name}}", service]);
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

impl Drop for Project {
    /// A failed test has waited for an action of a container; the logs show what it did instead.
    #[allow(clippy::print_stderr, reason = "a test's output is captured, and shown where it fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.try_run(&["logs", "--tail", "40"]).unwrap_or_else(|said| said);
            let state = self.try_run(&["ps", "--all"]).unwrap_or_else(|said| said);
            eprintln!("The containers of the project, and the ends of their logs:\n{state}\n{log}");
        }
        // Killed first, because an orderly stop would take longer.
        let _ = self.try_run(&["kill"]);
        let removed = self.try_run(&["down", "--volumes", "--timeout", "1"]).is_ok();
        let label = format!("label=com.docker.compose.project={}", self.name);
        let left = self.docker.try_run(&["ps", "--all", "--quiet", "--filter", &label]);
        if let Some((record, scratch)) = self.record.take()
            && !(removed && left.is_ok_and(|left| left.is_empty()))
        {
            scratch.leave(record);
        }
    }
}
