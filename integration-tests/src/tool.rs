//! Programs that a test runs as somebody on another platform would.

use std::fs;
use std::path::{Path, PathBuf};

use crate::availability::{Unavailable, available};
use crate::downloads;
use crate::environment::Environment;

/// Where Debian puts the sources of Go's driver for PostgreSQL.
const GO_DRIVER: &str = "/usr/share/gocode/src/github.com/lib/pq";

/// A client program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tool {
    /// The browser.
    Chromium,
    /// What drives the browser.
    Chromedriver,
    /// What gives a program another wall clock.
    Faketime,
    /// Go, with the driver for PostgreSQL that Debian packages for it.
    Go,
    /// Node.
    Node,
    /// The driver of PostgreSQL for Node: the folder that has `node_modules`.
    NodePg,
    /// A pooler of PostgreSQL's sessions: the folder into which it was unpacked.
    PgBouncer,
    /// What scrapes metrics, and watches over them by rules.
    Prometheus,
    /// What checks rules of Prometheus.
    Promtool,
    /// The client of PostgreSQL.
    Psql,
    /// Python 3.
    Python3,
    /// The driver of PostgreSQL for Python: a folder for `PYTHONPATH`.
    PythonPsycopg,
    /// The shell of SQLite.
    Sqlite3,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 13] = [
        Self::Chromium,
        Self::Chromedriver,
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

    /// The name of the program, and the one in `OUTBOX_TEST_REQUIRE`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Chromedriver => "chromedriver",
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

    /// The Debian packages with the program, or with what it takes to fetch it.
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Chromedriver => "chromium-driver",
            Self::Faketime => "faketime",
            Self::Go => "golang-go golang-github-lib-pq-dev",
            Self::Node => "nodejs",
            Self::NodePg | Self::PgBouncer => "debian-archive-keyring",
            Self::Prometheus | Self::Promtool => "prometheus",
            Self::Psql => "postgresql-client",
            Self::Python3 => "python3",
            Self::PythonPsycopg => "python3-venv",
            Self::Sqlite3 => "sqlite3",
        }
    }

    /// The program's file, or the folder of what was fetched.
    ///
    /// `None` means that the test is to return, because there is no such program here and nobody requires it; the
    /// skip has been reported already.
    ///
    /// # Panics
    /// If there is no such program and `OUTBOX_TEST_REQUIRE` names it.
    pub fn find(self) -> Option<PathBuf> {
        self.find_in(&Environment::of_process())
    }

    /// As [`find`](Self::find), with variables of the caller's choice.
    ///
    /// # Panics
    /// As [`find`](Self::find).
    pub fn find_in(self, environment: &Environment) -> Option<PathBuf> {
        available(self.locate(environment), environment)
    }

    fn locate(self, environment: &Environment) -> Result<PathBuf, Unavailable> {
        let name = self.name();
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

/// Where Debian puts the programs of PostgreSQL, the newest version first.
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
    #[should_panic(expected = "OUTBOX_TEST_REQUIRE names python3, which cannot be had")]
    fn a_tool_that_is_required_is_not_skipped() {
        Tool::Python3.find_in(&Environment::from_pairs([("OUTBOX_TEST_REQUIRE", "postgres,python3")]));
    }
}
