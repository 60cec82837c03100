//! The memory of a relay, by backlog and payload size.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use outbox_core::{Relay, Store};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;

use super::say;
use crate::databases::Table;
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::{Common, Memory};
use crate::servers;
use crate::verify::InOrder;

const POOL: u32 = 5;

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common, options: &Memory) -> Result<()> {
    let database = servers::database(common).await?;
    let output = Output::new(common);
    for payload in &options.payloads {
        for backlog in &options.backlogs {
            let load = Load::new(*backlog, *payload, common.keys);
            let mut peaks = Vec::new();
            for round in 0..common.rounds.min(3) {
                database.clear().await?;
                database.fill(Table::Outbox, &load).await?;
                let peak = child(&database.url(), &load).await?;
                ensure!(
                    database.waiting(Table::Outbox).await? == 0,
                    "no figure: messages are left in the table"
                );
                say(format_args!("round {round}: {backlog} of {payload} bytes: {peak:.1} MiB"));
                peaks.push(peak);
            }
            let line = Line::new("memory", "peak", "MiB", "ours", common, &peaks)
                .with("store", database.name())
                .with("backlog", *backlog)
                .with("payload", *payload);
            output.emit(&line)?;
        }
    }
    Ok(())
}

/// Runs the relay in a separate process, and returns its peak resident memory in MiB.
async fn child(url: &str, load: &Load) -> Result<f64> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = tokio::process::Command::new(program);
    command.args(["part", "drain", url, &load.messages.to_string(), &load.keys.to_string()]);
    // It starts no servers, so it does not need the folder for data.
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await?;
    ensure!(output.status.success(), "the relay's process failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().parse::<f64>()? / 1024.0)
}

/// The work of that process. Prints the peak in KiB.
///
/// # Errors
/// If the run was not correct.
#[allow(clippy::print_stdout, reason = "the parent process reads this output")]
pub async fn part(url: &str, messages: u64, keys: u64) -> Result<()> {
    let publisher = Arc::new(InOrder::new(messages, keys)?);
    let relay = Relay::builder(store(url).await?, publisher.clone()).build()?.spawn();
    publisher.all_confirmed().await;
    relay.shutdown().await?;
    publisher.verdict()?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the peak is missing")?;
    println!("{}", peak.trim().trim_end_matches("kB").trim());
    Ok(())
}

async fn store(url: &str) -> Result<Arc<dyn Store>> {
    Ok(match url.split_once(':').context("the database has a URL")? {
        ("postgres" | "postgresql", _) => {
            let pool = PgPoolOptions::new().max_connections(POOL).connect(url).await?;
            Arc::new(outbox_postgres::Outbox::new(outbox_postgres::Config::new())?.store(pool))
        }
        ("mysql" | "mariadb", _) => {
            let pool = MySqlPoolOptions::new().max_connections(POOL).connect(url).await?;
            Arc::new(outbox_mysql::Outbox::new(outbox_mysql::Config::new())?.store(pool))
        }
        ("sqlite", file) => {
            let pool = outbox_sqlite::OpenOptions::new(file).open().await?;
            Arc::new(outbox_sqlite::Outbox::new(outbox_sqlite::Config::new())?.store(pool))
        }
        (scheme, _) => bail!("no store for {scheme}"),
    })
}
