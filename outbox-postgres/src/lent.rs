//! Connections for the relay's calls, which must survive a peer that is gone without a word: a host that lost its power, a
//! network that forgot a connection.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use outbox_core::Result;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};

use crate::error::map_error;

/// Begins a transaction in which every statement sees what was committed before it, whatever the database's default.
///
/// A relay that stands still or has vanished in the middle of it would keep its locks until the server notices, hours later,
/// and all relays wait for the lock of the group. So the server ends such a transaction by itself. Between two
/// statements of ours there is nothing but a round trip.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// How long the pool may try out a connection that comes back.
const RETURN: Duration = Duration::from_secs(5);

/// A connection of the pool for one call. If the call fails or is dropped half way, the connection is closed: sqlx would try it
/// out first, without a limit, and keep its place in the pool taken while nobody answers.
#[derive(Debug)]
pub(crate) struct Lent(PoolConnection<Postgres>);

impl Lent {
    pub(crate) async fn from(pool: &PgPool) -> Result<Self> {
        let mut connection = pool.acquire().await.map_err(map_error)?;
        connection.close_on_drop();
        Ok(Self(connection))
    }

    /// Dropping the future is no harm: the connection goes with it, and what was begun on it.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_, Postgres>> {
        self.0.begin_with(BEGIN).await.map_err(map_error)
    }

    /// The call has come to its end.
    pub(crate) fn give_back(mut self) {
        tokio::spawn(tokio::time::timeout(RETURN, self.0.return_to_pool()));
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
