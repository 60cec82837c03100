//! How the program ends when something is wrong.

use std::fmt::Display;
use std::process::ExitCode;

use outbox_core::{Error, ErrorKind};

use crate::config::Fault;
use crate::output::errorln;

/// What scripts and supervisors can tell apart. They are in the help of the program and in the README.
const FAILED: u8 = 1;
/// The same as for a command line that cannot be understood.
const WRONG_SETTINGS: u8 = 2;
const NOT_DRAINED: u8 = 3;
const UNHEALTHY: u8 = 4;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    lines: Vec<String>,
}

impl Failure {
    /// The database, the broker or the system said no.
    pub(crate) fn failed(line: impl Into<String>) -> Self {
        Self { code: FAILED, lines: vec![line.into()] }
    }

    /// What was asked for makes no sense.
    pub(crate) fn wrong(line: impl Into<String>) -> Self {
        Self { code: WRONG_SETTINGS, lines: vec![line.into()] }
    }

    /// A relay stopped before everything in flight had come to its end.
    pub(crate) fn not_drained(lines: Vec<String>) -> Self {
        Self { code: NOT_DRAINED, lines }
    }

    /// The doctor has found something, and said it.
    pub(crate) fn unhealthy() -> Self {
        Self { code: UNHEALTHY, lines: Vec::new() }
    }

    /// Puts what it concerns in front.
    pub(crate) fn of(self, what: impl Display) -> Self {
        Self { lines: self.lines.into_iter().map(|line| format!("{what}: {line}")).collect(), ..self }
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// Says it on the standard error.
    pub(crate) fn tell(&self) {
        for line in &self.lines {
            errorln(line);
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if error.kind() == ErrorKind::Config { WRONG_SETTINGS } else { FAILED };
        Self { code, lines: vec![error.report()] }
    }
}

impl From<Vec<Fault>> for Failure {
    fn from(faults: Vec<Fault>) -> Self {
        Self { code: WRONG_SETTINGS, lines: faults.iter().map(Fault::to_string).collect() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // Whoever read has seen enough, as `head` does.
            return Self { code: 0, lines: Vec::new() };
        }
        Self::failed(error.to_string())
    }
}
