//! Docker itself, for tests of an image, of containers that vanish from a network, and of a compose file.
//!
//! Every object created here has a unique name, and is removed with its value, or otherwise when the test
//! process ends. The methods wait for the Docker client, and panic with its error if it fails: a test that
//! wanted to disconnect a container proves nothing while the container is connected.

mod container;
mod image;
mod network;
mod project;

use std::path::PathBuf;
use std::process::{Command, Stdio};

pub use container::Container;
pub use image::Image;
pub use network::Network;
pub use project::Project;

use crate::availability::{Unavailable, available};
use crate::environment::Environment;
use crate::tool::Tool;

/// The Docker client, with a daemon that answers it.
#[derive(Clone, Debug)]
pub struct Docker {
    program: PathBuf,
}

impl Docker {
    /// The daemon of this machine.
    ///
    /// Returns `None` if no daemon answers or `OUTBOX_TEST_MODE` does not allow containers, and
    /// `OUTBOX_TEST_REQUIRE` does not name it. The skip has been reported, and the test must return.
    ///
    /// # Panics
    /// If no daemon answers and `OUTBOX_TEST_REQUIRE` names `docker`.
    pub fn find() -> Option<Self> {
        Self::find_in(&Environment::of_process())
    }

    pub(crate) fn find_in(environment: &Environment) -> Option<Self> {
        Some(Self { program: Tool::Docker.find_in(environment)? })
    }

    /// The full names of images, given by their names in `images/list`. An image that the daemon does not have is pulled.
    ///
    /// Returns `None` if an image can neither be found nor pulled, and `OUTBOX_TEST_REQUIRE` does not require
    /// it. The skip has been reported, and the test must return.
    ///
    /// # Panics
    /// If an image is missing and `OUTBOX_TEST_REQUIRE` is `all` or names `docker`.
    pub fn images<const N: usize>(&self, names: [&str; N]) -> Option<[&'static str; N]> {
        let environment = Environment::of_process();
        let mut found = [""; N];
        for (place, name) in found.iter_mut().zip(names) {
            let image = crate::container::listed(name);
            let present = || self.try_run(&["image", "inspect", image]).is_ok();
            let pulled =
                if present() { Ok(String::new()) } else { self.try_run(&["pull", "--quiet", image]) };
            *place = available(
                pulled.map(|_| image).map_err(|said| {
                    Unavailable::image(
                        name,
                        format!(
                            "the daemon has no image {image}, and its registry does not offer it ({said})"
                        ),
                    )
                }),
                &environment,
            )?;
        }
        Some(found)
    }

    /// Runs the client with these arguments, and returns its output, without the line break at its end.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|said| panic!("docker {arguments:?}: {said}"))
    }

    /// Like [`run`](Self::run).
    ///
    /// # Errors
    /// The error of the client if it failed.
    pub fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        finish(command.args(arguments))
    }

    /// Returns the daemon's information about a container, an image or a network, formatted by a Go template.
    ///
    /// # Panics
    /// If the object does not exist.
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.run(&["inspect", "--format", template, name])
    }
}

/// Runs a command to its end and returns its standard output. An error is its standard error.
fn finish(command: &mut Command) -> Result<String, String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

/// A unique name.
fn fresh_name() -> String {
    format!("outbox-test-{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::scratch::{Scratch, cleanup};

    /// As the script does it after a test process was killed.
    #[test]
    fn what_a_killed_test_has_made_is_removed() {
        // No server is needed, and therefore no image: this runs wherever there is a daemon.
        let environment =
            Environment::of_process().with("OUTBOX_TEST_MODE", "").with("OUTBOX_TEST_REQUIRE", "");
        let Some(docker) = Docker::find_in(&environment) else { return };
        let folder = Scratch::new("killed").unwrap();
        let [image, network, project] = ["image", "network", "project"].map(|kind| {
            let name = fresh_name();
            let server = folder.path().join(kind);
            fs::create_dir(&server).unwrap();
            fs::write(server.join(format!("{name}.{kind}")), format!("{name}\n")).unwrap();
            name
        });
        let context = folder.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
        docker.run(&["build", "--quiet", "--tag", &image, context.to_str().unwrap()]);
        docker.run(&["network", "create", &network]);
        let label = format!("com.docker.compose.project={project}");
        docker.run(&["network", "create", "--label", &label, &project]);
        docker.run(&["volume", "create", "--label", &label, &project]);
        docker.run(&[
            "create",
            "--label",
            &label,
            "--name",
            &project,
            "--network",
            &project,
            &image,
            "program",
        ]);

        let made = [("image", &image), ("network", &network)].into_iter();
        let made: Vec<_> =
            made.chain(["container", "network", "volume"].map(|kind| (kind, &project))).collect();
        for (kind, name) in &made {
            docker.run(&[kind, "inspect", name]);
        }
        assert!(cleanup(folder.path()).status().unwrap().success());
        for (kind, name) in &made {
            docker.try_run(&[kind, "inspect", name]).expect_err(kind);
        }
    }

    #[test]
    fn an_image_that_is_missing_is_a_skip_with_a_remedy() {
        let missing = Unavailable::image("runtime", "no registry".to_owned()).to_string();
        assert!(missing.contains("scripts/container-images runtime"), "{missing}");
    }
}
