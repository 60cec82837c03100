//! Settings: where the tables are and what they are called.

use crate::partitions::check_number;
use crate::text::fnv1a;
use outbox_core::{Error, Result};

/// PostgreSQL cuts longer identifiers off silently (`NAMEDATALEN - 1`).
const LONGEST_IDENTIFIER: usize = 63;
/// What the body of the trigger's function is quoted with in the DDL.
pub(super) const FUNCTION_QUOTE: &str = "$outbox$";

/// Where the outbox is in the database.
///
/// Every service that enqueues and every relay must use the same settings, except for [`wakeups`](Self::wakeups) and for
/// [`partitions`](Self::partitions), which only `Outbox::migrate` and `Outbox::ddl` read.
///
/// ```
/// use outbox_sql::postgres::Config;
///
/// let config = Config::new().schema("billing").prefix("events");
/// assert_eq!(config.message_table()?, r#""billing"."events_message""#);
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until an outbox is made of them"]
pub struct Config {
    schema: String,
    prefix: String,
    partitions: u16,
    wakeups: bool,
}

impl Config {
    /// The schema `public`, tables called `outbox_…`, 16 partitions, wake-ups by `NOTIFY`.
    pub fn new() -> Self {
        Self { schema: "public".to_owned(), prefix: "outbox".to_owned(), partitions: 16, wakeups: true }
    }

    /// Sets the schema of the tables. Default: `public`, always spelled out, so that nothing depends on anybody's
    /// `search_path`. A schema that does not exist is created with the tables.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets what the names of all tables begin with. Default: `outbox`, for tables such as `outbox_message`.
    ///
    /// Any text is allowed and taken as it is, upper case included, as long as the longest name made from it
    /// keeps within PostgreSQL's 63 bytes.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how many partitions new tables get, from 1 to 1024. Default: 16, which is enough for 16 relays.
    ///
    /// It cannot be changed afterwards: the database computes each row's partition from it, and the order of a key
    /// rests on the key staying in its partition.
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets whether commits wake an idle relay by `NOTIFY`. Default: true. All relays of an outbox must use the same setting; services
    /// that enqueue do not read it.
    ///
    /// Without wake-ups, a relay finds messages within its poll interval. Turn them off if transactions that enqueue are prepared
    /// for two-phase commit: PostgreSQL refuses `PREPARE TRANSACTION` after a `NOTIFY`.
    pub fn wakeups(mut self, wakeups: bool) -> Self {
        self.wakeups = wakeups;
        self
    }

    /// The table that messages are inserted into, quoted and with its schema, for statements of your own.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name cannot be.
    pub fn message_table(&self) -> Result<String> {
        Ok(Names::new(self)?.message)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// The validated and quoted names of all objects in the database. Names of tables include the schema.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Names {
    /// The schema without quotes, to compare it with values in the catalog.
    pub bare_schema: String,
    /// The schema.
    pub schema: String,
    /// The table of undelivered messages.
    pub message: String,
    /// The table of dead letters.
    pub dead_letter: String,
    /// The table of delivered messages that are kept.
    pub delivered: String,
    /// The table of leases.
    pub lease: String,
    /// The table of relays.
    pub relay: String,
    /// The table that holds the version of the tables.
    pub meta: String,
    /// The table of a consumer's inbox.
    pub inbox: String,
    /// The index of the inbox by age.
    pub inbox_age: String,
    /// The trigger on the table of messages.
    pub notify: String,
    /// The trigger's function, with its schema.
    pub notify_function: String,
    /// The sequence that says whether a relay may sleep, with its schema.
    pub sleepers: String,
    /// The same as a string literal for `regclass`.
    pub sleepers_literal: String,
    /// The index of messages by due time.
    pub message_due: String,
    /// The index of messages that block their key.
    pub message_blocking: String,
    /// The index of due messages by key.
    pub message_due_key: String,
    /// The index of dead letters that block their key.
    pub dead_letter_blocking: String,
    /// The index of dead letters by position.
    pub dead_letter_position: String,
    /// The table of undelivered messages as a string literal, for functions that take the name of a table.
    pub message_literal: String,
    /// The channel of the wake-ups.
    pub channel: String,
    /// The key of the advisory lock for migrations.
    pub migrate_lock: i64,
    /// The key of the advisory lock for the group of relays.
    pub group_lock: i64,
    /// The number of partitions.
    pub partitions: u16,
    /// Whether commits notify relays.
    pub wakeups: bool,
}

impl Names {
    /// Makes the names that the settings ask for.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if a name or the number of partitions is invalid.
    pub fn new(config: &Config) -> Result<Self> {
        check_number(config.partitions)?;
        let schema = quote("schema", &config.schema)?;
        if config.prefix.is_empty() {
            return Err(Error::config("the prefix of the table names is empty"));
        }
        let name = |suffix: &str| quote("prefix", &format!("{}_{suffix}", config.prefix));
        let qualified = |suffix: &str| Ok::<_, Error>(format!("{schema}.{}", name(suffix)?));
        let message = qualified("message")?;
        let sleepers = qualified("sleepers")?;
        // Names of channels are limited like identifiers, and these two together are not.
        let hash = fnv1a(message.as_bytes());
        Ok(Self {
            bare_schema: config.schema.clone(),
            dead_letter: qualified("dead_letter")?,
            delivered: qualified("delivered")?,
            lease: qualified("lease")?,
            relay: qualified("relay")?,
            meta: qualified("meta")?,
            inbox: qualified("inbox")?,
            inbox_age: name("inbox_age")?,
            notify: name("message_notify")?,
            notify_function: qualified("message_notify")?,
            sleepers_literal: format!("'{}'", sleepers.replace('\'', "''")),
            sleepers,
            message_due: name("message_due")?,
            message_blocking: name("message_blocking")?,
            message_due_key: name("message_due_key")?,
            dead_letter_blocking: name("dead_letter_blocking")?,
            dead_letter_position: name("dead_letter_position")?,
            message_literal: format!("'{}'", message.replace('\'', "''")),
            channel: format!("outbox_{hash:016x}"),
            migrate_lock: i64::from_ne_bytes(hash.to_ne_bytes()),
            group_lock: i64::from_ne_bytes(fnv1a(format!("{message} group").as_bytes()).to_ne_bytes()),
            partitions: config.partitions,
            wakeups: config.wakeups,
            schema,
            message,
        })
    }
}

/// Quotes an identifier. `setting` names the setting that it comes from, for the error.
///
/// # Errors
/// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) if PostgreSQL would refuse or truncate the name.
pub fn quote(setting: &'static str, name: &str) -> Result<String> {
    let problem = if name.is_empty() {
        "a name is empty".to_owned()
    } else if name.contains('\0') {
        "a name holds a NUL character".to_owned()
    } else if name.contains(FUNCTION_QUOTE) {
        format!("a name holds {FUNCTION_QUOTE}, which ends the body of the trigger's function")
    } else if name.len() > LONGEST_IDENTIFIER {
        format!("a name is longer than the {LONGEST_IDENTIFIER} bytes that PostgreSQL keeps")
    } else {
        return Ok(format!("\"{}\"", name.replace('"', "\"\"")));
    };
    Err(Error::config(problem).with("setting", setting).with("name", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

    use super::*;

    #[test]
    fn names_are_quoted_and_tell_outboxes_apart() {
        let names = Names::new(&Config::new().schema("S").prefix("a\"b")).unwrap();
        assert_eq!(names.message, r#""S"."a""b_message""#);
        let others = [Config::new(), Config::new().schema("S"), Config::new().prefix("x")];
        let mut seen: Vec<_> = others
            .iter()
            .map(|config| Names::new(config).unwrap())
            .flat_map(|names| [names.migrate_lock, names.group_lock])
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn what_postgres_would_cut_off_or_refuse_is_refused() {
        let longest = 63 - "_dead_letter_blocking".len();
        assert!(Names::new(&Config::new().prefix("x".repeat(longest))).is_ok());
        for config in [
            Config::new().prefix("x".repeat(longest + 1)),
            Config::new().prefix(""),
            Config::new().prefix("a\0b"),
            Config::new().prefix("a$outbox$b"),
            Config::new().schema(""),
            Config::new().schema("é".repeat(32)),
            Config::new().partitions(0),
            Config::new().partitions(1025),
        ] {
            assert_eq!(Names::new(&config).unwrap_err().kind(), ErrorKind::Config, "{config:?}");
        }
    }
}
