//! The emulator as a process of this machine.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::downloads;
use crate::environment::Environment;
use crate::launch::{Launch, LocalServer, User, named_folder};
use crate::scratch::Scratch;

/// The folder with the program `ministack`.
const BIN: &str = "OUTBOX_TEST_SQS_BIN";

/// An emulator that was downloaded.
#[derive(Debug)]
pub struct Installation {
    program: PathBuf,
    /// The path of Python.
    path: String,
    user: Option<User>,
}

impl Installation {
    pub(super) fn locate(environment: &Environment) -> Result<Self> {
        let bin = match named_folder(environment, BIN, "ministack")? {
            Some(bin) => bin,
            None => downloads::folder(environment, "sqs")?.join("bin"),
        };
        environment.find_program("python3").context("it needs python3, which is not installed")?;
        let path = environment.get("PATH").unwrap_or("/usr/bin:/bin").to_owned();
        Ok(Self { program: bin.join("ministack"), path, user: User::for_server("ministack")? })
    }

    pub(super) fn launch(&self, port: u16) -> Result<LocalServer> {
        let scratch = Scratch::new("sqs")?;
        User::own(self.user, scratch.path())?;
        let folder = scratch.path().display().to_string();
        let launch = Launch {
            name: "ministack",
            program: self.program.clone(),
            arguments: Vec::new(),
            variables: vec![
                ("PATH", self.path.clone()),
                ("LC_ALL", "C.UTF-8".to_owned()),
                ("HOME", folder.clone()),
                ("TMPDIR", folder),
                ("GATEWAY_PORT", port.to_string()),
                // Without it, the emulator listens on all network interfaces.
                ("BIND_HOST", "127.0.0.1".to_owned()),
                // In the URLs of queues.
                ("MINISTACK_HOST", "127.0.0.1".to_owned()),
                ("LOG_LEVEL", "WARNING".to_owned()),
            ],
            user: self.user,
            port: None,
        };
        LocalServer::start(vec![launch], scratch)
    }
}
