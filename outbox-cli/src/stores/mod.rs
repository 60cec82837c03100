//! The stores that this build has, each with its settings.

#[cfg(feature = "mssql")]
mod mssql;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Message, Result, Store};

use crate::config::{ReadKind, Section};

/// How many connections, and how long to wait for one.
const CONNECTIONS: RangeInclusive<i64> = 1..=1_000;
const WAIT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// Enough for a relay, which fetches, settles and renews its leases at once, and for commands beside it.
const DEFAULT_CONNECTIONS: u32 = 8;
/// A relay repeats what failed, so it need not wait long.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);
/// Bounds of the library's; it says the same when the tables are made.
const PARTITIONS: RangeInclusive<i64> = 1..=1024;

/// Reads how many connections there may be.
fn max_connections(section: &Section<'_>) -> u32 {
    let mut most = DEFAULT_CONNECTIONS;
    section.fill("max_connections", section.number("max_connections", CONNECTIONS), &mut most);
    most
}

/// Reads how long to wait for something of this name.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
fn wait(section: &Section<'_>, name: &str) -> Duration {
    let mut longest = DEFAULT_WAIT;
    section.fill(name, section.duration(name, WAIT), &mut longest);
    longest
}

/// Where an outbox is, as somebody has set it.
#[async_trait]
pub(crate) trait StoreSettings: Send + Sync {
    /// The outbox for people, without secrets. It tells one outbox from another.
    fn place(&self) -> String;

    /// The statements that make the tables.
    fn ddl(&self) -> String;

    /// Opens it. A server that is down is noticed later; a file that cannot be opened, at once.
    async fn open(&self) -> Result<Box<dyn Outbox>>;
}

// The drivers' own settings show passwords in their debug forms.
impl fmt::Debug for dyn StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

/// An outbox that is open.
#[async_trait]
pub(crate) trait Outbox: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Makes the tables, or brings them up to date.
    async fn migrate(&self) -> Result<()>;

    /// Enqueues all of these messages in one transaction, or none.
    async fn enqueue(&self, messages: &[Message]) -> Result<()>;

    /// Closes its connections.
    async fn close(&self);
}

/// The stores of this build, by their names.
const KINDS: &[(&str, ReadKind<Arc<dyn StoreSettings>>)] = &[
    #[cfg(feature = "mssql")]
    ("mssql", mssql::read),
    #[cfg(feature = "mysql")]
    ("mysql", mysql::read),
    #[cfg(feature = "postgres")]
    ("postgres", postgres::read),
    #[cfg(feature = "sqlite")]
    ("sqlite", sqlite::read),
];

/// Those that there are.
const ALL: &[&str] = &["mssql", "mysql", "postgres", "sqlite"];

/// Reads `[route.store]`.
pub(crate) fn read(section: Section<'_>) -> Option<Arc<dyn StoreSettings>> {
    crate::config::kind(section, KINDS, ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_this_program_is_among_those_that_there_are() {
        let built: Vec<_> = KINDS.iter().map(|(word, _)| *word).collect();
        assert!(built.iter().all(|word| ALL.contains(word)), "{built:?}");
        #[cfg(all(feature = "mssql", feature = "mysql", feature = "postgres", feature = "sqlite"))]
        assert_eq!(built, ALL);
    }
}
