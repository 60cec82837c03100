//! One process which does not outlive the test process.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

use crate::scratch::{Record, Scratch};
use crate::signal;

/// Most of a log is start-up noise; the reason for an exit is at its end.
const LOG_TAIL: usize = 4_000;

/// A process with its descendants, and a log of their output. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    _record: Record,
}

impl Process {
    /// Starts a process. Its output is appended to the log of this name in the folder.
    pub(crate) fn start(mut command: Command, name: &str, scratch: &Scratch) -> Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        // In a separate process group, so that a Ctrl-C for the tests does not interrupt it too.
        command.process_group(0).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let mut child =
            command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        match scratch.record_process(name, child.id()) {
            Ok(record) => Ok(Self { child, log, _record: record }),
            Err(error) => {
                signal::kill_tree(child.id());
                child.wait()?;
                Err(error).context("cannot keep a record of the process")
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how it exited, if it has.
    pub(crate) fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Returns its output so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the end of its output so far.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }

    /// Kills it with its descendants, and returns when all of them have ended.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let tree = signal::kill_tree(self.child.id());
        let status = self.child.wait()?;
        // PostgreSQL does not start while a session of the killed server still holds the shared memory.
        ensure!(signal::wait_until_gone(&tree), "processes {tree:?} do not end");
        Ok(status)
    }

    /// Kills it, but not its descendants.
    pub(crate) fn kill_alone(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
