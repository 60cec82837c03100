//! All scenarios, one step after the other, and a page of the results.

mod goals;
mod machine;
mod page;
mod steps;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};

use self::steps::Step;
use crate::line::Line;
use crate::options::Report;
use crate::scenarios::say;

/// The machine at the time of the measurements.
const MACHINE: &str = "machine.txt";

/// Measures the missing steps, and writes the page from all lines.
///
/// A step that fails is reported, also on the page, and does not prevent the others.
///
/// # Errors
/// If a file cannot be read or written.
pub async fn run(options: &Report) -> Result<()> {
    fs::create_dir_all(&options.lines).with_context(|| options.lines.display().to_string())?;
    let steps = steps::all(options.quick);
    let mut failures = Vec::new();
    if !options.render {
        fs::write(options.lines.join(MACHINE), machine::describe())?;
        let started = Instant::now();
        for (place, step) in steps.iter().enumerate() {
            if !steps::is_wanted(&options.steps, step.name) || file(&options.lines, step).exists() {
                continue;
            }
            let minutes = started.elapsed().as_secs_f64() / 60.0;
            say(format_args!("{minutes:.1} min: step {} of {}, {}", place + 1, steps.len(), step.name));
            if let Err(error) = measure(&options.lines, step).await {
                say(format_args!("{} failed: {error:#}", step.name));
                failures.push((step.name.to_owned(), format!("{error:#}")));
            }
        }
    }
    let machine = fs::read_to_string(options.lines.join(MACHINE)).unwrap_or_default();
    let lines = read(&options.lines, &steps)?;
    page::write(&options.page, &machine, &lines, &failures)?;
    say(format_args!("wrote {}", options.page.display()));
    Ok(())
}

fn file(folder: &Path, step: &Step) -> PathBuf {
    folder.join(format!("{}.jsonl", step.name))
}

/// Runs a step in a separate process, so that its servers and its memory are released with it.
async fn measure(folder: &Path, step: &Step) -> Result<()> {
    let unfinished = folder.join(format!("{}.unfinished", step.name));
    if unfinished.exists() {
        fs::remove_file(&unfinished)?;
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = tokio::process::Command::new(program);
    command.args(&step.arguments).arg("--save").arg(&unfinished).stdin(Stdio::null()).kill_on_drop(true);
    // The step decides where data goes.
    command.env_remove(crate::servers::TMPDIR);
    let mut child = command.spawn()?;
    match tokio::time::timeout(step.limit, child.wait()).await {
        Ok(status) => anyhow::ensure!(status?.success(), "it ended with an error"),
        Err(_) => {
            child.kill().await?;
            anyhow::bail!("it took longer than {:?}", step.limit);
        }
    }
    fs::rename(unfinished, file(folder, step))?;
    Ok(())
}

fn read(folder: &Path, steps: &[Step]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for step in steps {
        let file = file(folder, step);
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for line in text.lines() {
            lines.push(serde_json::from_str(line).with_context(|| file.display().to_string())?);
        }
    }
    Ok(lines)
}
