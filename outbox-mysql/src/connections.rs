//! The store's own connections.

use std::time::Duration;

use outbox_core::Result;
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Executor, MySql, Transaction};

use crate::error::map_error;

/// For settling, leases, and the committed reads.
const MOST_COMMITTED: u32 = 4;
/// For dirty reads. A relay has one at a time.
const MOST_DIRTY: u32 = 2;
/// How many seconds a statement of the relay waits for a row lock. It is repeated anyway, and others of the relay's
/// work wait for it. Applications keep the server's setting, 50 seconds by default.
const LOCK_WAIT: u32 = 10;

/// The most that is waited for a connection. What the application's pool may wait is about its users' patience.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How many seconds the server waits for the next statement before it ends a session and what was begun in it. A relay that
/// stands still or has vanished in the middle of a transaction would keep its locks for eight hours, and all relays wait
/// for the lock of the group. Between two statements of ours there is nothing but a round trip; a pooled connection that was
/// idle for so long is replaced.
const IDLE: u32 = 15;
/// How long a connection that comes back to the pool may take to show that it is alive. Without a limit, one whose other
/// end has vanished would keep its place taken.
const RETURN: Duration = Duration::from_secs(5);

/// Sessions whose settings are ours, so that neither the server's defaults nor what an application does to the
/// sessions of its own pool makes a difference.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    /// At READ COMMITTED: each statement sees what was committed before it began, and locks no gaps.
    pub(crate) committed: MySqlPool,
    /// At READ UNCOMMITTED: sees rows of open transactions. For nothing but looking where there are rows.
    pub(crate) dirty: MySqlPool,
}

impl Connections {
    /// To the same server, as the same user, as the given pool, and with its patience. To be called within a runtime.
    pub(crate) fn beside(pool: &MySqlPool) -> Self {
        Self {
            committed: sessions(pool, "READ COMMITTED", MOST_COMMITTED),
            dirty: sessions(pool, "READ UNCOMMITTED", MOST_DIRTY),
        }
    }

    /// Begins a transaction at READ COMMITTED. Dropping the future is no harm, as `ROLLBACK` is what follows.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, MySql>> {
        self.committed.begin().await.map_err(map_error)
    }
}

fn sessions(beside: &MySqlPool, isolation: &'static str, most: u32) -> MySqlPool {
    let options = beside.options();
    let settings = format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL {isolation};
SET SESSION autocommit = 1, innodb_lock_wait_timeout = {LOCK_WAIT}, wait_timeout = {IDLE}"
    );
    MySqlPoolOptions::new()
        .max_connections(most)
        // The pool tries out idle connections one by one, and waits so long for each one that has vanished.
        .acquire_timeout(options.get_acquire_timeout().min(ACQUIRE))
        .idle_timeout(options.get_idle_timeout())
        .max_lifetime(options.get_max_lifetime())
        .after_connect(move |connection, _| {
            let settings = settings.clone();
            Box::pin(async move {
                connection.execute(sqlx::raw_sql(AssertSqlSafe(settings))).await?;
                Ok(())
            })
        })
        .after_release(|connection, _| {
            Box::pin(async move {
                // Tries it out, and ends what a dropped call may have begun.
                let rollback = tokio::time::timeout(RETURN, connection.execute("ROLLBACK")).await;
                rollback.map_err(|_| sqlx::Error::PoolTimedOut)?.map(|_| true)
            })
        })
        .connect_lazy_with((*beside.connect_options()).clone())
}
