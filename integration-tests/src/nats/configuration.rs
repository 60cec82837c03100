//! The configuration of a server for tests, in a process as in a container.

use std::fs;

use anyhow::{Context, Result};

use crate::environment::Environment;

/// More lines for the configuration file. A later setting takes the place of an earlier one of the same name.
pub(super) const CONF: &str = "OUTBOX_TEST_NATS_CONF";

/// A folder with files to put beside the configuration file, which names them by their names.
pub(super) const FILES: &str = "OUTBOX_TEST_NATS_FILES";

/// The files to put beside the configuration file: name and content.
pub(super) fn files(environment: &Environment) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(folder) = environment.get(FILES) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{FILES} is {folder}"))? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    Ok(files)
}

/// The configuration file of a server that stores its streams in this folder.
pub(super) fn settings(environment: &Environment, store: &str) -> String {
    let more = environment.get(CONF).unwrap_or_default();
    format!("server_name: outbox-test\njetstream {{ store_dir: \"{store}\" }}\n{more}\n")
}
