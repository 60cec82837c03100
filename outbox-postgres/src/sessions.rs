//! The store's own sessions with the database.
//!
//! They are made as the application's pool makes its own, and are not of it, for three reasons. Their settings keep the planner
//! on the indexes, so that a plan that was made for an empty table is right for a full one, and is made once instead of for
//! each fetch. They are not tried out before and after each call, as a pool has to do that does not know who used
//! them. And they survive a peer that is gone without a word, a host that lost its power or a network that forgot a
//! connection, of which a pool would wait for one after the other.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outbox_core::Result;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::error::map_error;

/// A session that was idle for so long is tried out before it is used.
const FRESH: Duration = Duration::from_secs(5);
/// How long it may take to show that it is alive.
const TRIAL: Duration = Duration::from_secs(5);
/// A session that was idle for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// What our statements are planned with. Each of them finds its rows by an index, and by nested loops over a few parameters.
const SETTINGS: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("plan_cache_mode", "auto"),
    // It would compile for half a second what runs for a few milliseconds.
    ("jit", "off"),
];

/// Begins a transaction in which every statement sees what was committed before it, whatever the database's default.
///
/// A relay that stands still or has vanished in the middle of it would keep its locks until the server notices, hours later,
/// and all relays wait for the lock of the group. So the server ends such a transaction by itself. Between two
/// statements of ours there is nothing but a round trip.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// The sessions of one store.
pub(crate) struct Sessions {
    /// How to connect. Read at each connection, as an application may replace a password that runs out.
    pool: PgPool,
    room: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    /// Whether something between us and the server takes no settings at the start of a session: a pooler that gives sessions
    /// away, which then would not be ours to keep.
    takes_no_settings: AtomicBool,
}

struct Session {
    connection: PgConnection,
    /// Whether it has our settings.
    settled: bool,
    made: Instant,
    idle_since: Instant,
}

impl Sessions {
    pub(crate) fn beside(pool: PgPool) -> Arc<Self> {
        let most = usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX);
        Arc::new(Self {
            pool,
            // As many as the application would have given us.
            room: Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS))),
            idle: Mutex::default(),
            takes_no_settings: AtomicBool::new(false),
        })
    }

    /// A session for one call. To be called within a runtime.
    pub(crate) async fn lend(self: &Arc<Self>) -> Result<Lent> {
        if self.pool.is_closed() {
            return Err(map_error(sqlx::Error::PoolClosed));
        }
        // As patient as the application's pool.
        let lend = async {
            let permit = self.room.clone().acquire_owned().await;
            let permit = permit.map_err(|_| map_error(sqlx::Error::PoolClosed))?;
            let session = match self.idle().await {
                Some(session) => session,
                None => self.connect().await?,
            };
            Ok(Lent { session, alarm: Alarm { home: self.clone(), armed: true }, _permit: permit })
        };
        timeout(self.pool.options().get_acquire_timeout(), lend)
            .await
            .unwrap_or_else(|_| Err(map_error(sqlx::Error::PoolTimedOut)))
    }

    /// The session that was used last, so that the others have time to grow old.
    async fn idle(&self) -> Option<Session> {
        let mut session = self.list().pop()?;
        if session.idle_since.elapsed() < FRESH {
            return Some(session);
        }
        if matches!(timeout(TRIAL, session.connection.ping()).await, Ok(Ok(()))) {
            return Some(session);
        }
        // It was the one that was used last. What goes for it goes for the others.
        self.list().clear();
        None
    }

    async fn connect(&self) -> Result<Session> {
        let options = self.pool.connect_options();
        let settled = !self.takes_no_settings.load(Ordering::Relaxed);
        let made = Instant::now();
        let session = |connection, settled| Session { connection, settled, made, idle_since: made };
        if settled {
            match PgConnection::connect_with(&(*options).clone().options(SETTINGS)).await {
                Ok(mut connection) => {
                    if has_settings(&mut connection).await? {
                        return Ok(session(connection, true));
                    }
                    self.note_refusal();
                    return Ok(session(connection, false));
                }
                Err(sqlx::Error::Database(error)) if may_refuse_settings(error.code().as_deref()) => {}
                Err(error) => return Err(map_error(error)),
            }
        }
        let connection = PgConnection::connect_with(&options).await.map_err(map_error)?;
        if settled {
            self.note_refusal();
        }
        Ok(session(connection, false))
    }

    fn note_refusal(&self) {
        if !self.takes_no_settings.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "a session takes no settings, as through a pooler; each statement is planned anew"
            );
        }
    }

    fn take_back(&self, mut session: Session) {
        session.idle_since = Instant::now();
        let most = self.pool.options().get_max_lifetime();
        let mut idle = self.list();
        idle.push(session);
        // Dropping a connection closes it.
        idle.retain(|session| {
            session.idle_since.elapsed() < IDLE && most.is_none_or(|most| session.made.elapsed() < most)
        });
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("idle", &self.list().len()).finish_non_exhaustive()
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

/// A session for one call. If the call fails or is dropped half way, the session is closed, and with it those that are idle:
/// what broke it may have broken them.
pub(crate) struct Lent {
    session: Session,
    alarm: Alarm,
    /// Its place among those that may be lent.
    _permit: OwnedSemaphorePermit,
}

/// Goes off unless the call has come to its end.
struct Alarm {
    home: Arc<Sessions>,
    armed: bool,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            self.home.list().clear();
        }
    }
}

impl Lent {
    /// Dropping the future is no harm: the session goes with it, and what was begun on it.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_, Postgres>> {
        self.session.connection.begin_with(BEGIN).await.map_err(map_error)
    }

    /// Whether it has our settings, so that a plan that was made once can be kept.
    pub(crate) fn keeps_plans(&self) -> bool {
        self.session.settled
    }

    /// The call has come to its end.
    pub(crate) fn give_back(mut self) {
        self.alarm.armed = false;
        self.alarm.home.take_back(self.session);
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.session.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.session.connection
    }
}
