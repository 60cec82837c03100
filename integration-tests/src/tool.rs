//! Programs that a test runs as a user on another platform would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::availability::{Unavailable, Ways, available};
use crate::downloads;
use crate::environment::Environment;

/// Debian's folder for the sources of Go's PostgreSQL driver.
const GO_DRIVER: &str = "/usr/share/gocode/src/github.com/lib/pq";

/// A client program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tool {
    /// The browser.
    Chromium,
    /// The program that controls the browser.
    Chromedriver,
    /// Docker Compose.
    Compose,
    /// The Docker client, and a daemon that answers it. Not part of `all` on a machine without a daemon, or
    /// if `OUTBOX_TEST_MODE` excludes containers.
    Docker,
    /// The library that changes the wall clock of a program.
    Faketime,
    /// Go, with Debian's package of the PostgreSQL driver.
    Go,
    /// Node.
    Node,
    /// The PostgreSQL driver for Node: the folder that has `node_modules`.
    NodePg,
    /// A pooler of PostgreSQL's sessions: the folder into which it was unpacked.
    PgBouncer,
    /// The program that scrapes metrics and evaluates rules.
    Prometheus,
    /// The program that checks Prometheus rules.
    Promtool,
    /// The client of PostgreSQL.
    Psql,
    /// Python 3.
    Python3,
    /// The PostgreSQL driver for Python: a folder for `PYTHONPATH`.
    PythonPsycopg,
    /// The shell of SQLite.
    Sqlite3,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 15] = [
        Self::Chromium,
        Self::Chromedriver,
        Self::Compose,
        Self::Docker,
        Self::Faketime,
        Self::Go,
        Self::Node,
        Self::NodePg,
        Self::PgBouncer,
        Self::Prometheus,
        Self::Promtool,
        Self::Psql,
        Self::Python3,
        Self::PythonPsycopg,
        Self::Sqlite3,
    ];

    /// The name of the program, also in `OUTBOX_TEST_REQUIRE`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Chromedriver => "chromedriver",
            Self::Compose => "compose",
            Self::Docker => "docker",
            Self::Faketime => "faketime",
            Self::Go => "go",
            Self::Node => "node",
            Self::NodePg => "node-pg",
            Self::PgBouncer => "pgbouncer",
            Self::Prometheus => "prometheus",
            Self::Promtool => "promtool",
            Self::Psql => "psql",
            Self::Python3 => "python3",
            Self::PythonPsycopg => "python-psycopg",
            Self::Sqlite3 => "sqlite3",
        }
    }

    /// The Debian packages with the program, or with the tools that fetch it.
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Chromedriver => "chromium-driver",
            Self::Docker => "docker.io",
            Self::Faketime => "faketime",
            Self::Go => "golang-go golang-github-lib-pq-dev",
            Self::Node => "nodejs",
            Self::Compose | Self::NodePg | Self::PgBouncer => "debian-archive-keyring",
            Self::Prometheus | Self::Promtool => "prometheus",
            Self::Psql => "postgresql-client",
            Self::Python3 => "python3",
            Self::PythonPsycopg => "python3-venv",
            Self::Sqlite3 => "sqlite3",
        }
    }

    /// Returns the program's file, or the folder of the fetched files.
    ///
    /// Returns `None` if there is no such program and it is not required. The skip has been reported, and the
    /// test must return.
    ///
    /// # Panics
    /// If there is no such program and `OUTBOX_TEST_REQUIRE` names it.
    pub fn find(self) -> Option<PathBuf> {
        self.find_in(&Environment::of_process())
    }

    /// Like [`find`](Self::find), with variables chosen by the caller.
    ///
    /// # Panics
    /// Like [`find`](Self::find).
    pub fn find_in(self, environment: &Environment) -> Option<PathBuf> {
        available(self.locate(environment), environment)
    }

    fn locate(self, environment: &Environment) -> std::result::Result<PathBuf, Unavailable> {
        let name = self.name();
        match self {
            Self::Docker => return docker(environment),
            Self::Compose => {
                return compose(environment).map_err(|error| Unavailable::tool(self, format!("{error:#}")));
            }
            _ => {}
        }
        if matches!(self, Self::NodePg | Self::PgBouncer | Self::PythonPsycopg) {
            return downloads::folder(environment, name)
                .map_err(|error| Unavailable::tool(self, format!("{error:#}")));
        }
        if self == Self::Go && !Path::new(GO_DRIVER).is_dir() {
            return Err(Unavailable::tool(self, format!("there is no {GO_DRIVER}")));
        }
        let elsewhere = || match self {
            Self::Psql => {
                postgres_folders().into_iter().map(|bin| bin.join(name)).find(|file| file.is_file())
            }
            _ => None,
        };
        let found = environment.find_program(name).or_else(elsewhere);
        found.ok_or_else(|| Unavailable::tool(self, format!("no program {name} in any folder of PATH")))
    }
}

/// The Docker client. Its absence is not part of `all`: many machines have no daemon, and a test cannot
/// install one.
fn docker(environment: &Environment) -> std::result::Result<PathBuf, Unavailable> {
    let without = |reason: String| Unavailable::tool(Tool::Docker, reason).out_of_reach();
    if !Ways::of(environment).container {
        return Err(without("OUTBOX_TEST_MODE does not allow containers".to_owned()));
    }
    let program = environment.find_program(Tool::Docker.name());
    let program = program.ok_or_else(|| without("no program docker in any folder of PATH".to_owned()))?;
    output(Command::new("timeout").arg("20").arg(&program).args([
        "version",
        "--format",
        "{{.Server.Version}}",
    ]))
    .map_err(|error| without(format!("no Docker daemon answers: {error:#}")))?;
    Ok(program)
}

/// The oldest version of Docker Compose with which the tests run. `scripts/fetch-servers` has the same.
const COMPOSE: [u32; 2] = [2, 26];

/// The program of Docker Compose: the fetched one, or the plugin of Docker, which also runs alone.
fn compose(environment: &Environment) -> Result<PathBuf> {
    let program = match downloads::folder(environment, Tool::Compose.name()) {
        Ok(folder) => folder.join("docker-compose"),
        Err(error) => {
            let plugin = "{{range .ClientInfo.Plugins}}{{if eq .Name \"compose\"}}{{.Path}}{{end}}{{end}}";
            let found = output(Command::new("docker").args(["info", "--format", plugin])).unwrap_or_default();
            ensure!(!found.is_empty(), "Docker has no plugin for Compose, and {error:#}");
            PathBuf::from(found)
        }
    };
    let version = output(Command::new(&program).args(["version", "--short"]))?;
    let numbers: Vec<u32> =
        version.trim_start_matches('v').split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    ensure!(
        numbers.as_slice() >= &COMPOSE[..],
        "{} is of version {version}, and 2.26 is needed",
        program.display()
    );
    Ok(program)
}

/// Returns the output of a command, without the line break at its end. Returns its error output if it fails.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Debian's folder for the programs of PostgreSQL, the newest version first.
pub(crate) fn postgres_folders() -> Vec<PathBuf> {
    newest_first(Path::new("/usr/lib/postgresql"))
}

/// The folders `VERSION/bin` below `root`, the newest version first.
fn newest_first(root: &Path) -> Vec<PathBuf> {
    let mut versions: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|left, right| right.cmp(left));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn versions_are_compared_as_numbers() {
        let root = Scratch::new("versions").unwrap();
        for version in ["9.6", "15", "9.10", "100", "lib", "17"] {
            fs::create_dir(root.path().join(version)).unwrap();
        }
        let found: Vec<_> = newest_first(root.path())
            .iter()
            .map(|bin| bin.strip_prefix(root.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(found, ["100/bin", "17/bin", "15/bin", "9.10/bin", "9.6/bin"]);
        assert!(newest_first(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn a_tool_is_found_where_programs_are() {
        let folder = Scratch::new("tool").unwrap();
        let path = folder.path().to_str().unwrap();
        let environment = Environment::from_pairs([("PATH", path)]);
        assert!(Tool::Sqlite3.locate(&environment).is_err());
        let program = folder.path().join("sqlite3");
        fs::write(&program, "").unwrap();
        assert_eq!(Tool::Sqlite3.locate(&environment).unwrap(), program);
    }

    #[test]
    fn a_machine_without_docker_has_all_that_it_could_have() {
        let environment = Environment::from_pairs([("PATH", "/nonexistent"), ("OUTBOX_TEST_REQUIRE", "all")]);
        assert_eq!(Tool::Docker.find_in(&environment), None);
        let processes = Environment::of_process().with("OUTBOX_TEST_MODE", "process");
        let refusal = Tool::Docker.locate(&processes).unwrap_err().to_string();
        assert!(refusal.contains("OUTBOX_TEST_MODE does not allow containers"), "{refusal}");
    }

    #[test]
    #[should_panic(expected = "OUTBOX_TEST_REQUIRE names docker, which cannot be had")]
    fn docker_that_is_required_is_not_skipped() {
        Tool::Docker
            .find_in(&Environment::from_pairs([("OUTBOX_TEST_REQUIRE", "docker"), ("PATH", "/nonexistent")]));
    }

    #[test]
    #[should_panic(expected = "OUTBOX_TEST_REQUIRE names python3, which cannot be had")]
    fn a_tool_that_is_required_is_not_skipped() {
        Tool::Python3.find_in(&Environment::from_pairs([("OUTBOX_TEST_REQUIRE", "postgres,python3")]));
    }
}
