//! Settings: what the tables are called and how many partitions they are made with.

use std::time::Duration;

use outbox_core::{Error, Result};
use outbox_sql::partitions::check_number;

/// Identifiers stay short enough to read in a listing; SQLite itself sets no limit.
const LONGEST_PREFIX: usize = 48;

/// What the outbox is called in the database, and how it is made.
///
/// ```
/// use outbox_sqlite::Config;
///
/// let config = Config::new().prefix("billing_outbox").partitions(8);
/// assert_eq!(config.message_table(), "billing_outbox_message");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    prefix: String,
    partitions: u16,
    wakeup_interval: Duration,
}

impl Default for Config {
    /// Tables `outbox_…`, 16 partitions, a look for foreign commits every 20 ms.
    fn default() -> Self {
        Self { prefix: "outbox".to_owned(), partitions: 16, wakeup_interval: Duration::from_millis(20) }
    }
}

impl Config {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what every table name begins with, before `_message`, `_dead_letter`, `_delivered`, `_lease`,
    /// `_relay` and `_meta`. Default: `outbox`.
    ///
    /// It is made of ASCII letters, digits and underscores, begins with no digit and not with `sqlite_`, and has
    /// at most 48 characters.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how many partitions [`migrate`](crate::Outbox::migrate) makes, from 1 to 1024. Default: 16.
    ///
    /// The number is fixed for the life of the tables: it is an upper limit for the number of relays that can
    /// share the work.
    #[must_use]
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets how often [`Wakeups`](outbox_core::Wakeups) look whether another connection or process has committed.
    /// Default: 20 ms. One look takes a few microseconds and reads no table.
    #[must_use]
    pub fn wakeup_interval(mut self, interval: Duration) -> Self {
        self.wakeup_interval = interval;
        self
    }

    /// The name of the table that messages are inserted into.
    pub fn message_table(&self) -> String {
        self.table("message")
    }

    pub(crate) fn table(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.prefix)
    }

    pub(crate) fn partition_count(&self) -> u16 {
        self.partitions
    }

    pub(crate) fn interval(&self) -> Duration {
        self.wakeup_interval
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let mut characters = self.prefix.chars();
        let first = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let rest = characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !first || !rest || self.prefix.len() > LONGEST_PREFIX {
            return Err(Error::config(
                "the table prefix must be 1 to 48 ASCII letters, digits and underscores and begin with no digit",
            )
            .with("prefix", self.prefix.escape_debug()));
        }
        if self.prefix.to_ascii_lowercase().starts_with("sqlite_") {
            return Err(Error::config(
                "the table prefix must not begin with sqlite_, which SQLite keeps for itself",
            )
            .with("prefix", &self.prefix));
        }
        check_number(self.partitions)?;
        if self.wakeup_interval.is_zero() {
            return Err(Error::config("the wake-up interval must be longer than nothing"));
        }
        Ok(())
    }
}

/// An identifier as SQL. Only validated names get here, so the quotes guard against keywords, not against attacks.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn bad_settings_are_refused_with_the_reason() {
        for (config, part) in [
            (Config::new().prefix(""), "prefix"),
            (Config::new().prefix("1st"), "prefix"),
            (Config::new().prefix("a b"), "prefix"),
            (Config::new().prefix("x\"; DROP TABLE y; --"), "prefix"),
            (Config::new().prefix("\u{e9}t\u{e9}"), "prefix"),
            (Config::new().prefix("a".repeat(49)), "prefix"),
            (Config::new().prefix("SQLite_x"), "sqlite_"),
            (Config::new().partitions(0), "partitions"),
            (Config::new().partitions(1025), "partitions"),
            (Config::new().wakeup_interval(Duration::ZERO), "interval"),
        ] {
            let error = config.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_valid_prefix_needs_no_escaping(prefix in any::<String>()) {
            if Config::new().prefix(prefix.clone()).validate().is_ok() {
                prop_assert_eq!(quoted(&prefix), format!("\"{prefix}\""));
            }
        }
    }
}
