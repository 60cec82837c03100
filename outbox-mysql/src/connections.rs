//! The store's own connections.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::Result;
use outbox_sql::sessions::{self, Server, Sessions};
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlPool, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, Executor, MySql};

use crate::error::map_error;

/// For settling, leases, and the committed reads.
const MOST_COMMITTED: usize = 4;
/// For dirty reads. A relay has one at a time.
const MOST_DIRTY: usize = 2;
/// How many seconds a statement of the relay waits for a row lock. It is repeated anyway, and others of the relay's
/// work wait for it. Applications keep the server's setting, 50 seconds by default.
const LOCK_WAIT: u32 = 10;

/// The most that is waited for a connection. What the application's pool may wait is about its users' patience.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How many seconds the server waits for the next statement before it ends a session and what was begun in it. A relay that
/// stands still or has vanished in the middle of a transaction would keep its locks for eight hours, and all relays wait
/// for the lock of the group. Between two statements of ours there is nothing but a round trip; a session that was idle
/// for a third of it is tried out before it is used.
const IDLE: u32 = 15;

/// A session for one call.
pub(crate) type Lent = sessions::Lent<Database>;

/// Sessions whose settings are ours, so that neither the server's defaults nor what an application does to the
/// sessions of its own pool makes a difference.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    committed: Arc<Sessions<Database>>,
    dirty: Arc<Sessions<Database>>,
}

impl Connections {
    /// To the same server, as the same user, as the given pool, and with its patience.
    pub(crate) fn beside(pool: &MySqlPool) -> Self {
        let sessions = |isolation, most| Sessions::new(Database { pool: pool.clone(), isolation }, most);
        Self {
            committed: sessions("READ COMMITTED", MOST_COMMITTED),
            dirty: sessions("READ UNCOMMITTED", MOST_DIRTY),
        }
    }

    /// A session at READ COMMITTED: each statement sees what was committed before it began, and locks no gaps. To be
    /// called within a runtime.
    pub(crate) async fn lend(&self) -> Result<Lent> {
        self.committed.lend().await
    }

    /// All rows of one statement, at READ COMMITTED.
    pub(crate) async fn rows(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<Vec<MySqlRow>> {
        let mut session = self.lend().await?;
        let rows = query.fetch_all(&mut *session).await.map_err(map_error)?;
        session.give_back();
        Ok(rows)
    }

    /// The only row of one statement, at READ COMMITTED.
    pub(crate) async fn row(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<MySqlRow> {
        let mut session = self.lend().await?;
        let row = query.fetch_one(&mut *session).await.map_err(map_error)?;
        session.give_back();
        Ok(row)
    }

    /// A session at READ UNCOMMITTED: sees rows of open transactions. For nothing but looking where there are rows.
    pub(crate) async fn lend_dirty(&self) -> Result<Lent> {
        self.dirty.lend().await
    }
}

/// What the sessions are with.
pub(crate) struct Database {
    /// How to connect. Read at each connection, as an application may replace a password that runs out.
    pool: MySqlPool,
    isolation: &'static str,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("isolation", &self.isolation).finish_non_exhaustive()
    }
}

impl Server for Database {
    type Session = MySqlConnection;

    async fn connect(&self) -> Result<MySqlConnection> {
        let options = self.pool.connect_options();
        let mut connection = MySqlConnection::connect_with(&options).await.map_err(map_error)?;
        let isolation = self.isolation;
        let settings = format!(
            "SET SESSION TRANSACTION ISOLATION LEVEL {isolation};
SET SESSION autocommit = 1, innodb_lock_wait_timeout = {LOCK_WAIT}, wait_timeout = {IDLE}"
        );
        connection.execute(sqlx::raw_sql(AssertSqlSafe(settings))).await.map_err(map_error)?;
        Ok(connection)
    }

    async fn answers(session: &mut MySqlConnection) -> bool {
        session.ping().await.is_ok()
    }

    fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    fn patience(&self) -> Duration {
        self.pool.options().get_acquire_timeout().min(ACQUIRE)
    }

    fn lifetime(&self) -> Option<Duration> {
        self.pool.options().get_max_lifetime()
    }
}
