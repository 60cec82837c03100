//! `fault-run`: see the crate's README.

// To say what it has found is its job.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use fault_runs::books::{Books, OnMariaDb, OnPostgres, OnSqlite};
use fault_runs::brokers::{Broker, OnRabbitMq, OnSqs};
use fault_runs::{Clocks, Kind, Plan};

/// Compares committed messages with delivered ones, while every component in between fails at random.
///
/// Exit codes: 0 if no rule was broken, 1 if one was, 2 if the run could not be made.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The database.
    #[arg(long, value_enum, default_value = "postgres")]
    store: Store,
    /// The broker. `sqs` is a FIFO queue.
    #[arg(long, value_enum, default_value = "rabbitmq")]
    publisher: Publisher,
    /// Minimum number of committed messages.
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// Minimum duration, in minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Minimum number of failures.
    #[arg(long, default_value_t = Kind::OF_RELAYS.len() + Kind::OF_SERVERS.len())]
    faults: usize,
    /// Only these failures, by name. Default: all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// The longest pause between two failures of servers, in seconds; between two of relays it is twice that.
    #[arg(long, default_value_t = 2.0)]
    pause: f64,
    /// The random seed. Default: a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the report as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A relay of a run.
    #[command(hide = true)]
    Relay { database: String, broker: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Store {
    Postgres,
    Mariadb,
    Sqlite,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Publisher {
    Rabbitmq,
    Sqs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Relay { database, broker }) => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
            fault_runs::relay::relay(database, broker).await.map(|()| true)
        }
        None => run(&arguments).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    let seconds = |value: f64, name: &str| match Duration::try_from_secs_f64(value) {
        Ok(duration) if duration <= Duration::from_secs(30 * 86_400) => Ok(duration),
        _ => bail!("--{name} cannot be {value}"),
    };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut plan = Plan::new(program, seed);
    plan.messages = arguments.messages;
    plan.time = seconds(arguments.minutes * 60.0, "minutes")?;
    plan.pause = seconds(arguments.pause, "pause")?.max(Duration::from_millis(200));
    plan.faults = arguments.faults;
    plan.progress = |line| eprintln!("{line}");
    if arguments.store == Store::Sqlite {
        // The database's clock is the relay's own there, and no machine has two.
        if arguments.only.contains(&Kind::RelayClockJumps) {
            bail!(
                "with SQLite the clock of the machine is the database's; relays have none of their own that could jump"
            );
        }
    } else {
        plan.clocks = Clocks::find();
    }
    if !arguments.only.is_empty() {
        plan.kinds.clone_from(&arguments.only);
        if arguments.only.contains(&Kind::RelayClockJumps) && plan.clocks.is_none() {
            bail!("clocks jump only where libfaketime is: apt-get install faketime");
        }
    }
    eprintln!("{arguments:?}\nseed {seed}");
    let report =
        fault_runs::run(plan, books(arguments.store).await?, broker(arguments.publisher).await?).await;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    Ok(report.is_clean())
}

async fn books(store: Store) -> Result<Arc<dyn Books>> {
    let missing = "there is no such database here";
    Ok(match store {
        Store::Postgres => Arc::new(OnPostgres::start().await.context(missing)?),
        Store::Mariadb => Arc::new(OnMariaDb::start().await.context(missing)?),
        Store::Sqlite => Arc::new(OnSqlite::start().await),
    })
}

async fn broker(publisher: Publisher) -> Result<Arc<dyn Broker>> {
    let missing = "there is no such broker here";
    Ok(match publisher {
        Publisher::Rabbitmq => Arc::new(OnRabbitMq::start().await.context(missing)?),
        Publisher::Sqs => Arc::new(OnSqs::start().await.context(missing)?),
    })
}
