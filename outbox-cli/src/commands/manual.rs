//! What a shell and `man` need.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Failure;
use crate::output;

pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outbox", &mut script);
    Ok(output::data(String::from_utf8_lossy(&script))?)
}

/// Prints the page of the program, or writes those of all commands into a folder.
pub(crate) fn pages(folder: Option<&Path>) -> Result<(), Failure> {
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)?;
        return Ok(());
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(output::data(String::from_utf8_lossy(&page))?)
}
