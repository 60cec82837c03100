//! What can be asked for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures the outbox against hand-written loops and the limits of databases and brokers.
///
/// Every scenario starts its own servers, runs its contenders in turn for several rounds, and prints the median and the
/// spread. It prints no figure if a run lost, repeated or reordered anything.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// What to measure.
    #[command(subcommand)]
    pub scenario: Scenario,
    /// What all scenarios have in common.
    #[command(flatten)]
    pub common: Common,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// How fast a backlog goes to the broker.
    Drain,
}

/// What all scenarios have in common.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The database.
    #[arg(long, value_enum, default_value = "postgres", global = true)]
    pub store: Store,
    /// The broker. `noop` is none: what it is given has arrived.
    #[arg(long, value_enum, default_value = "noop", global = true)]
    pub publisher: Publisher,
    /// The kind of queue at RabbitMQ.
    #[arg(long, value_enum, default_value = "classic", global = true)]
    pub queue: Queue,
    /// How many messages a run has.
    #[arg(long, global = true)]
    pub messages: Option<u64>,
    /// How many bytes a payload has; at least 16.
    #[arg(long, default_value_t = 200, global = true)]
    pub payload: usize,
    /// How many keys the messages are spread over.
    #[arg(long, default_value_t = 10_000, global = true)]
    pub keys: u64,
    /// How often each contender runs.
    #[arg(long, default_value_t = 5, global = true)]
    pub rounds: usize,
    /// Only these contenders, by their names. All by default.
    #[arg(long, value_delimiter = ',', global = true)]
    pub only: Vec<String>,
    /// Keeps the servers' data on the disk, with every commit synced. By default it is in memory (tmpfs), and what is
    /// compared is processor time.
    #[arg(long, global = true)]
    pub disk: bool,
    /// Prints one JSON object a line, and nothing else, on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// Adds the lines of JSON to this file as well.
    #[arg(long, global = true)]
    pub save: Option<PathBuf>,
}

/// A database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    #[value(alias = "mysql")]
    Mariadb,
    /// SQLite.
    Sqlite,
}

/// A broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Publisher {
    /// None.
    Noop,
    /// RabbitMQ.
    Amqp,
    /// An emulator of Amazon SQS.
    Sqs,
    /// An emulator of Amazon Kinesis.
    Kinesis,
    /// Google's fake of Pub/Sub.
    Pubsub,
}

/// A kind of queue at RabbitMQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Queue {
    /// On one node.
    Classic,
    /// Replicated, here with a single replica.
    Quorum,
}
