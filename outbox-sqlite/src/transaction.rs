//! Getting a connection one can begin a transaction on.

use outbox_core::{Error, ErrorKind, Result};
use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqlitePool};

use crate::error::store_error;

/// Takes the write lock at once, waiting for it as long as the busy timeout. A plain `BEGIN` that writes later
/// can fail at that point without waiting, because somebody else has written in between.
pub(crate) const BEGIN_IMMEDIATE: &str = "BEGIN IMMEDIATE";

/// How many broken connections to throw away before giving up. A pool rarely holds one.
const TRIES: usize = 64;

/// A connection from the pool that is in no transaction.
///
/// On some errors, such as a full disk, SQLite itself rolls back; the driver's own count of open transactions is
/// then wrong for the rest of the connection's life, and it would refuse `BEGIN IMMEDIATE` for ever. Such a
/// connection is closed, and the pool opens a new one.
pub(crate) async fn usable_connection(pool: &SqlitePool) -> Result<PoolConnection<Sqlite>> {
    let doing = "taking a connection from the pool";
    for _ in 0..TRIES {
        let mut connection = pool.acquire().await.map_err(|error| store_error(doing, error))?;
        if !connection.is_in_transaction() {
            return Ok(connection);
        }
        // A rollback by a dropped transaction may still be on its way to the connection's thread.
        connection.ping().await.map_err(|error| store_error(doing, error))?;
        if !connection.is_in_transaction() {
            return Ok(connection);
        }
        tracing::debug!("closing a connection that came from the pool inside a transaction");
        // The answer does not matter: it is gone either way.
        let _ = connection.close().await;
    }
    Err(Error::new(ErrorKind::Internal, "every connection of the pool is inside a transaction"))
}
