//! Errors that a retry does not change.

use std::fmt;

/// An error that a retry would return again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definite(pub(crate) String);

impl fmt::Display for Definite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Definite {}
