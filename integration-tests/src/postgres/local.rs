//! PostgreSQL from the programs installed on this machine.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::downloads;
use crate::environment::Environment;
use crate::launch::{Launch, LocalServer, User, find_folder, named_folder};
use crate::scratch::Scratch;
use crate::tool::postgres_folders;

/// The folder with the programs `initdb` and `postgres`.
const BIN: &str = "OUTBOX_TEST_POSTGRES_BIN";
/// The folder of the newer version.
const NEXT_BIN: &str = "OUTBOX_TEST_POSTGRES_NEXT_BIN";

/// The options for creating a data directory, in a process as in a container.
pub(super) const INITDB: [&str; 3] = ["--encoding=UTF8", "--locale=C", "--no-sync"];

/// The settings of a server for tests, in a process as in a container.
///
/// The operating system keeps written data even if the server is killed, and no test cuts the power. So
/// `fsync` may be off, but not `synchronous_commit`: without it a killed server may lose confirmed data.
pub(super) fn settings(durable: bool) -> Vec<&'static str> {
    let disk =
        if durable { ["fsync=on", "full_page_writes=on"] } else { ["fsync=off", "full_page_writes=off"] };
    let others =
        ["max_connections=200", "wal_level=logical", "max_wal_senders=10", "max_replication_slots=10"];
    disk.into_iter().chain(others).flat_map(|setting| ["-c", setting]).collect()
}

/// An installed PostgreSQL.
#[derive(Debug)]
pub struct Installation {
    bin: PathBuf,
    user: Option<User>,
    durable: bool,
}

impl Installation {
    pub(super) fn of_the_system(environment: &Environment) -> Result<Self> {
        let bin = find_folder(environment, BIN, "postgres", postgres_folders())?;
        Ok(Self { bin, user: User::for_server("postgres")?, durable: environment.durable() })
    }

    pub(super) fn downloaded(environment: &Environment) -> Result<Self> {
        let bin = match named_folder(environment, NEXT_BIN, "postgres")? {
            Some(bin) => bin,
            None => downloads::folder(environment, "postgres-next")?.join("bin"),
        };
        Ok(Self { bin, user: User::for_server("postgres")?, durable: environment.durable() })
    }

    pub(super) fn launch(&self, port: u16) -> Result<LocalServer> {
        let scratch = Scratch::new("postgres")?;
        User::own(self.user, scratch.path())?;
        self.initdb(scratch.path())?;
        let data = data(scratch.path());
        let port = port.to_string();
        let own = [
            ["-D", &data],
            ["-p", &port],
            ["-h", "127.0.0.1"],
            // The path of a socket is limited to about a hundred characters; the path of a temporary folder
            // is not.
            ["-c", "unix_socket_directories="],
        ];
        let arguments = [&own.concat()[..], &settings(self.durable)].concat();
        LocalServer::start(vec![self.command("postgres", arguments)], scratch)
    }

    fn initdb(&self, folder: &Path) -> Result<()> {
        let data = data(folder);
        let own = ["-D", &data, "-U", "postgres", "-A", "trust", "--no-instructions"];
        let arguments = [&own[..], &INITDB].concat();
        self.command("initdb", arguments).run(folder)?;
        Ok(())
    }

    fn command(&self, name: &'static str, arguments: Vec<&str>) -> Launch {
        Launch {
            name,
            program: self.bin.join(name),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            variables: vec![("PATH", "/usr/bin:/bin".to_owned()), ("LC_ALL", "C.UTF-8".to_owned())],
            user: self.user,
            port: None,
        }
    }
}

fn data(folder: &Path) -> String {
    folder.join("data").display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_named_must_hold_the_server() {
        let root = Scratch::new("bin").unwrap();
        let folder = root.path().to_str().unwrap();
        let ways: [(_, fn(&Environment) -> _); 2] =
            [(BIN, Installation::of_the_system), (NEXT_BIN, Installation::downloaded)];
        for (variable, locate) in ways {
            let error = locate(&Environment::from_pairs([(variable, folder)])).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains("no postgres"), "{error}");
        }
    }
}
