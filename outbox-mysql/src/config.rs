//! Settings: where the tables are and what they are called.

use outbox_core::{Error, Result};
use outbox_sql::partitions::check_number;
use outbox_sql::text::fnv1a;

/// Both MySQL and MariaDB refuse longer identifiers. They count characters
/// (<https://dev.mysql.com/doc/refman/8.4/en/identifier-length.html>).
const LONGEST_IDENTIFIER: usize = 64;

/// Where the outbox is on the server.
///
/// Every service that enqueues and every relay must use the same settings, except for
/// [`partitions`](Self::partitions), which only [`Outbox::migrate`](crate::Outbox::migrate) and
/// [`Outbox::ddl`](crate::Outbox::ddl) read.
///
/// ```
/// use outbox_mysql::{Config, Outbox};
///
/// let outbox = Outbox::new(Config::new().database("billing").prefix("events"))?;
/// assert!(outbox.insert_sql().starts_with("INSERT INTO `billing`.`events_message`"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until an outbox is made of them"]
pub struct Config {
    pub(crate) database: Option<String>,
    pub(crate) prefix: String,
    pub(crate) partitions: u16,
}

impl Config {
    /// Tables called `outbox_…` in the database that the connection is in, 16 partitions.
    pub fn new() -> Self {
        Self { database: None, prefix: "outbox".to_owned(), partitions: 16 }
    }

    /// Sets the database of the tables. It must exist. Default: the one that the connection is in.
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// Sets what the names of all tables begin with. Default: `outbox`, for tables such as `outbox_message`.
    ///
    /// Any text is allowed and taken as it is, as long as the longest name made from it keeps within 64 characters.
    /// Whether upper case makes a difference depends on the server (`lower_case_table_names`).
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

    /// The table that messages are inserted into, quoted and with its database if that is set, for statements of your
    /// own.
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

/// The validated and quoted names of all tables.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) message: String,
    pub(crate) dead_letter: String,
    pub(crate) delivered: String,
    pub(crate) lease: String,
    pub(crate) relay: String,
    pub(crate) meta: String,
    pub(crate) inbox: String,
    /// Behind the name of the database the lock is for.
    pub(crate) migrate_lock: String,
    pub(crate) partitions: u16,
}

impl Names {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        check_number(config.partitions)?;
        if config.prefix.is_empty() {
            return Err(Error::config("the prefix of the table names is empty"));
        }
        let database = match &config.database {
            Some(database) => quote("database", database)? + ".",
            None => String::new(),
        };
        let table = |suffix: &str| {
            Ok::<_, Error>(database.clone() + &quote("prefix", &format!("{}_{suffix}", config.prefix))?)
        };
        let message = table("message")?;
        Ok(Self {
            dead_letter: table("dead_letter")?,
            delivered: table("delivered")?,
            lease: table("lease")?,
            relay: table("relay")?,
            meta: table("meta")?,
            inbox: table("inbox")?,
            // Names of locks are limited to 64 characters and shared by the whole server.
            migrate_lock: format!("outbox_{:016x}", fnv1a(message.as_bytes())),
            partitions: config.partitions,
            message,
        })
    }
}

pub(crate) fn quote(setting: &'static str, name: &str) -> Result<String> {
    let problem = if name.is_empty() {
        "a name is empty".to_owned()
    } else if name.contains('\0') {
        "a name holds a NUL character".to_owned()
    } else if name.ends_with(' ') {
        "a name ends with a space".to_owned()
    } else if name.chars().any(|character| u32::from(character) > 0xffff) {
        "a name holds a character beyond U+FFFF, which MySQL cannot have in names".to_owned()
    } else if name.chars().count() > LONGEST_IDENTIFIER {
        format!("a name is longer than the {LONGEST_IDENTIFIER} characters that MySQL allows")
    } else {
        return Ok(format!("`{}`", name.replace('`', "``")));
    };
    Err(Error::config(problem).with("setting", setting).with("name", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

    use super::*;

    #[test]
    fn names_are_quoted_and_tell_outboxes_apart() {
        let names = Names::new(&Config::new().database("D").prefix("a`b")).unwrap();
        assert_eq!(names.message, "`D`.`a``b_message`");
        let other = Names::new(&Config::new()).unwrap();
        assert_eq!(other.message, "`outbox_message`");
        assert_ne!(names.migrate_lock, other.migrate_lock);
    }

    #[test]
    fn what_the_server_would_refuse_is_refused() {
        let longest = 64 - "_dead_letter".len();
        assert!(Names::new(&Config::new().prefix("é".repeat(longest))).is_ok());
        for config in [
            Config::new().prefix("x".repeat(longest + 1)),
            Config::new().prefix(""),
            Config::new().prefix("a\0b"),
            Config::new().prefix("\u{1f600}"),
            Config::new().database(""),
            Config::new().database("a "),
            Config::new().partitions(0),
            Config::new().partitions(1025),
        ] {
            assert_eq!(Names::new(&config).unwrap_err().kind(), ErrorKind::Config, "{config:?}");
        }
    }
}
