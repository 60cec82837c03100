//! The command line.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};

use crate::conditions;

const ABOUT: &str = "Publishes the messages of transactional outboxes to brokers, and operates the outboxes.";

const AFTER_HELP: &str = "\
Settings come from a file (outbox.toml, or --config), then from variables such as OUTBOX__STORE__URL and \
OUTBOX__RELAY__PUBLISH_BATCH, then from --set. A later source overrides an earlier one. `outbox config check` shows the \
source of each setting.

Exit codes:
  0  done
  1  the database, the broker or the system refused
  2  the command line or the settings are wrong
  3  a relay was stopped before all messages in flight were settled
  4  the doctor found a problem";

#[derive(Debug, Parser)]
#[command(name = "outbox", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,

    /// When to use colors
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub(crate) color: ColorChoice,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Sources of the settings.
#[derive(Args, Debug)]
pub(crate) struct SettingsArgs {
    /// Configuration file [default: outbox.toml, if it exists]
    #[arg(long, short, global = true, value_name = "FILE", env = "OUTBOX_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Override one setting, such as relay.publish_batch=100, or route.orders.relay.publish_batch=100 with several routes. Do not
    /// pass secrets: other users of the machine can see the command line
    #[arg(long, global = true, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Selects one of several routes.
#[derive(Args, Debug)]
pub(crate) struct RouteArgs {
    /// Route to use; not needed if there is only one
    #[arg(long, short, value_name = "NAME")]
    pub(crate) route: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish messages until SIGTERM or SIGINT, then finish the messages in flight
    Relay(RelayArgs),
    /// Check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Create the tables of the outbox, or upgrade them
    Migrate(MigrateArgs),
    /// Show backlog, lag and dead letters
    Status(StatusArgs),
    /// List, show, redrive and discard dead letters
    #[command(subcommand, visible_alias = "dead")]
    DeadLetters(DeadLettersCommand),
    /// Show undelivered messages, in order
    Peek(PeekArgs),
    /// Delete delivered messages that are older than a given age
    Purge(PurgeArgs),
    /// Enqueue messages, as a service does
    Enqueue(EnqueueArgs),
    /// Check the databases and the brokers, and report each problem with what to do
    Doctor(DoctorArgs),
    /// Run a demonstration on a database in a temporary folder, without any server
    #[cfg(feature = "sqlite")]
    Demo,
    /// Generate shell completions
    Completions {
        /// Shell to generate completions for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for `outbox man | man -l -`
    Man {
        /// Folder to write the pages of all commands to, instead of printing one
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct RelayArgs {
    /// Route to run. May be repeated [default: all routes]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) route: Vec<String>,

    /// Create missing tables first
    #[arg(long)]
    pub(crate) migrate: bool,

    /// Stop when no undelivered message is left, for jobs and tests. Dead letters and messages that wait behind them do not count
    #[arg(long)]
    pub(crate) until_empty: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the settings without connecting to anything, and show the source of each
    Check,
}

#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// Print the SQL for an empty database instead of running it
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// Refresh until interrupted
    #[arg(long, short)]
    pub(crate) watch: bool,

    /// Refresh interval
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) interval: std::time::Duration,

    /// Print one JSON object per refresh, each on its own line
    #[arg(long)]
    pub(crate) json: bool,

    /// Maximum number of messages to count
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) limit: u64,
}

#[derive(Args, Debug)]
pub(crate) struct EnqueueArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// Topic. Without it, messages are read from standard input, one JSON object per line, with topic and the optional
    /// fields key, payload (a string or any JSON) or payload_base64, content_type, headers, options, id, deliver_at
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: Option<String>,

    /// Payload [default: empty]
    #[arg(value_name = "PAYLOAD", requires = "topic")]
    pub(crate) payload: Option<String>,

    /// Ordering key
    #[arg(long, short, requires = "topic")]
    pub(crate) key: Option<String>,

    /// Header. May be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", requires = "topic")]
    pub(crate) headers: Vec<String>,

    /// Media type of the payload
    #[arg(long, value_name = "TYPE", requires = "topic")]
    pub(crate) content_type: Option<String>,

    /// Time to wait before the message is delivered, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "topic")]
    pub(crate) delay: Option<std::time::Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// Print one JSON object per finding, each on its own line
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

/// One page of a long list.
#[derive(Args, Debug)]
pub(crate) struct PageArgs {
    /// Maximum number of rows to show
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    pub(crate) limit: usize,

    /// Show only rows after this position, such as the last one of the previous page
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: Option<i64>,

    /// Show payloads and headers, which may contain confidential data
    #[arg(long)]
    pub(crate) payload: bool,

    /// Print one JSON object per message, each on its own line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    /// Minimum time since delivery, such as 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) older_than: std::time::Duration,

    /// Rows to delete per statement. Smaller batches hold locks for less time
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = at_least_one)]
    pub(crate) batch: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List dead letters in the order of their positions
    List {
        #[command(flatten)]
        route: RouteArgs,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one dead letter with all its fields
    Show {
        #[command(flatten)]
        route: RouteArgs,
        /// Position or id of the dead letter
        which: String,
        /// Show payload and headers, which may contain confidential data
        #[arg(long)]
        payload: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Deliver dead letters again, at their old positions
    Redrive(BulkArgs),
    /// Delete dead letters permanently, and release the later messages of their keys
    Discard(BulkArgs),
}

/// Conditions on dead letters. A dead letter is selected if all of them hold.
#[derive(Args, Debug)]
#[group(id = "filter", multiple = true)]
pub(crate) struct FilterArgs {
    /// Select only this topic
    #[arg(long, value_parser = conditions::text)]
    pub(crate) topic: Option<String>,

    /// Select only this key
    #[arg(long, short, value_parser = conditions::text)]
    pub(crate) key: Option<String>,

    /// Select only dead letters whose error contains this string
    #[arg(long, value_name = "TEXT", value_parser = conditions::text)]
    pub(crate) error: Option<String>,

    /// Select only dead letters at least this old, such as 2h
    #[arg(long, value_name = "TIME", value_parser = conditions::age)]
    pub(crate) older_than: Option<std::time::Duration>,

    /// Select only the message with this id
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<outbox_core::MessageId>,

    /// Select only the dead letter at this position. May be repeated
    #[arg(long, value_name = "POSITION")]
    pub(crate) position: Vec<i64>,
}

#[derive(Args, Debug)]
pub(crate) struct BulkArgs {
    #[command(flatten)]
    pub(crate) route: RouteArgs,

    #[command(flatten)]
    pub(crate) filter: FilterArgs,

    /// Select all dead letters
    #[arg(long)]
    pub(crate) all: bool,

    /// Print the number of selected dead letters, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("must be a whole number, at least 1".to_owned()),
    }
}
