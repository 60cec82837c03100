//! The `docker` program, for tests that run images of this project.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::availability::{Unavailable, Ways, available};
use crate::environment::Environment;
use crate::scratch::{Record, Scratch};

/// The name in `OUTBOX_TEST_REQUIRE`.
pub(crate) const NAME: &str = "docker";

/// The oldest version of Compose with which the tests run. `scripts/fetch-servers` has the same.
const COMPOSE: [u32; 2] = [2, 26];

/// A Docker daemon, which is controlled by the `docker` program.
///
/// Everything that a test creates carries [`label`](Self::label), or belongs to the Compose project
/// [`project`](Self::project). It is removed when this value is dropped, or else when the test process ends.
#[derive(Debug)]
pub struct Docker {
    project: String,
    _records: Vec<Record>,
    _scratch: Scratch,
}

impl Docker {
    /// Finds a daemon that has these images, and pulls the ones that it does not have.
    ///
    /// `None` means that the test has to return: there is no daemon or no image, or `OUTBOX_TEST_MODE` allows only
    /// processes. The skip has been reported.
    ///
    /// # Panics
    /// If `OUTBOX_TEST_REQUIRE` names `docker`, or a daemon answers and it is `all`, but an image is missing.
    pub fn with_images(images: &[&str]) -> Option<Self> {
        let environment = Environment::of_process();
        available(Self::find(&environment, images), &environment)
    }

    fn find(environment: &Environment, images: &[&str]) -> Result<Self, Unavailable> {
        if !Ways::of(environment).container {
            return Err(Unavailable::docker(vec!["OUTBOX_TEST_MODE is process".to_owned()], false));
        }
        if let Err(error) = docker(&["version", "--format", "{{.Server.Version}}"]) {
            return Err(Unavailable::docker(vec![format!("no Docker daemon answers: {error}")], false));
        }
        let missing: Vec<_> = images.iter().filter_map(|image| have(image).err()).collect();
        if missing.is_empty() {
            Self::new().map_err(|error| Unavailable::docker(vec![format!("no record: {error}")], true))
        } else {
            Err(Unavailable::docker(missing, true))
        }
    }

    fn new() -> io::Result<Self> {
        let project = format!("outbox-test-{:016x}", fastrand::u64(..));
        let scratch = Scratch::new("docker")?;
        let records =
            labels(&project).iter().map(|label| scratch.record_label(label)).collect::<Result<_, _>>()?;
        Ok(Self { project, _records: records, _scratch: scratch })
    }

    /// Name of the Compose project of this test, and prefix of its other names.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Returns the name of this test's container, network or volume `of`.
    pub fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.project)
    }

    /// The label of what this test creates: `docker run --label LABEL`.
    pub fn label(&self) -> String {
        label(&self.project)
    }

    /// Runs `docker` with these arguments, and returns its output.
    ///
    /// # Panics
    /// If it fails. The message contains its error output.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|error| panic!("docker {arguments:?}: {error}"))
    }

    /// Runs `docker` with these arguments, and returns its output.
    ///
    /// # Errors
    /// Its error output, if it fails.
    pub fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        docker(arguments)
    }

    /// Returns the host's address of a published port of a container, such as `127.0.0.1:32768`.
    ///
    /// # Panics
    /// If the port is not published.
    pub fn address(&self, container: &str, port: u16) -> String {
        let addresses = self.run(&["port", container, &port.to_string()]);
        addresses.lines().next().unwrap_or_else(|| panic!("{container} publishes no port {port}")).to_owned()
    }

    /// Returns the end of a container's log, with its error output.
    pub fn log(&self, container: &str) -> String {
        match command(&["logs", "--tail", "60", container]).output() {
            Ok(output) => said(&output),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for label in labels(&self.project) {
            remove(&label);
        }
    }
}

fn label(project: &str) -> String {
    format!("outbox-test={project}")
}

/// The labels of everything that a test has created, by itself and by Compose.
fn labels(project: &str) -> [String; 2] {
    [label(project), format!("com.docker.compose.project={project}")]
}

/// Removes everything with a label, as `cleanup.sh` does.
fn remove(label: &str) {
    let filter = format!("label={label}");
    for (list, remove) in [
        (&["ps", "--all", "--quiet", "--filter"][..], &["rm", "--force", "--volumes"][..]),
        (&["network", "ls", "--quiet", "--filter"], &["network", "rm"]),
        (&["volume", "ls", "--quiet", "--filter"], &["volume", "rm"]),
    ] {
        let found = docker(&[list, &[&filter]].concat()).unwrap_or_default();
        let found: Vec<_> = found.lines().collect();
        if !found.is_empty() {
            let _ = docker(&[remove, &found].concat());
        }
    }
}

/// An error unless the daemon has the image or can pull it.
fn have(image: &str) -> Result<(), String> {
    if docker(&["image", "inspect", "--format", "{{.Id}}", image]).is_ok() {
        return Ok(());
    }
    match docker(&["pull", "--quiet", image]) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("there is no image {image}, and it cannot be pulled: {error}")),
    }
}

/// The program that is Docker's plugin for Compose, if there is one that is new enough. It also runs without Docker's.
pub(crate) fn compose_plugin() -> Option<PathBuf> {
    let format = "{{range .ClientInfo.Plugins}}{{.Name}} {{.Version}} {{.Path}}\n{{end}}";
    let plugins = docker(&["info", "--format", format]).ok()?;
    plugins.lines().find_map(compose_in)
}

/// The path in a line `NAME VERSION PATH`, if the plugin is Compose and new enough.
fn compose_in(plugin: &str) -> Option<PathBuf> {
    let (version, path) = plugin.strip_prefix("compose ")?.split_once(' ')?;
    let numbers: Vec<u32> =
        version.trim_start_matches('v').split('.').map_while(|number| number.parse().ok()).take(2).collect();
    (numbers[..] >= COMPOSE[..]).then(|| PathBuf::from(path))
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::null());
    command
}

fn docker(arguments: &[&str]) -> Result<String, String> {
    let output = command(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(said(&output))
    }
}

fn said(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{error}").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_containers_docker_is_not_required_by_all() {
        let environment =
            Environment::from_pairs([("OUTBOX_TEST_MODE", "process"), ("OUTBOX_TEST_REQUIRE", "all")]);
        assert!(available(Docker::find(&environment, &[]), &environment).is_none());
    }

    #[test]
    #[should_panic(expected = "OUTBOX_TEST_REQUIRE names docker, which cannot be had")]
    fn docker_is_required_by_name() {
        let environment =
            Environment::from_pairs([("OUTBOX_TEST_MODE", "process"), ("OUTBOX_TEST_REQUIRE", "docker")]);
        available(Docker::find(&environment, &[]), &environment);
    }

    #[test]
    fn an_old_compose_is_not_used() {
        let found = |line: &str| compose_in(line).is_some();
        assert!(found("compose v2.26.1 /usr/libexec/docker/cli-plugins/docker-compose"));
        assert!(found("compose 2.27.1+ds1-0ubuntu1 /usr/libexec/docker/cli-plugins/docker-compose"));
        assert!(found("compose v5.0.0 /a folder/docker-compose"));
        for other in ["compose v2.9.0 /old", "compose v1.30.0 /older", "buildx v2.30.0 /other", "compose"] {
            assert!(!found(other), "{other}");
        }
    }

    #[test]
    fn what_a_test_created_is_removed() {
        let Some(docker) = Docker::with_images(&[]) else { return };
        let (name, label) = (docker.name("network"), docker.label());
        docker.run(&["network", "create", "--label", &label, &name]);
        docker.run(&["volume", "create", "--label", &label, &name]);
        drop(docker);
        let Some(docker) = Docker::with_images(&[]) else { return };
        for kind in ["network", "volume"] {
            assert!(docker.try_run(&[kind, "inspect", &name]).is_err(), "there is still a {kind} {name}");
        }
    }
}
