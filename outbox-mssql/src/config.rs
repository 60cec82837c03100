//! Settings: where the tables are and what they are called.

use outbox_core::{Error, Result};
use outbox_sql::partitions::check_number;
use outbox_sql::text::fnv1a;

/// Identifiers are `sysname`, which is `nvarchar(128)`: <https://learn.microsoft.com/sql/relational-databases/databases/database-identifiers>.
const LONGEST_IDENTIFIER: usize = 128;

/// Where the outbox is in the database.
///
/// Every service that enqueues and every relay must use the same settings, except for
/// [`partitions`](Self::partitions), which only [`Outbox::migrate`](crate::Outbox::migrate) and
/// [`Outbox::ddl`](crate::Outbox::ddl) read.
///
/// ```
/// use outbox_mssql::{Config, Outbox};
///
/// let outbox = Outbox::new(Config::new().schema("billing").prefix("events"))?;
/// assert!(outbox.insert_sql().starts_with("INSERT INTO [billing].[events_message]"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until an outbox is made of them"]
pub struct Config {
    pub(crate) schema: String,
    pub(crate) prefix: String,
    pub(crate) partitions: u16,
}

impl Config {
    /// The schema `dbo`, tables called `outbox_…`, 16 partitions.
    pub fn new() -> Self {
        Self { schema: "dbo".to_owned(), prefix: "outbox".to_owned(), partitions: 16 }
    }

    /// Sets the schema of the tables. Default: `dbo`, always spelled out, so that nothing depends on anybody's
    /// default schema. A schema that does not exist is created with the tables.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets what the names of all tables begin with. Default: `outbox`, for tables such as `outbox_message`.
    ///
    /// Any text is allowed and taken as it is, as long as the longest name made from it keeps within SQL Server's
    /// 128 characters. Whether upper and lower case differ is up to the database's collation.
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

/// The validated and quoted names of everything in the database.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// The bare name of the schema, as data.
    pub(crate) bare_schema: String,
    pub(crate) schema: String,
    pub(crate) message: String,
    pub(crate) dead_letter: String,
    pub(crate) delivered: String,
    pub(crate) lease: String,
    pub(crate) relay: String,
    pub(crate) meta: String,
    pub(crate) inbox: String,
    // Names of indexes and constraints, which have no schema.
    pub(crate) message_position: String,
    pub(crate) message_due: String,
    pub(crate) message_blocking: String,
    pub(crate) dead_letter_blocking: String,
    pub(crate) dead_letter_position: String,
    pub(crate) inbox_age: String,
    /// Resources of `sp_getapplock`, one for migrating and one for the group of relays.
    pub(crate) migrate_lock: String,
    pub(crate) group_lock: String,
    pub(crate) partitions: u16,
}

impl Names {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        check_number(config.partitions)?;
        let schema = quote("schema", &config.schema)?;
        if config.prefix.is_empty() {
            return Err(Error::config("the prefix of the table names is empty"));
        }
        let name = |suffix: &str| quote("prefix", &format!("{}_{suffix}", config.prefix));
        let qualified = |suffix: &str| Ok::<_, Error>(format!("{schema}.{}", name(suffix)?));
        let message = qualified("message")?;
        // Names of resources are limited, too, and compared by the collation of the database.
        let hash = fnv1a(message.as_bytes());
        Ok(Self {
            bare_schema: config.schema.clone(),
            dead_letter: qualified("dead_letter")?,
            delivered: qualified("delivered")?,
            lease: qualified("lease")?,
            relay: qualified("relay")?,
            meta: qualified("meta")?,
            inbox: qualified("inbox")?,
            message_position: name("message_position")?,
            message_due: name("message_due")?,
            message_blocking: name("message_blocking")?,
            dead_letter_blocking: name("dead_letter_blocking")?,
            dead_letter_position: name("dead_letter_position")?,
            inbox_age: name("inbox_age")?,
            migrate_lock: format!("outbox_migrate_{hash:016x}"),
            group_lock: format!("outbox_group_{hash:016x}"),
            partitions: config.partitions,
            schema,
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
        // SQL Server compares names as if there were no spaces at their ends.
        "a name ends with a space".to_owned()
    } else if name.encode_utf16().count() > LONGEST_IDENTIFIER {
        format!("a name is longer than the {LONGEST_IDENTIFIER} characters that SQL Server takes")
    } else {
        return Ok(format!("[{}]", name.replace(']', "]]")));
    };
    Err(Error::config(problem).with("setting", setting).with("name", name.escape_debug()))
}

/// A text as a literal in a statement, for names that are data there.
pub(crate) fn literal(text: &str) -> String {
    format!("N'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_quoted_and_tell_outboxes_apart() {
        let names = Names::new(&Config::new().schema("S").prefix("a]b")).unwrap();
        assert_eq!(names.message, "[S].[a]]b_message]");
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
    fn what_the_server_would_refuse_is_refused() {
        let longest = 128 - "_dead_letter_blocking".len();
        assert!(Names::new(&Config::new().prefix("é".repeat(longest))).is_ok());
        for config in [
            Config::new().prefix("x".repeat(longest + 1)),
            Config::new().prefix(""),
            Config::new().prefix("a\0b"),
            Config::new().schema(""),
            Config::new().schema("a "),
            Config::new().schema("😀".repeat(65)),
            Config::new().partitions(0),
            Config::new().partitions(1025),
        ] {
            assert_eq!(Names::new(&config).unwrap_err().kind(), ErrorKind::Config, "{config:?}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_name_ends_where_it_should(name in "[\\[\\]'\"; a-z]{0,20}x") {
            let quoted = quote("prefix", &name).unwrap();
            let inside = &quoted[1..quoted.len() - 1];
            prop_assert!(!inside.replace("]]", "").contains(']'));
            prop_assert_eq!(inside.replace("]]", "]"), name.clone());
            let text = literal(&name);
            prop_assert!(!text[2..text.len() - 1].replace("''", "").contains('\''));
        }
    }
}
