//! The server as a process of this machine, and the folder through which tests control it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Entry;
use crate::downloads;
use crate::environment::Environment;
use crate::launch::{Launch, LocalServer, User, named_folder};
use crate::scratch::Scratch;

/// The folder with the program `pubsub-server`.
const BIN: &str = "OUTBOX_TEST_PUBSUB_BIN";
const PROGRAM: &str = "pubsub-server";
/// The source of the program.
const SOURCE: &str = include_str!("server/main.go");

/// The version of the program: the checksum of its source, which is in the name of its folder and of its
/// image.
pub(super) fn source_version() -> u32 {
    downloads::cksum(SOURCE.as_bytes())
}

/// A server that was built.
#[derive(Debug)]
pub struct Installation {
    program: PathBuf,
    user: Option<User>,
}

/// The folder in which the server writes its records and reads its failures.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    folder: PathBuf,
}

impl Installation {
    pub(super) fn locate(environment: &Environment) -> Result<Self> {
        let bin = match named_folder(environment, BIN, PROGRAM)? {
            Some(bin) => bin,
            None => downloads::folder(environment, &format!("pubsub-{}", source_version()))?.join("bin"),
        };
        Ok(Self { program: bin.join(PROGRAM), user: User::for_server("nobody")? })
    }

    pub(super) fn launch(&self, port: u16) -> Result<(LocalServer, Desk)> {
        let scratch = Scratch::new("pubsub")?;
        User::own(self.user, scratch.path())?;
        let desk = Desk::new(scratch.path())?;
        let text = |path: &Path| path.display().to_string();
        let launch = Launch {
            name: PROGRAM,
            program: self.program.clone(),
            arguments: desk.arguments(&format!("127.0.0.1:{port}"), scratch.path()),
            variables: vec![("HOME", text(scratch.path())), ("TMPDIR", text(scratch.path()))],
            user: self.user,
            port: Some(port),
        };
        Ok((LocalServer::start(vec![launch], scratch)?, desk))
    }
}

impl Desk {
    /// Creates the files of a new server in `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let desk = Self { folder: folder.to_path_buf() };
        fs::create_dir(desk.faults())?;
        fs::set_permissions(desk.faults(), fs::Permissions::from_mode(0o755))?;
        Ok(desk)
    }

    /// The arguments of a server that listens on `address` and has the folder at `mounted`.
    pub(super) fn arguments(&self, address: &str, mounted: &Path) -> Vec<String> {
        let file = |path: PathBuf| {
            let name = path.strip_prefix(&self.folder).unwrap_or(&path);
            mounted.join(name).display().to_string()
        };
        vec![address.to_owned(), file(self.books_file()), file(self.faults())]
    }

    fn books_file(&self) -> PathBuf {
        self.folder.join("books")
    }

    fn faults(&self) -> PathBuf {
        self.folder.join("faults")
    }

    /// The lines of the records. The last line may be incomplete if the server was killed.
    pub(super) fn books(&self) -> std::io::Result<Vec<Entry>> {
        let text = fs::read_to_string(self.books_file())?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The version of Google's library in the server, which it records when it starts.
    pub(super) fn version(&self) -> Result<String> {
        let version = self.books()?.into_iter().rev().find_map(|entry| entry.version);
        version.context("the books contain no version")
    }

    /// Makes the server read this before the next request for the topic.
    pub(super) fn tell(&self, topic: &str, text: &str) -> Result<()> {
        let file = self.faults().join(topic);
        let new = self.folder.join(format!("{topic}.new"));
        fs::write(&new, text)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
        // Atomically, so that the server never reads half of it.
        fs::rename(new, file)?;
        Ok(())
    }
}
