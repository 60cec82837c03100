//! `outbox-bench`: see the crate's README.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use outbox_bench::options::Arguments;
use outbox_bench::{scenarios, servers};

#[allow(clippy::print_stderr, reason = "to say what went wrong is its job")]
fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(WARN).init();
    match start(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

const WARN: tracing_subscriber::filter::LevelFilter = tracing_subscriber::filter::LevelFilter::WARN;

fn start(arguments: &Arguments) -> Result<()> {
    // The harness reads where to put data from the environment, which a program cannot change for itself.
    let folder = servers::folder(arguments.common.disk);
    if std::env::var_os(servers::TMPDIR).is_none_or(|set| set != folder) {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut again = Command::new(program);
        again.args(std::env::args_os().skip(1)).env(servers::TMPDIR, folder);
        return Err(again.exec()).context("cannot run this program again");
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(scenarios::run(arguments))
}
