//! The commands, a file each.

pub(crate) mod bulk;
mod check;
mod dead_letters;
#[cfg(feature = "sqlite")]
mod demo;
mod doctor;
mod enqueue;
mod manual;
mod migrate;
mod peek;
mod purge;
mod relay;
mod status;

use std::collections::BTreeMap;

use crate::cli::{Cli, Command, ConfigCommand, SettingsArgs};
use crate::config::{Config, Sources};
use crate::exit::Failure;

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    #[cfg(feature = "sqlite")]
    if matches!(cli.command, Command::Demo) {
        return demo::run().await;
    }
    match cli.command {
        Command::Completions { shell } => return manual::completions(shell),
        Command::Man { folder } => return manual::pages(folder.as_deref()),
        _ => {}
    }
    let config = load(&cli.settings)?;
    match cli.command {
        Command::Relay(args) => relay::run(&config, &args).await,
        Command::Config(ConfigCommand::Check) => check::run(&config),
        Command::Migrate(args) => migrate::run(&config, &args).await,
        Command::DeadLetters(command) => dead_letters::run(&config, command).await,
        Command::Peek(args) => peek::run(&config, &args).await,
        Command::Purge(args) => purge::run(&config, &args).await,
        Command::Enqueue(args) => enqueue::run(&config, args).await,
        Command::Doctor(args) => doctor::run(&config, &args).await,
        Command::Status(args) => status::run(&config, &args).await,
        #[cfg(feature = "sqlite")]
        Command::Demo => Ok(()),
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}

fn load(args: &SettingsArgs) -> Result<Config, Failure> {
    // What is no UTF-8 is none of our variables.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources = Sources { file: args.config.as_deref(), environment: &environment, flags: &args.set };
    Ok(Config::load(&sources)?)
}
