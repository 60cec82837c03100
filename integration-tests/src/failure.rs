//! Errors that trying again does not change.

use std::fmt;

/// An error that another try would also get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definite(pub(crate) String);

impl fmt::Display for Definite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Definite {}
