//! The environment variables that the harness reads, as a value that a test of the harness can replace.

use std::collections::HashMap;
use std::path::PathBuf;

/// A snapshot of environment variables. The harness reads the process's environment only through this type.
#[derive(Clone, Debug, Default)]
pub struct Environment(HashMap<String, String>);

impl Environment {
    /// The variables of this process. Empty ones, and ones which are not UTF-8, count as unset.
    pub fn of_process() -> Self {
        Self::from_pairs(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Only these variables.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .filter(|(_, value): &(String, String)| !value.is_empty())
                .collect(),
        )
    }

    /// This environment with one variable set, or unset if `value` is empty.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        if value.is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether confirmed data must survive a power failure, as in production. Tests do without it: a killed
    /// server loses nothing either way.
    pub(crate) fn durable(&self) -> bool {
        self.get("OUTBOX_TEST_DURABLE").is_some()
    }

    /// The entries of a variable that holds a comma-separated list.
    pub(crate) fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or("").split(',').map(str::trim).filter(|entry| !entry.is_empty())
    }

    /// The first file called `program` in the folders of `PATH`.
    pub(crate) fn find_program(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(self.get("PATH")?)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
    }
}
