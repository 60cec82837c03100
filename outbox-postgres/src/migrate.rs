//! Making the tables.

use outbox_core::{Error, ErrorKind, Result};
use outbox_sql::postgres::Names;
use outbox_sql::postgres::ddl::SCHEMA_VERSION;
use outbox_sql::schema::Meta;
use sqlx::{PgConnection, PgPool};

use crate::encoding::Encoding;
use crate::error::map_error;
use crate::outbox::{Outbox, Shared};
use crate::transaction::begin;

/// Version 13 brought `xid8` and a public `gen_random_uuid()`.
const OLDEST_SERVER: i32 = 130_000;

/// What the tables say about themselves, and the encoding of the database.
pub(crate) async fn read_meta(connection: &mut PgConnection, shared: &Shared) -> Result<(Meta, Encoding)> {
    let encoding = check_server(connection).await?;
    let row: Option<(i32, i32)> = sqlx::query_as(shared.statements.read_meta.clone())
        .fetch_optional(connection)
        .await
        .map_err(map_error)?;
    let Some((version, partitions)) = row else {
        return Err(schema("the outbox's tables say nothing about their version", &shared.names));
    };
    Ok((Meta { version: version.into(), partitions: partitions.into() }, encoding))
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
    /// - [`ErrorKind::Config`] if the tables have another number of partitions than the settings say, or if the
    ///   database's encoding is `SQL_ASCII`.
    /// - [`ErrorKind::Unsupported`] if the server is older than PostgreSQL 13.
    /// - [`ErrorKind::Permission`] if the role may not create tables.
    ///
    /// # Cancel safety
    /// A dropped call has done everything or nothing.
    pub async fn migrate(&self, pool: &PgPool) -> Result<()> {
        let Shared { names, statements, .. } = &*self.shared;
        let mut tx = begin(pool).await?;
        // Before anything that an old server does not know.
        check_server(&mut tx).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(names.migrate_lock)
            .execute(&mut *tx)
            .await
            .map_err(map_error)?;

        // Asked first, because PostgreSQL wants the right to create schemas even for IF NOT EXISTS.
        let (schema, tables): (bool, bool) = sqlx::query_as(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1), to_regclass($2) IS NOT NULL",
        )
        .bind(&names.bare_schema)
        .bind(&names.meta)
        .fetch_one(&mut *tx)
        .await
        .map_err(map_error)?;
        if tables {
            let (meta, _) = read_meta(&mut tx, &self.shared).await?;
            meta.check_version(SCHEMA_VERSION.into(), &names.meta)?;
            return meta.check_partitions(names.partitions, &names.meta);
        }
        if !schema {
            sqlx::raw_sql(statements.create_schema.clone()).execute(&mut *tx).await.map_err(map_error)?;
        }
        sqlx::raw_sql(statements.create_tables.clone()).execute(&mut *tx).await.map_err(map_error)?;
        tx.commit().await.map_err(map_error)
    }
}

async fn check_server(connection: &mut PgConnection) -> Result<Encoding> {
    let (version, encoding): (i32, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')",
    )
    .fetch_one(connection)
    .await
    .map_err(map_error)?;
    if version < OLDEST_SERVER {
        return Err(Error::new(ErrorKind::Unsupported, "the server is older than PostgreSQL 13")
            .with("server_version_num", version));
    }
    // It takes any bytes for a text, and fails whole statements when one of them cannot be sent as UTF-8.
    if encoding == "SQL_ASCII" {
        return Err(Error::config(
            "the database has the encoding SQL_ASCII; use one in UTF8, or any other encoding",
        ));
    }
    Ok(Encoding::of(&encoding))
}
