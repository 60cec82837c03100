//! The store's own sessions with the database.
//!
//! They are made as the application's pool makes its own, and are not of it, for two reasons beside those of
//! [`outbox_sql::sessions`]. Their settings keep the planner on the indexes, so that a plan that was made for an empty table is right
//! for a full one, and is made once instead of for each fetch. And those settings must not be left in a session that the
//! application uses.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_core::Result;
use outbox_sql::sessions::{self, Server};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};

use crate::error::map_error;

/// Settings of the planner. Each of our statements finds its rows by an index, and by nested loops over a few parameters.
const PLANNER: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("plan_cache_mode", "auto"),
    // It would compile for half a second what runs for a few milliseconds.
    ("jit", "off"),
];

/// How long a statement waits for a lock. A call fails after it instead of waiting for another session, and is repeated.
const LOCK_TIMEOUT: &str = "1s";
/// The same for relays that come and go, which wait for each other.
const LONG_LOCK_TIMEOUT: &str = "10s";
/// The same for settling while rows are known to be locked by other sessions.
const SHORT_LOCK_TIMEOUT: &str = "50ms";
/// How long a statement runs before the server cancels it: less than a relay waits for a call by default. It is not set if the
/// options of the application's pool set it.
const STATEMENT_TIMEOUT: (&str, &str) = ("statement_timeout", "25s");
/// Makes the server look, while a statement runs or waits, whether its client is still connected. Without it, the statement of a
/// call that the relay has given up runs or waits until it ends by itself. PostgreSQL 14 and newer have it, on most systems.
const CHECK_CLIENT: &str = "SELECT set_config(name, '500', false) FROM pg_catalog.pg_settings
    WHERE name = 'client_connection_check_interval'";

/// Begins a transaction in which every statement sees what was committed before it, whatever the database's default.
///
/// A relay that stands still or has vanished in the middle of it would keep its locks until the server notices, hours later,
/// and all relays wait for the lock of the group. So the server ends such a transaction by itself. Between two
/// statements of ours there is nothing but a round trip.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// Takes back what [`PLANNER`] asks of the planner, for the rest of a transaction.
const PLAN_FREELY: &str = "SET LOCAL enable_seqscan = on; SET LOCAL plan_cache_mode = force_custom_plan";

/// The sessions of one store.
#[derive(Clone, Debug)]
pub(crate) struct Sessions(Arc<sessions::Sessions<Database>>);

/// What the sessions are with.
struct Database {
    /// How to connect. Read at each connection, as an application may replace a password that runs out.
    pool: PgPool,
    /// Whether something between us and the server takes no settings at the start of a session: a pooler that gives sessions
    /// away, which then would not be ours to keep.
    takes_no_settings: AtomicBool,
}

struct Session {
    connection: PgConnection,
    /// Whether it has our settings.
    settled: bool,
}

impl Sessions {
    /// As many as the application would have given us.
    pub(crate) fn beside(pool: PgPool) -> Self {
        let most = usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX);
        let database = Database { pool, takes_no_settings: AtomicBool::new(false) };
        Self(sessions::Sessions::new(database, most))
    }

    /// Whether those that were made so far took our settings. If not, a pooler may give them to somebody else at any time.
    pub(crate) fn are_ours(&self) -> bool {
        !self.0.server().takes_no_settings.load(Ordering::Relaxed)
    }

    /// A session for one call. To be called within a runtime.
    pub(crate) async fn lend(&self) -> Result<Lent> {
        self.0.lend().await.map(Lent)
    }

    /// A session for a heartbeat, which does not wait for a place among the others.
    pub(crate) async fn lend_reserved(&self) -> Result<Lent> {
        self.0.lend_reserved().await.map(Lent)
    }
}

impl Server for Database {
    type Session = Session;

    async fn connect(&self) -> Result<Session> {
        let options = self.pool.connect_options();
        let settled = !self.takes_no_settings.load(Ordering::Relaxed);
        if settled {
            match PgConnection::connect_with(&with_settings(&options)).await {
                Ok(mut connection) => {
                    let settled = has_settings(&mut connection).await?;
                    if settled {
                        check_client(&mut connection).await?;
                    } else {
                        self.note_refusal();
                    }
                    return Ok(Session { connection, settled });
                }
                Err(sqlx::Error::Database(error)) if may_refuse_settings(error.code().as_deref()) => {}
                Err(error) => return Err(map_error(error)),
            }
        }
        let connection = PgConnection::connect_with(&options).await.map_err(map_error)?;
        if settled {
            self.note_refusal();
        }
        Ok(Session { connection, settled: false })
    }

    async fn answers(session: &mut Session) -> bool {
        session.connection.ping().await.is_ok()
    }

    fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// That of the application's pool.
    fn patience(&self) -> Duration {
        self.pool.options().get_acquire_timeout()
    }

    fn lifetime(&self) -> Option<Duration> {
        self.pool.options().get_max_lifetime()
    }
}

impl Database {
    fn note_refusal(&self) {
        if !self.takes_no_settings.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "a session takes no settings, as through a pooler; each statement is planned anew, and there are no \
                 wake-ups"
            );
        }
    }
}

fn with_settings(options: &PgConnectOptions) -> PgConnectOptions {
    let bounded = options.get_options().is_some_and(|options| options.contains(STATEMENT_TIMEOUT.0));
    let options = options.clone().options(PLANNER).options([("lock_timeout", LOCK_TIMEOUT)]);
    if bounded { options } else { options.options([STATEMENT_TIMEOUT]) }
}

/// Asks for [`CHECK_CLIENT`]. A server on a system that cannot tell refuses it.
async fn check_client(connection: &mut PgConnection) -> Result<()> {
    match sqlx::raw_sql(CHECK_CLIENT).execute(connection).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) => {
            tracing::debug!(%error, "the server does not check whether its clients are connected");
            Ok(())
        }
        Err(error) => Err(map_error(error)),
    }
}

/// A pooler may have been told to take settings and to ignore them.
async fn has_settings(connection: &mut PgConnection) -> Result<bool> {
    sqlx::query_scalar("SELECT current_setting('enable_seqscan') = 'off'")
        .fetch_one(connection)
        .await
        .map_err(map_error)
}

/// Whether an error at the start of a session may be about its settings. Poolers have different codes for it, so this is
/// everything but what says what it is: invalid_authorization_specification and invalid_password, invalid_catalog_name,
/// insufficient_resources, and a server that starts or ends.
fn may_refuse_settings(code: Option<&str>) -> bool {
    let code = code.unwrap_or_default();
    !["28", "3D", "53", "57"].iter().any(|class| code.starts_with(class))
}

/// A session for one call. If the call is dropped half way, the session is closed, and with it those that are idle.
pub(crate) struct Lent(sessions::Lent<Database>);

impl Lent {
    /// Begins a transaction. Dropping the future is no harm: the session goes with it, and what was begun on it.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_, Postgres>> {
        self.begin_with("").await
    }

    /// Begins a transaction that waits for its turn among the relays of a group, each of which takes some milliseconds.
    pub(crate) async fn begin_patient(&mut self) -> Result<Transaction<'_, Postgres>> {
        self.begin_with(&format!("; SET LOCAL lock_timeout = '{LONG_LOCK_TIMEOUT}'")).await
    }

    /// Begins a transaction that waits for a lock only for a moment.
    pub(crate) async fn begin_impatient(&mut self) -> Result<Transaction<'_, Postgres>> {
        self.begin_with(&format!("; SET LOCAL lock_timeout = '{SHORT_LOCK_TIMEOUT}'")).await
    }

    /// A transaction whose statements the planner is free with, and plans each time. For what reads much of a table, where the way
    /// along an index, which goes from page to page and back, takes several times as long as the way through the table.
    pub(crate) async fn begin_unplanned(&mut self) -> Result<Transaction<'_, Postgres>> {
        self.begin_with(&format!("; {PLAN_FREELY}")).await
    }

    async fn begin_with(&mut self, more: &str) -> Result<Transaction<'_, Postgres>> {
        let (name, value) = STATEMENT_TIMEOUT;
        let limits = if self.is_settled() {
            String::new()
        } else {
            format!("; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL {name} = '{value}'")
        };
        let begin = AssertSqlSafe(format!("{BEGIN}{limits}{more}"));
        self.0.connection.begin_with(begin).await.map_err(map_error)
    }

    /// A connection for one statement that waits and runs within limits: by the session's settings, or where it took none, in a
    /// transaction.
    pub(crate) async fn bounded(&mut self) -> Result<Bounded<'_>> {
        if self.is_settled() {
            Ok(Bounded::BySettings(&mut self.0.connection))
        } else {
            self.begin().await.map(Bounded::ByTransaction)
        }
    }

    /// The connection, for tests, whose sessions have our settings.
    #[cfg(test)]
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.0.connection
    }

    /// Whether it has our settings. It is ours alone then, so that what is left in it, such as plans, can be kept.
    pub(crate) fn is_settled(&self) -> bool {
        self.0.settled
    }

    /// Ends the call. After an error of the server the session is kept if it answers.
    ///
    /// # Errors
    /// That of the call.
    pub(crate) async fn end<T>(self, result: Result<T>) -> Result<T> {
        self.0.end(result).await
    }
}

/// See [`Lent::bounded`].
pub(crate) enum Bounded<'a> {
    BySettings(&'a mut PgConnection),
    ByTransaction(Transaction<'a, Postgres>),
}

impl Bounded<'_> {
    /// To be called after the statement.
    pub(crate) async fn finish(self) -> Result<()> {
        match self {
            Self::BySettings(_) => Ok(()),
            Self::ByTransaction(transaction) => transaction.commit().await.map_err(map_error),
        }
    }
}

impl Deref for Bounded<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::BySettings(connection) => connection,
            Self::ByTransaction(transaction) => transaction,
        }
    }
}

impl DerefMut for Bounded<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::BySettings(connection) => connection,
            Self::ByTransaction(transaction) => transaction,
        }
    }
}
