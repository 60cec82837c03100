//! What the tables say about themselves, and whether a library can work with them.

use outbox_core::{Error, ErrorKind, Result};

/// The version of the tables and the number of partitions, as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The version of the tables.
    pub version: i64,
    /// The number of partitions, fixed for their life.
    pub partitions: i64,
}

impl Meta {
    /// Refuses tables of another version than the one a library knows.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`], which says what to bring up to date.
    pub fn check_version(self, known: i64, table: &str) -> Result<()> {
        let problem = if self.version > known {
            "the outbox's tables are newer than this library; update the library before anything else"
        } else if self.version < known {
            "the outbox's tables are older than this library; run migrate"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Schema, problem)
            .with("table", table)
            .with("tables", self.version)
            .with("library", known))
    }

    /// Refuses settings with another number of partitions.
    ///
    /// # Errors
    /// [`ErrorKind::Config`].
    pub fn check_partitions(self, settings: u16, table: &str) -> Result<()> {
        if self.partitions == i64::from(settings) {
            return Ok(());
        }
        Err(Error::config(
            "the number of partitions cannot be changed once there are tables; set it to what they have",
        )
        .with("table", table)
        .with("tables", self.partitions)
        .with("settings", settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_version_and_number_of_partitions_will_do() {
        let meta = Meta { version: 2, partitions: 16 };
        meta.check_version(2, "t").and_then(|()| meta.check_partitions(16, "t")).unwrap();
        let older = meta.check_version(3, "t").unwrap_err();
        assert!(older.kind() == ErrorKind::Schema && older.to_string().contains("run migrate"), "{older}");
        let newer = meta.check_version(1, "t").unwrap_err();
        assert!(
            newer.kind() == ErrorKind::Schema && newer.to_string().contains("update the library"),
            "{newer}"
        );
        assert_eq!(meta.check_partitions(8, "t").unwrap_err().kind(), ErrorKind::Config);
    }
}
