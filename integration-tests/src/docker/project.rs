//! A project of Docker Compose.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Docker, finish, fresh_name};
use crate::scratch::{Record, Scratch};
use crate::tool::Tool;

/// Containers, networks and volumes of a compose file, under a unique name. They are removed when it is dropped, or
/// else when the test process ends.
#[derive(Debug)]
pub struct Project {
    docker: Docker,
    compose: PathBuf,
    file: PathBuf,
    name: String,
    variables: Vec<(String, String)>,
    /// Emptied by `drop` alone.
    record: Option<(Record, Scratch)>,
}

impl Docker {
    /// A project of this compose file, of which nothing runs yet.
    ///
    /// `None` means that the test is to return, because a Docker Compose that is new enough is missing and
    /// `OUTBOX_TEST_REQUIRE` does not name it; the skip has been reported already.
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
    /// If the service does not run, or does not publish the port.
    pub fn port(&self, service: &str, port: u16) -> u16 {
        let address = self.run(&["port", service, &port.to_string()]);
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{address:?} is not an address"))
    }

    /// Runs Docker Compose with these arguments, and returns what it printed.
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
    /// A test that fails has waited for a container to do something; what it did instead is in the logs.
    #[allow(clippy::print_stderr, reason = "a test's output is captured, and shown where it fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.try_run(&["logs", "--tail", "40"]).unwrap_or_else(|said| said);
            let state = self.try_run(&["ps", "--all"]).unwrap_or_else(|said| said);
            eprintln!("The containers of the project, and the ends of their logs:\n{state}\n{log}");
        }
        // Killed first, because an orderly end would take longer.
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
