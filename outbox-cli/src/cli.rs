//! The command line.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};

const ABOUT: &str = "Relays the messages of transactional outboxes to brokers, and looks after them.";

const AFTER_HELP: &str = "\
Settings come from a file (outbox.toml, or --config), then from variables such as OUTBOX__STORE__URL and \
OUTBOX__RELAY__PUBLISH_BATCH, then from --set. Later ones win. `outbox config check` says which is from where.

Exit codes:
  0  done
  1  the database, the broker or the system refused
  2  the command line or the settings are wrong
  3  a relay was stopped before everything in flight had come to its end
  4  the doctor found a problem";

#[derive(Debug, Parser)]
#[command(name = "outbox", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub(crate) color: ColorChoice,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where settings come from.
#[derive(Args, Debug)]
pub(crate) struct SettingsArgs {
    /// The file of settings [default: outbox.toml, if there is one]
    #[arg(long, short, global = true, value_name = "FILE", env = "OUTBOX_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Sets one field, such as relay.publish_batch=100, or route.orders.relay.publish_batch=100 with several routes. No place for
    /// secrets: other users of the machine can see it
    #[arg(long, global = true, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Which of several routes.
#[derive(Args, Debug)]
pub(crate) struct RouteArgs {
    /// The route whose outbox is meant; not needed if there is only one
    #[arg(long, short, value_name = "NAME")]
    pub(crate) route: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Relays messages until SIGTERM or SIGINT, then finishes what is in flight
    Relay(RelayArgs),
    /// Looks at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes the tables of the outbox, or brings them up to date
    Migrate(MigrateArgs),
    /// Tells how much waits, how long it has waited, and what is dead
    Status(StatusArgs),
    /// Looks after messages that could not be delivered
    #[command(subcommand, visible_alias = "dead")]
    DeadLetters(DeadLettersCommand),
    /// Shows what waits to be delivered, in order
    Peek(PeekArgs),
    /// Deletes delivered messages that were kept for a retention, when they are old enough
    Purge(PurgeArgs),
    /// Enqueues messages, each as if by a service
    Enqueue(EnqueueArgs),
    /// Looks at the databases and the brokers, and says what is wrong and what to do about it
    Doctor(DoctorArgs),
    /// Shows an outbox at work, on a database in a temporary folder, without any server
    #[cfg(feature = "sqlite")]
    Demo,
    /// Prints what a shell needs to complete the command line
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, for `outbox man | man -l -`
    Man {
        /// Writes the pages of all commands into this folder instead
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct RelayArgs {
    /// Only this route [default: all of them]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) route: Vec<String>,

    /// Makes the tables first, where they are missing
    #[arg(long)]
    pub(crate) migrate: bool,

    /// Stops when nothing is left to deliver, for jobs and tests. Dead letters do not count
    #[arg(long)]
    pub(crate) until_empty: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Checks the settings without connecting to anything, and says where each of them is from
    Check,
}

#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// Prints the statements for empty databases, and runs nothing
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// Looks again and again, until interrupted
    #[arg(long, short)]
    pub(crate) watch: bool,

    /// The time between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) interval: std::time::Duration,

    /// One JSON object per look, on a line of its own
    #[arg(long)]
    pub(crate) json: bool,

    /// Counts no further than this
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) limit: u64,
}

#[derive(Args, Debug)]
pub(crate) struct EnqueueArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// The topic. Without one, messages are read from the standard input, one JSON object a line, with topic, and
    /// perhaps key, payload (a text or any JSON) or payload_base64, content_type, headers, options, id, deliver_at
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: Option<String>,

    /// The payload [default: empty]
    #[arg(value_name = "PAYLOAD", requires = "topic")]
    pub(crate) payload: Option<String>,

    /// The ordering key
    #[arg(long, short, requires = "topic")]
    pub(crate) key: Option<String>,

    /// A header. May be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", requires = "topic")]
    pub(crate) headers: Vec<String>,

    /// The media type of the payload
    #[arg(long, value_name = "TYPE", requires = "topic")]
    pub(crate) content_type: Option<String>,

    /// Delivers it no earlier than so long from now
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "topic")]
    pub(crate) delay: Option<std::time::Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// One JSON object per finding, on a line of its own
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PeekArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    #[command(flatten)]
    pub(crate) page: PageArgs,
}

/// A part of a long list.
#[derive(Args, Debug)]
pub(crate) struct PageArgs {
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    pub(crate) limit: usize,

    /// Only those behind this position, such as the last one of the list before
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: Option<i64>,

    /// Shows payloads and headers, which may hold what others should not see
    #[arg(long)]
    pub(crate) payload: bool,

    /// One JSON object per message, on a line of its own
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// How long ago they must have been delivered, such as 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) older_than: std::time::Duration,

    /// Deletes so many with one statement, which neither locks nor logs much then
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = at_least_one)]
    pub(crate) batch: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Lists them in their order
    List {
        #[command(flatten)]
        route: RouteArgs,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows all there is to know about one
    Show {
        #[command(flatten)]
        route: RouteArgs,
        /// Its position, or its id
        which: String,
        /// Shows payload and headers, which may hold what others should not see
        #[arg(long)]
        payload: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Puts them back at their old place, to be delivered at once
    Redrive(BulkArgs),
    /// Deletes them for good, and lets their keys go on
    Discard(BulkArgs),
}

/// Which of them. Conditions add up.
#[derive(Args, Debug)]
#[group(id = "filter", multiple = true)]
pub(crate) struct FilterArgs {
    /// Only this topic
    #[arg(long)]
    pub(crate) topic: Option<String>,

    /// Only this key
    #[arg(long, short)]
    pub(crate) key: Option<String>,

    /// Only those whose error contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,

    /// Only those that died so long ago or longer, such as 2h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) older_than: Option<std::time::Duration>,

    /// Only the message with this id
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<outbox_core::MessageId>,

    /// Only the one at this position. May be repeated
    #[arg(long, value_name = "POSITION")]
    pub(crate) position: Vec<i64>,
}

#[derive(Args, Debug)]
pub(crate) struct BulkArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    #[command(flatten)]
    pub(crate) filter: FilterArgs,

    /// All of them
    #[arg(long)]
    pub(crate) all: bool,

    /// Says how many there are, and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("must be a whole number of at least 1".to_owned()),
    }
}
