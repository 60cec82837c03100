//! The options of the program.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures the outbox against hand-written loops and the limits of databases and brokers.
///
/// Every scenario starts its own servers, alternates its contenders for several rounds, and prints the median
/// and the spread. It prints no figure if a run lost, repeated or reordered a message.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// The scenario.
    #[command(subcommand)]
    pub scenario: Scenario,
    /// The common options of all scenarios.
    #[command(flatten)]
    pub common: Common,
}

/// The scenario.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// Rate at which a backlog is published.
    Drain,
    /// Time from a message's commit to its confirmation, at a steady rate.
    Steady(Steady),
    /// Time from the commit to the publisher for the first message after a pause.
    Wakeup(Wakeup),
    /// Rate at which a backlog is drained while another session holds an old snapshot.
    HeldSnapshot,
    /// Rate at which a small backlog and the beginning of a large one are drained.
    Backlog(Backlog),
    /// Rate of several relays, and their load on an idle database.
    Relays(Relays),
    /// Cost of a message for the transaction that enqueues it.
    Enqueue(Enqueue),
    /// Load of an idle relay on the database.
    Idle(Idle),
    /// Memory of a relay, by backlog and payload size.
    Memory(Memory),
    /// Instructions that the engine executes per message, with store and publisher in memory.
    Instructions(Instructions),
    /// All scenarios, within a time limit; writes docs/benchmarks.md.
    Report(Report),
    /// A part of a scenario that runs in a separate process.
    #[command(subcommand, hide = true)]
    Part(Part),
}

/// Settings of `steady`.
#[derive(Clone, Debug, Args)]
pub struct Steady {
    /// Offered load, in per cent of the rate at which the relay drains a backlog.
    #[arg(long, value_delimiter = ',', default_value = "10,50,90")]
    pub percent: Vec<u32>,
    /// Rate that corresponds to 100 per cent, in messages per second. Measured by default.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Duration of a run, in seconds.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Settings of `wakeup`.
#[derive(Clone, Debug, Args)]
pub struct Wakeup {
    /// Number of messages in a round.
    #[arg(long, default_value_t = 50)]
    pub commits: u64,
}

/// Settings of `backlog`.
#[derive(Clone, Debug, Args)]
pub struct Backlog {
    /// Number of messages in the large backlog.
    #[arg(long, default_value_t = 10_000_000)]
    pub large: u64,
    /// Number of messages in the small backlog.
    #[arg(long, default_value_t = 10_000)]
    pub small: u64,
}

/// Settings of `relays`.
#[derive(Clone, Debug, Args)]
pub struct Relays {
    /// Number of relays.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,16")]
    pub counts: Vec<usize>,
    /// Seconds for which the idle relays are observed.
    #[arg(long, default_value_t = 15.0)]
    pub seconds: f64,
}

/// Settings of `enqueue`.
#[derive(Clone, Debug, Args)]
pub struct Enqueue {
    /// Number of concurrent clients.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    pub clients: Vec<usize>,
    /// The driver of the service. All but sqlx need PostgreSQL.
    #[arg(long, value_enum, default_value = "sqlx")]
    pub driver: Driver,
    /// Duration of a run, in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
}

/// Settings of `idle`.
#[derive(Clone, Debug, Args)]
pub struct Idle {
    /// Seconds for which the relay is observed.
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
}

/// Settings of `memory`.
#[derive(Clone, Debug, Args)]
pub struct Memory {
    /// Backlog sizes, in messages.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    pub backlogs: Vec<u64>,
    /// Payload sizes, in bytes.
    #[arg(long, value_delimiter = ',', default_value = "200,1024,4096")]
    pub payloads: Vec<usize>,
}

/// Settings of `instructions`.
#[derive(Clone, Debug, Args)]
pub struct Instructions {
    /// Compare with the figure in this file, and fail if the difference exceeds the tolerance in the file.
    #[arg(long)]
    pub check: Option<PathBuf>,
}

/// Settings of `report`.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// Folder for the lines of each step. Existing steps are not measured again.
    #[arg(long, default_value = "target/bench-report")]
    pub lines: PathBuf,
    /// Path of the page. The plots go next to it.
    #[arg(long, default_value = "docs/benchmarks.md")]
    pub page: PathBuf,
    /// Fewer rounds of fewer messages: about five minutes instead of twenty-five.
    #[arg(long)]
    pub quick: bool,
    /// Only these steps, or steps whose names contain one of these strings.
    #[arg(long, value_delimiter = ',')]
    pub steps: Vec<String>,
    /// Measure nothing, and write the page from the stored lines.
    #[arg(long)]
    pub render: bool,
}

/// A part of a scenario that runs in a separate process.
#[derive(Clone, Debug, Subcommand)]
pub enum Part {
    /// Drain a database, and print the memory that this took.
    Drain {
        /// The database.
        url: String,
        /// Number of messages.
        messages: u64,
        /// Number of keys.
        keys: u64,
    },
    /// Run the engine in memory.
    Engine {
        /// Number of messages.
        messages: u64,
    },
}

/// The common options of all scenarios.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The database.
    #[arg(long, value_enum, default_value = "postgres", global = true)]
    pub store: Store,
    /// The broker. `noop` is a publisher without a broker.
    #[arg(long, value_enum, default_value = "noop", global = true)]
    pub publisher: Publisher,
    /// Kind of queue at RabbitMQ.
    #[arg(long, value_enum, default_value = "classic", global = true)]
    pub queue: Queue,
    /// Number of messages in a run.
    #[arg(long, global = true)]
    pub messages: Option<u64>,
    /// Payload size in bytes; at least 16.
    #[arg(long, default_value_t = 200, global = true)]
    pub payload: usize,
    /// Number of keys.
    #[arg(long, default_value_t = 10_000, global = true)]
    pub keys: u64,
    /// Number of runs of each contender.
    #[arg(long, default_value_t = 5, global = true)]
    pub rounds: usize,
    /// Only these contenders, by name. Default: all.
    #[arg(long, value_delimiter = ',', global = true)]
    pub only: Vec<String>,
    /// Keep the servers' data on the disk, with every commit synced. By default it is in memory (tmpfs), so
    /// that the comparison is about processor time.
    #[arg(long, global = true)]
    pub disk: bool,
    /// Print one JSON object per line, and nothing else, on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// Also append the lines of JSON to this file.
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
    /// The name in `--driver`.
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
