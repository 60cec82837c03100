//! The program in a folder of its own, without the environment of whoever runs the tests.

#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what a test needs is there, or it fails"
)]

pub(crate) mod packaged;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// Maximum time to wait for a condition or a process. Only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// A folder with settings in it.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// With this in its `outbox.toml`.
    pub(crate) fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outbox.toml"), settings).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        command.env_clear().current_dir(self.path()).args(arguments);
        command
    }

    /// Runs it to its end, and gives back its data. It must succeed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output =
            assert_cmd::Command::from_std(self.command(arguments)).timeout(DEADLINE).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} ended with {}: {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Settings of a store in a file, to the terminal.
pub(crate) const ON_SQLITE: &str = "\
[[route]]
[route.store]
type = \"sqlite\"
path = \"shop.db\"
[route.publisher]
type = \"terminal\"
";

/// Where a relay serves HTTP, once its log says so.
pub(crate) fn served_at(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("serving HTTP"))?;
    let (_, address) = line.split_once("address")?;
    // In a log for people and in one for machines.
    let address = address.trim_start_matches(['=', '"', ':']);
    Some(address.split(['"', ' ', ',']).next()?.to_owned())
}

/// The body of the answer to a plain request.
pub(crate) fn get(address: &str, path: &str) -> String {
    try_get(address, path).unwrap()
}

/// As [`get`], from a server that may not be there yet.
pub(crate) fn try_get(address: &str, path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    // In version 1.0 the answer ends with the connection, and is not cut in chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
