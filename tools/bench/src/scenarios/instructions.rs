//! The number of instructions that the engine executes per message, with store and publisher in memory. Noise
//! does not affect this figure, so it can serve as a gate.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use outbox_core::Relay;
use outbox_core::memory::MemoryStore;
use serde::Deserialize;
use tokio::process::Command;
use tokio::runtime::Runtime;

use super::say;
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::{Common, Instructions};
use crate::verify::InOrder;

/// Two sizes, so that the part that does not depend on the number of messages cancels out in the difference.
const FEW: u64 = 10_000;
const MANY: u64 = 30_000;
const KEYS: u64 = 1_000;

/// The expected figure.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    instructions_per_message: f64,
    /// The tolerance.
    tolerance: f64,
}

/// Runs it, and compares if requested.
///
/// # Errors
/// If valgrind is missing, or the figure has changed.
pub async fn run(common: &Common, options: &Instructions) -> Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..common.rounds {
        let (few, many) = (count(FEW).await?, count(MANY).await?);
        rounds.push((many - few) / (MANY - FEW) as f64);
    }
    let line = Line::new("instructions", "per message", "instructions", "ours", common, &rounds)
        .with("store", "memory")
        .with("publisher", "noop");
    let median = line.summary.median;
    Output::new(common).emit(&line)?;
    match &options.check {
        Some(file) => check(file, median),
        None => Ok(()),
    }
}

fn check(file: &Path, found: f64) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let expected: Expected = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let ratio = found / expected.instructions_per_message;
    let change = format!(
        "{found:.0} instructions a message, where {:.0} were expected: {:+.1} %",
        expected.instructions_per_message,
        (ratio - 1.0) * 100.0
    );
    if ratio > 1.0 + expected.tolerance {
        bail!("{change}. If that is worth it, say so in {}", file.display());
    }
    if ratio < 1.0 - expected.tolerance {
        bail!("{change}. An improvement is kept by putting it into {}", file.display());
    }
    say(change);
    Ok(())
}

/// The instructions of a whole run, counted by callgrind.
async fn count(messages: u64) -> Result<f64> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=outbox_bench::scenarios::instructions::measured*")
        .arg(program)
        .args(["part", "engine", &messages.to_string()])
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run valgrind; `apt-get install valgrind` brings it")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {text}");
    let collected = text.lines().rev().find_map(|line| line.split_once("Collected :"));
    let (_, number) = collected.with_context(|| format!("valgrind printed no figure: {text}"))?;
    Ok(number.trim().parse()?)
}

/// The program that runs below valgrind: a relay on a full store.
///
/// # Errors
/// If the run was not correct.
pub fn part(messages: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load = Load::new(messages, 200, KEYS);
    let store = MemoryStore::new();
    let mut transaction = store.begin();
    for number in 0..messages {
        transaction.enqueue(&load.message(number)?);
    }
    transaction.commit();
    let publisher = Arc::new(InOrder::new(messages, KEYS)?);
    let relay =
        Relay::builder(store.clone(), publisher.clone()).configure(|settings| settings.seed = Some(1));
    measured(&runtime, relay.build()?, &publisher)?;
    ensure!(store.undelivered().is_empty(), "messages are left in the store");
    publisher.verdict()
}

/// The counted function. Valgrind identifies it by its name.
#[inline(never)]
fn measured(
    runtime: &Runtime,
    relay: Relay<MemoryStore, Arc<InOrder>>,
    publisher: &Arc<InOrder>,
) -> Result<()> {
    runtime.block_on(async {
        let relay = relay.spawn();
        publisher.all_confirmed().await;
        relay.shutdown().await
    })?;
    Ok(())
}
