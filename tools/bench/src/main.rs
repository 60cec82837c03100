//! `outbox-bench`: see the crate's README.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use outbox_bench::options::{Arguments, Scenario};
use outbox_bench::statements::{self, Counter};
use outbox_bench::{scenarios, servers};
use tokio::runtime::Builder;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

#[allow(clippy::print_stderr, reason = "the program prints its error")]
fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> Result<()> {
    // Parts of scenarios start no servers.
    if let Scenario::Part(part) = &arguments.scenario {
        return scenarios::run_part(part);
    }
    // The harness reads the folder for data from the environment, which a program cannot change for itself.
    let folder = servers::folder(arguments.common.disk);
    if std::env::var_os(servers::TMPDIR).is_none_or(|set| set != folder) {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut again = Command::new(program);
        again.args(std::env::args_os().skip(1)).env(servers::TMPDIR, folder);
        return Err(again.exec()).context("cannot run this program again");
    }
    let log = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_filter(LevelFilter::WARN);
    // Logging each statement has a cost, so it is only done for the scenario that needs it.
    let counter = matches!(arguments.scenario, Scenario::Idle(_))
        .then(|| Counter.with_filter(filter_fn(|metadata| metadata.target() == statements::TARGET)));
    tracing_subscriber::registry().with(log).with(counter).init();
    Builder::new_multi_thread().enable_all().build()?.block_on(scenarios::run(arguments))
}
