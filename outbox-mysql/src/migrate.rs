//! Making the tables.

use outbox_core::{Error, ErrorKind, Result};
use outbox_sql::schema::Meta;
use sqlx::{AssertSqlSafe, MySqlConnection, MySqlPool};

use crate::config::Names;
use crate::error::map_error;
use crate::outbox::{Outbox, Shared};
use crate::sql::SCHEMA_VERSION;

/// How many seconds others may take to make the tables.
const PATIENCE: u32 = 60;
/// The first versions with everything this library uses: expressions as defaults, window functions, `JSON_TABLE`.
const OLDEST_MYSQL: (u16, u16, u16) = (8, 0, 14);
const OLDEST_MARIADB: (u16, u16, u16) = (10, 6, 0);

/// What the tables say about themselves.
pub(crate) async fn read_meta(connection: &mut MySqlConnection, shared: &Shared) -> Result<Meta> {
    check_server(connection).await?;
    let row: Option<(i32, i32)> = sqlx::query_as(shared.statements.read_meta.clone())
        .fetch_optional(connection)
        .await
        .map_err(map_error)?;
    let Some((version, partitions)) = row else {
        return Err(schema("the outbox's tables are incomplete; run migrate", &shared.names));
    };
    Ok(Meta { version: version.into(), partitions: partitions.into() })
}

fn schema(problem: &'static str, names: &Names) -> Error {
    Error::new(ErrorKind::Schema, problem).with("table", &names.meta)
}

impl Outbox {
    /// Makes the tables, or brings them up to date. Does nothing if they are. Any number of processes may call it at
    /// once; one works and the others wait for it.
    ///
    /// These databases cannot make tables within a transaction. If it is interrupted, some are there and the outbox
    /// counts as not made until the next call has made the others.
    ///
    /// # Errors
    /// - [`ErrorKind::Schema`] if the tables are newer than this library, which leaves them as they are.
    /// - [`ErrorKind::Config`] if the tables have another number of partitions than the settings say.
    /// - [`ErrorKind::Unsupported`] if the server is older than MySQL 8.0.14 or MariaDB 10.6.
    /// - [`ErrorKind::Permission`] if the user may not create tables.
    /// - [`ErrorKind::Conflict`] if another process takes longer than a minute to do the same.
    ///
    /// # Cancel safety
    /// A dropped call may have made some of the tables. Call it again.
    pub async fn migrate(&self, pool: &MySqlPool) -> Result<()> {
        // A connection that ends frees its lock, whatever happens. So it is not given back to the pool.
        let mut connection = pool.acquire().await.map_err(map_error)?.detach();
        // Before anything that an old server does not know.
        check_server(&mut connection).await?;
        let Shared { names, .. } = &*self.shared;
        lock(&mut connection, &names.migrate_lock).await?;
        let migrated = self.make(&mut connection).await;
        // The tables are made or not; the connection's end changes nothing about that.
        let _ = sqlx::Connection::close(connection).await;
        migrated
    }

    async fn make(&self, connection: &mut MySqlConnection) -> Result<()> {
        let Shared { names, statements, .. } = &*self.shared;
        match read_meta(connection, &self.shared).await {
            Ok(meta) => {
                meta.check_version(SCHEMA_VERSION.into(), &names.meta)?;
                return meta.check_partitions(names.partitions, &names.meta);
            }
            Err(error) if error.kind() == ErrorKind::Schema => {}
            Err(error) => return Err(error),
        }
        for statement in statements.ddl.iter().chain(&statements.finish_ddl) {
            run(connection, statement).await?;
        }
        Ok(())
    }
}

/// Waits for the lock of that name in this database, which ends with the connection.
pub(crate) async fn lock(connection: &mut MySqlConnection, name: &str) -> Result<()> {
    // Locks belong to the server, so that the name of the database is part of theirs. A hash keeps within their 64
    // characters.
    let locked: Option<i64> =
        sqlx::query_scalar("SELECT GET_LOCK(SHA2(CONCAT(COALESCE(DATABASE(), ''), ' ', ?), 256), ?)")
            .bind(name)
            .bind(PATIENCE)
            .fetch_one(connection)
            .await
            .map_err(map_error)?;
    match locked {
        Some(1) => Ok(()),
        _ => Err(Error::new(ErrorKind::Conflict, "another process is making the tables and does not finish")),
    }
}

pub(crate) async fn run(connection: &mut MySqlConnection, statement: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map_err(map_error)?;
    Ok(())
}

async fn check_server(connection: &mut MySqlConnection) -> Result<()> {
    let version: String =
        sqlx::query_scalar("SELECT VERSION()").fetch_one(connection).await.map_err(map_error)?;
    if is_supported(&version) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "the server is older than MySQL 8.0.14 or MariaDB 10.6")
        .with("version", version))
}

/// Whether a server with this version will do. One whose version cannot be read gets the benefit of the doubt.
fn is_supported(version: &str) -> bool {
    let is_mariadb = version.contains("MariaDB");
    // Old replication protocols knew single digits only, so some of MariaDB's versions begin with another one.
    let version = if is_mariadb { version.strip_prefix("5.5.5-").unwrap_or(version) } else { version };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u16>().ok());
    let Some(major) = numbers.next() else { return true };
    let version = (major, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= if is_mariadb { OLDEST_MARIADB } else { OLDEST_MYSQL }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for (version, supported) in [
            ("8.0.14", true),
            ("8.0.13", false),
            ("8.4.3", true),
            ("9.7.4-1", true),
            ("5.7.44-log", false),
            ("10.11.19-MariaDB-0+deb12u1", true),
            ("5.5.5-10.6.4-MariaDB", true),
            ("5.5.5-10.5.9-MariaDB", false),
            ("11.4.2-MariaDB", true),
            ("weird", true),
        ] {
            assert_eq!(is_supported(version), supported, "{version}");
        }
    }
}
