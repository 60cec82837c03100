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
    /// How long messages take from their commit to the confirmation, at a steady rate.
    Steady(Steady),
    /// How long the first message after a pause takes from its commit to the publisher.
    Wakeup(Wakeup),
    /// How fast a backlog is drained while another session holds an old snapshot.
    HeldSnapshot,
    /// How fast a small backlog and the beginning of a large one are drained.
    Backlog(Backlog),
    /// What several relays make of it, and what they cost a database that has nothing for them.
    Relays(Relays),
    /// What a message costs the transaction that enqueues it.
    Enqueue(Enqueue),
    /// What a relay with nothing to do asks of the database.
    Idle(Idle),
    /// How much memory a relay takes, against the backlog and the size of payloads.
    Memory(Memory),
    /// How many instructions the engine spends on a message, with store and publisher in memory.
    Instructions(Instructions),
    /// All of it, within a time, and docs/benchmarks.md written from it.
    Report(Report),
    /// A part of a scenario that runs in a process of its own.
    #[command(subcommand, hide = true)]
    Part(Part),
}

/// Settings of `steady`.
#[derive(Clone, Debug, Args)]
pub struct Steady {
    /// The offered load, in per cent of the rate at which our relay drains a backlog.
    #[arg(long, value_delimiter = ',', default_value = "10,50,90")]
    pub percent: Vec<u32>,
    /// How many messages in a second 100 per cent are. Measured by default.
    #[arg(long)]
    pub rate: Option<f64>,
    /// How many seconds a run takes.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Settings of `wakeup`.
#[derive(Clone, Debug, Args)]
pub struct Wakeup {
    /// How many messages a round has.
    #[arg(long, default_value_t = 50)]
    pub commits: u64,
}

/// Settings of `backlog`.
#[derive(Clone, Debug, Args)]
pub struct Backlog {
    /// How many messages the large backlog has.
    #[arg(long, default_value_t = 10_000_000)]
    pub large: u64,
    /// How many messages the small one has.
    #[arg(long, default_value_t = 10_000)]
    pub small: u64,
}

/// Settings of `relays`.
#[derive(Clone, Debug, Args)]
pub struct Relays {
    /// How many relays.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,16")]
    pub counts: Vec<usize>,
    /// How many seconds the idle ones are watched.
    #[arg(long, default_value_t = 15.0)]
    pub seconds: f64,
}

/// Settings of `enqueue`.
#[derive(Clone, Debug, Args)]
pub struct Enqueue {
    /// How many clients at the same time.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    pub clients: Vec<usize>,
    /// The driver of the service. All but sqlx need PostgreSQL.
    #[arg(long, value_enum, default_value = "sqlx")]
    pub driver: Driver,
    /// How many seconds a run takes.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
}

/// Settings of `idle`.
#[derive(Clone, Debug, Args)]
pub struct Idle {
    /// How many seconds the relay is watched.
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
}

/// Settings of `memory`.
#[derive(Clone, Debug, Args)]
pub struct Memory {
    /// The backlogs.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    pub backlogs: Vec<u64>,
    /// The sizes of payloads.
    #[arg(long, value_delimiter = ',', default_value = "200,1024,4096")]
    pub payloads: Vec<usize>,
}

/// Settings of `instructions`.
#[derive(Clone, Debug, Args)]
pub struct Instructions {
    /// Compares with the figure in this file, and fails if it is off by more than the file allows.
    #[arg(long)]
    pub check: Option<PathBuf>,
}

/// Settings of `report`.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// Where the lines of each step are kept. What is there already is not measured again.
    #[arg(long, default_value = "target/bench-report")]
    pub lines: PathBuf,
    /// Where the page goes, and the plots beside it.
    #[arg(long, default_value = "docs/benchmarks.md")]
    pub page: PathBuf,
    /// Fewer rounds of fewer messages: some five minutes instead of some twenty-five.
    #[arg(long)]
    pub quick: bool,
    /// Only these steps, or those whose names contain one of these.
    #[arg(long, value_delimiter = ',')]
    pub steps: Vec<String>,
    /// Measures nothing, and writes the page from what is there.
    #[arg(long)]
    pub render: bool,
}

/// A part of a scenario that runs in a process of its own.
#[derive(Clone, Debug, Subcommand)]
pub enum Part {
    /// Drains a database, and says how much memory that took.
    Drain {
        /// The database.
        url: String,
        /// How many messages there are.
        messages: u64,
        /// Over how many keys.
        keys: u64,
    },
    /// Runs the engine in memory.
    Engine {
        /// How many messages.
        messages: u64,
    },
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

/// A driver that a service enqueues with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// sqlx, which keeps statements prepared.
    Sqlx,
    /// tokio-postgres, which sends the text of each statement with its values.
    TokioPostgres,
    /// tokio-postgres with statements that each connection has prepared.
    TokioPostgresPrepared,
}

impl Driver {
    /// As in `--driver`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::TokioPostgres => "tokio-postgres",
            Self::TokioPostgresPrepared => "tokio-postgres-prepared",
        }
    }
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
