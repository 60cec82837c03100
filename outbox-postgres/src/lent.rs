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

/// How long the pool may try out a connection.
const RETURN: Duration = Duration::from_secs(5);

/// A connection of the pool for one call. If the call fails or is dropped half way, the connection is closed: sqlx would try it
/// out first, without a limit, and keep its place in the pool taken while nobody answers.
#[derive(Debug)]
pub(crate) struct Lent(PoolConnection<Postgres>);

impl Lent {
    pub(crate) async fn from(pool: &PgPool) -> Result<Self> {
        let mut connection = match pool.acquire().await {
            Ok(connection) => connection,
            Err(error) => {
                sift(pool);
                return Err(map_error(error));
            }
        };
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

/// Tries out all idle connections at a time, after one of them did not answer. The pool does that one by one, as long as it waits
/// for each, so that a relay would stand still for minutes after a network has forgotten all of them.
fn sift(pool: &PgPool) {
    for _ in 0..pool.num_idle() {
        let pool = pool.clone();
        tokio::spawn(async move {
            // One that does not answer is closed when this is given up.
            drop(tokio::time::timeout(RETURN, pool.acquire()).await);
        });
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
