//! NATS as a process of this machine.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::configuration;
use crate::downloads;
use crate::environment::Environment;
use crate::launch::{Launch, LocalServer, User, named_folder};
use crate::scratch::Scratch;

/// Names the folder with the program `nats-server`.
const BIN: &str = "OUTBOX_TEST_NATS_BIN";

/// A server that was downloaded.
#[derive(Debug)]
pub struct Installation {
    program: PathBuf,
    user: Option<User>,
    environment: Environment,
}

impl Installation {
    pub(super) fn locate(environment: &Environment) -> Result<Self> {
        let bin = match named_folder(environment, BIN, "nats-server")? {
            Some(bin) => bin,
            None => downloads::folder(environment, "nats")?.join("bin"),
        };
        Ok(Self {
            program: bin.join("nats-server"),
            user: User::for_server("nats")?,
            environment: environment.clone(),
        })
    }

    pub(super) fn launch(&self, port: u16) -> Result<LocalServer> {
        let scratch = Scratch::new("nats")?;
        let file = |name: &str| scratch.path().join(name).display().to_string();
        fs::write(file("nats.conf"), configuration::settings(&self.environment, &file("jetstream")))?;
        for (name, content) in configuration::files(&self.environment)? {
            fs::write(file(&name), content)?;
        }
        User::own(self.user, scratch.path())?;
        let launch = Launch {
            name: "nats-server",
            program: self.program.clone(),
            arguments: ["--config", &file("nats.conf"), "--addr", "127.0.0.1", "--port", &port.to_string()]
                .map(str::to_owned)
                .to_vec(),
            variables: vec![("HOME", scratch.path().display().to_string())],
            user: self.user,
            port: None,
        };
        LocalServer::start(vec![launch], scratch)
    }
}
