//! The server as a process of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::downloads;
use crate::environment::Environment;
use crate::launch::{Launch, LocalServer, User, named_folder};
use crate::scratch::Scratch;

/// Names the folder with the program `pubsub-server`.
const BIN: &str = "OUTBOX_TEST_PUBSUB_BIN";
const PROGRAM: &str = "pubsub-server";
/// What the program must have been built of.
const SOURCE: &str = include_str!("server/main.go");

/// A server that was built.
#[derive(Debug)]
pub struct Installation {
    program: PathBuf,
    user: Option<User>,
}

/// Where the server keeps its books, and where it is told what is to go wrong.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    folder: PathBuf,
}

impl Installation {
    pub(super) fn locate(environment: &Environment) -> Result<Self> {
        let bin = match named_folder(environment, BIN, PROGRAM)? {
            Some(bin) => bin,
            None => {
                let folder = downloads::folder(environment, "pubsub")?;
                let built_of = fs::read_to_string(folder.join("main.go")).unwrap_or_default();
                ensure!(built_of == SOURCE, "the one in {} was built of another source", folder.display());
                folder.join("bin")
            }
        };
        Ok(Self { program: bin.join(PROGRAM), user: User::for_server("nobody")? })
    }

    pub(super) fn launch(&self, port: u16) -> Result<(LocalServer, Desk)> {
        let scratch = Scratch::new("pubsub")?;
        User::own(self.user, scratch.path())?;
        let desk = Desk { folder: scratch.path().to_path_buf() };
        fs::create_dir(desk.faults())?;
        fs::set_permissions(desk.faults(), fs::Permissions::from_mode(0o755))?;
        let text = |path: &Path| path.display().to_string();
        let launch = Launch {
            name: PROGRAM,
            program: self.program.clone(),
            arguments: vec![port.to_string(), text(&desk.books()), text(&desk.faults())],
            variables: vec![("HOME", text(scratch.path())), ("TMPDIR", text(scratch.path()))],
            user: self.user,
            port: Some(port),
        };
        Ok((LocalServer::start(vec![launch], scratch)?, desk))
    }
}

impl Desk {
    pub(super) fn books(&self) -> PathBuf {
        self.folder.join("books")
    }

    fn faults(&self) -> PathBuf {
        self.folder.join("faults")
    }

    /// Has the server read this before the next request for the topic.
    pub(super) fn tell(&self, topic: &str, text: &str) -> Result<()> {
        let file = self.faults().join(topic);
        let new = self.folder.join(format!("{topic}.new"));
        fs::write(&new, text)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
        // At once, so that half of it is never read.
        fs::rename(new, file)?;
        Ok(())
    }
}
