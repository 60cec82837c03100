//! Making the tables.

use outbox_core::{Error, ErrorKind, Result};
use outbox_sql::schema::Meta;
use tiberius::Row;

use crate::call::{again, begin, commit, execute, query};
use crate::config::Names;
use crate::error::map_error;
use crate::outbox::{Outbox, Shared};
use crate::pool::{Client, Pool};
use crate::row::Columns;
use crate::sql::{Reading, SCHEMA_VERSION};

/// SQL Server 2017.
const OLDEST_SERVER: i64 = 14;
/// `OPENJSON` came with this level, that of SQL Server 2016.
const OLDEST_LEVEL: i64 = 130;
/// `SERVERPROPERTY('EngineEdition')` of Azure SQL Database and Managed Instance, whose versions say nothing.
const AZURE: [i64; 2] = [5, 8];

/// What the server and the database are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerFacts {
    /// PostgreSQL behind the protocol and the language of SQL Server.
    pub(crate) is_babelfish: bool,
    version: i64,
    edition: i64,
    level: i64,
    has_versions: bool,
    has_tables: bool,
}

impl ServerFacts {
    pub(crate) async fn read(client: &mut Client, shared: &Shared) -> Result<Self> {
        let rows = query(client, &shared.statements.server, &[]).await?.rows();
        let row = rows.first().map(Columns).ok_or_else(|| {
            Error::new(ErrorKind::Permission, "the user may not see the database in sys.databases")
        })?;
        Ok(Self {
            is_babelfish: row.boolean(0)?,
            version: row.number(1)?.unwrap_or(0),
            edition: row.number(2)?.unwrap_or(0),
            level: row.number(3)?.unwrap_or(0),
            has_versions: row.boolean(4)?,
            has_tables: row.boolean(5)?,
        })
    }

    /// How to read what others may be writing.
    pub(crate) fn reading(self) -> Reading {
        if self.has_versions || self.is_babelfish { Reading::Versions } else { Reading::Locks }
    }

    fn check(self) -> Result<()> {
        if self.is_babelfish {
            return Ok(());
        }
        if self.version < OLDEST_SERVER && !AZURE.contains(&self.edition) {
            return Err(Error::new(ErrorKind::Unsupported, "the server is older than SQL Server 2017")
                .with("version", self.version));
        }
        if self.level < OLDEST_LEVEL {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the database's compatibility level is below 130; raise it by ALTER DATABASE … SET COMPATIBILITY_LEVEL",
            )
            .with("level", self.level));
        }
        Ok(())
    }
}

/// What the tables say about themselves.
pub(crate) async fn read_meta(client: &mut Client, shared: &Shared) -> Result<Meta> {
    let rows: Vec<Row> = query(client, &shared.statements.read_meta, &[]).await?.rows();
    let Some(row) = rows.first().map(Columns) else {
        return Err(schema("the outbox's tables say nothing about their version", &shared.names));
    };
    Ok(Meta { version: row.required(0)?, partitions: row.required(1)? })
}

fn schema(problem: &'static str, names: &Names) -> Error {
    Error::new(ErrorKind::Schema, problem).with("table", &names.meta)
}

impl Outbox {
    /// Makes the tables, or brings them up to date. Does nothing if they are. Any number of processes may call it at
    /// once; one works and the others wait for it.
    ///
    /// It runs in one transaction, so that it is done as a whole or not at all.
    ///
    /// # Errors
    /// - [`ErrorKind::Schema`] if the tables are newer than this library, which leaves them as they are.
    /// - [`ErrorKind::Config`] if the tables have another number of partitions than the settings say.
    /// - [`ErrorKind::Unsupported`] if the server is older than SQL Server 2017, or the database's compatibility level
    ///   is below 130.
    /// - [`ErrorKind::Permission`] if the user may not create tables.
    ///
    /// # Cancel safety
    /// A dropped call has done everything or nothing.
    pub async fn migrate(&self, pool: &Pool) -> Result<()> {
        let shared = &*self.shared;
        again(|| async move {
            let mut tx = begin(pool).await?;
            ServerFacts::read(&mut tx, shared).await?.check()?;
            execute(&mut tx, &shared.statements.lock, &[&shared.names.migrate_lock]).await?;
            // Again, as somebody may have been at work while this waited.
            if ServerFacts::read(&mut tx, shared).await?.has_tables {
                let meta = read_meta(&mut tx, shared).await?;
                meta.check_version(SCHEMA_VERSION.into(), &shared.names.meta)?;
                meta.check_partitions(shared.names.partitions, &shared.names.meta)?;
            } else {
                batch(&mut tx, &shared.statements.ddl).await?;
            }
            commit(tx).await
        })
        .await
    }
}

/// Runs statements as a batch, outside of `sp_executesql`.
pub(crate) async fn batch(client: &mut Client, statements: &str) -> Result<()> {
    client
        .simple_query(statements)
        .await
        .map_err(map_error)?
        .into_results()
        .await
        .map(drop)
        .map_err(map_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_and_old_levels_are_refused() {
        let facts = |is_babelfish, version, edition, level| ServerFacts {
            is_babelfish,
            version,
            edition,
            level,
            has_versions: false,
            has_tables: false,
        };
        for (facts, supported) in [
            (facts(false, 13, 3, 130), false),
            (facts(false, 14, 3, 130), true),
            (facts(false, 16, 3, 110), false),
            (facts(false, 12, 5, 150), true),
            (facts(false, 12, 8, 120), false),
            (facts(true, 12, 2, 120), true),
        ] {
            let checked = facts.check();
            assert_eq!(checked.is_ok(), supported, "{facts:?}");
            assert!(checked.is_ok_or_else_unsupported());
        }
        assert_eq!(facts(true, 12, 2, 120).reading(), Reading::Versions);
        assert_eq!(facts(false, 16, 3, 160).reading(), Reading::Locks);
    }

    trait Unsupported {
        fn is_ok_or_else_unsupported(&self) -> bool;
    }

    impl Unsupported for Result<()> {
        fn is_ok_or_else_unsupported(&self) -> bool {
            self.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Unsupported)
        }
    }
}
