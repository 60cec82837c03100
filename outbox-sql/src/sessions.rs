//! Sessions with a server that a store keeps for itself.
//!
//! A pool that an application uses, too, has to try out each connection before and after each call, as it does not know
//! who used it last and how. A store's own sessions need not be tried out while they are in use. And they survive a peer that is gone without a
//! word, a host that lost its power or a network that forgot a connection: a pool waits for one after the other, and may wait
//! without a limit for one that comes back.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Result};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// A session that was idle for so long is tried out before it is used.
const FRESH: Duration = Duration::from_secs(5);
/// How long it may take to show that it is alive.
const TRIAL: Duration = Duration::from_secs(5);
/// A session that was idle for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// A server, and how sessions with it are made.
pub trait Server: Send + Sync + 'static {
    /// A session. Dropping it closes it, and the server ends what was begun in it.
    type Session: Send + 'static;

    /// Makes a session. Dropping the future gives it up.
    fn connect(&self) -> impl Future<Output = Result<Self::Session>> + Send;

    /// Whether the other end still answers. It is given five seconds.
    fn answers(session: &mut Self::Session) -> impl Future<Output = bool> + Send;

    /// Whether whoever gave us the settings has closed what they are of.
    fn is_closed(&self) -> bool;

    /// The longest that is waited for a session: for a place, a trial, and a connection.
    fn patience(&self) -> Duration;

    /// The age at which a session is not used again. None: no matter.
    fn lifetime(&self) -> Option<Duration>;
}

/// The sessions of one store.
pub struct Sessions<S: Server> {
    server: S,
    room: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    idle: Mutex<Vec<Kept<S::Session>>>,
}

struct Kept<T> {
    session: T,
    made: Instant,
    idle_since: Instant,
}

impl<S: Server> Sessions<S> {
    /// Creates a set of at most `most` sessions, and at least one, besides the [reserved](Self::lend_reserved) one. Connects
    /// later, when a session is lent.
    pub fn new(server: S, most: usize) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { server, room, reserved: Arc::new(Semaphore::new(1)), idle: Mutex::default() })
    }

    /// What they are sessions with.
    pub fn server(&self) -> &S {
        &self.server
    }

    /// A session for one call. To be called within a runtime of tokio.
    ///
    /// # Errors
    /// That of making a session; [`ErrorKind::Unavailable`] where there is none in time, or no more are to be made.
    ///
    /// # Cancel safety
    /// A session that was tried out or made is closed.
    pub async fn lend(self: &Arc<Self>) -> Result<Lent<S>> {
        self.lend_in(async { self.room.clone().acquire_owned().await }).await
    }

    /// Returns a session as [`lend`](Self::lend) does, with one more place to wait for: whatever the other sessions wait for, a
    /// caller of this function does not wait for them. For heartbeats, which keep a relay's leases.
    ///
    /// # Errors
    /// As [`lend`](Self::lend).
    ///
    /// # Cancel safety
    /// As [`lend`](Self::lend).
    pub async fn lend_reserved(self: &Arc<Self>) -> Result<Lent<S>> {
        let place = async {
            tokio::select! {
                biased;
                place = self.room.clone().acquire_owned() => place,
                place = self.reserved.clone().acquire_owned() => place,
            }
        };
        self.lend_in(place).await
    }

    async fn lend_in(
        self: &Arc<Self>,
        place: impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>>,
    ) -> Result<Lent<S>> {
        if self.server.is_closed() {
            return Err(closed());
        }
        let lend = async {
            let permit = place.await.map_err(|_| closed())?;
            let kept = match self.idle().await {
                Some(kept) => kept,
                None => {
                    let made = Instant::now();
                    Kept { session: self.server.connect().await?, made, idle_since: made }
                }
            };
            Ok(Lent { kept, alarm: Alarm { home: self.clone(), armed: true }, _permit: permit })
        };
        timeout(self.server.patience(), lend).await.unwrap_or_else(|_| Err(too_late()))
    }

    /// The session that was used last, so that the others have time to grow old.
    async fn idle(&self) -> Option<Kept<S::Session>> {
        let mut kept = self.list().pop()?;
        if kept.idle_since.elapsed() < FRESH {
            return Some(kept);
        }
        if timeout(TRIAL, S::answers(&mut kept.session)).await == Ok(true) {
            return Some(kept);
        }
        // It was the one that was used last. What goes for it goes for the others.
        self.list().clear();
        None
    }

    fn take_back(&self, mut kept: Kept<S::Session>) {
        kept.idle_since = Instant::now();
        let most = self.server.lifetime();
        let mut idle = self.list();
        idle.push(kept);
        idle.retain(|kept| {
            kept.idle_since.elapsed() < IDLE && most.is_none_or(|most| kept.made.elapsed() < most)
        });
    }

    fn list(&self) -> MutexGuard<'_, Vec<Kept<S::Session>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Server> fmt::Debug for Sessions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("idle", &self.list().len()).finish_non_exhaustive()
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the pool of connections was closed")
}

fn too_late() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "no connection in time: the server cannot be reached, or the pool is too small for what uses it",
    )
}

/// A session for one call. If the call fails or is dropped half way, the session is closed, and with it those that are idle:
/// what broke it may have broken them.
pub struct Lent<S: Server> {
    kept: Kept<S::Session>,
    alarm: Alarm<S>,
    /// Its place among those that may be lent.
    _permit: OwnedSemaphorePermit,
}

/// Goes off unless the call has come to its end.
struct Alarm<S: Server> {
    home: Arc<Sessions<S>>,
    armed: bool,
}

impl<S: Server> Drop for Alarm<S> {
    fn drop(&mut self) {
        if self.armed {
            self.home.list().clear();
        }
    }
}

impl<S: Server> fmt::Debug for Lent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

impl<S: Server> Lent<S> {
    /// The call has come to its end: nothing is open in the session any more.
    pub fn give_back(mut self) {
        self.alarm.armed = false;
        self.alarm.home.take_back(self.kept);
    }

    /// Ends the call with its result. The session is kept after a success, and after an error that the server itself returned if
    /// the session still answers. Otherwise it is closed, and with it those that are idle.
    ///
    /// A transaction of the call must have been committed or dropped. What the driver has queued for a dropped one, its rollback,
    /// has been run when this returns.
    ///
    /// # Errors
    /// That of the call.
    ///
    /// # Cancel safety
    /// The session is closed.
    pub async fn end<T>(mut self, result: Result<T>) -> Result<T> {
        let keep = match &result {
            Ok(_) => true,
            Err(error) if concerns_the_statement(error.kind()) => {
                timeout(TRIAL, S::answers(&mut self.kept.session)).await == Ok(true)
            }
            Err(_) => false,
        };
        if keep {
            self.give_back();
        }
        result
    }
}

impl<S: Server> Deref for Lent<S> {
    type Target = S::Session;

    fn deref(&self) -> &S::Session {
        &self.kept.session
    }
}

impl<S: Server> DerefMut for Lent<S> {
    fn deref_mut(&mut self) -> &mut S::Session {
        &mut self.kept.session
    }
}

/// Whether an error may leave its session as it was. [`ErrorKind::Schema`] does not: the session may have prepared statements for
/// tables that have changed since.
fn concerns_the_statement(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Conflict
            | ErrorKind::Timeout
            | ErrorKind::Malformed
            | ErrorKind::TooLarge
            | ErrorKind::Permission
            | ErrorKind::Internal
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// A server that counts its sessions, and may be gone without a word.
    #[derive(Default)]
    struct Counting {
        made: AtomicUsize,
        vanished: Arc<AtomicBool>,
        closed: AtomicBool,
        lifetime: Option<Duration>,
    }

    struct Numbered(usize, Arc<AtomicBool>);

    impl Server for Counting {
        type Session = Numbered;

        async fn connect(&self) -> Result<Numbered> {
            if self.vanished.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(Numbered(self.made.fetch_add(1, Ordering::Relaxed), self.vanished.clone()))
        }

        async fn answers(session: &mut Numbered) -> bool {
            if session.1.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            true
        }

        fn is_closed(&self) -> bool {
            self.closed.load(Ordering::Relaxed)
        }

        fn patience(&self) -> Duration {
            Duration::from_secs(12)
        }

        fn lifetime(&self) -> Option<Duration> {
            self.lifetime
        }
    }

    async fn number(sessions: &Arc<Sessions<Counting>>) -> usize {
        let lent = sessions.lend().await.unwrap();
        let number = lent.0;
        lent.give_back();
        number
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_used_again() {
        let sessions = Sessions::new(Counting::default(), 2);
        assert_eq!((number(&sessions).await, number(&sessions).await), (0, 0));
        let (first, second) = (sessions.lend().await.unwrap(), sessions.lend().await.unwrap());
        assert_eq!((first.0, second.0), (0, 1));
        // There are no more than two.
        assert_eq!(sessions.lend().await.err().unwrap().kind(), ErrorKind::Unavailable);
        first.give_back();
        assert_eq!(number(&sessions).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_one_session_closes_those_that_are_idle() {
        let sessions = Sessions::new(Counting::default(), 3);
        let (first, second) = (sessions.lend().await.unwrap(), sessions.lend().await.unwrap());
        first.give_back();
        drop(second);
        assert_eq!(number(&sessions).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_a_statement_keeps_the_sessions() {
        let sessions = Sessions::new(Counting::default(), 3);
        let (first, second) = (sessions.lend().await.unwrap(), sessions.lend().await.unwrap());
        first.give_back();
        let failed = Err::<(), _>(Error::new(ErrorKind::Conflict, "a lock"));
        assert_eq!(second.end(failed).await.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(number(&sessions).await, 1);
        let (first, second) = (sessions.lend().await.unwrap(), sessions.lend().await.unwrap());
        assert_eq!((first.0, second.0), (1, 0));
        second.give_back();
        first.end(Err::<(), _>(Error::new(ErrorKind::Interrupted, "cut"))).await.unwrap_err();
        assert_eq!(number(&sessions).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_does_not_answer_after_an_error_is_closed() {
        let sessions = Sessions::new(Counting::default(), 3);
        let lent = sessions.lend().await.unwrap();
        sessions.server().vanished.store(true, Ordering::Relaxed);
        lent.end(Err::<(), _>(Error::new(ErrorKind::Timeout, "no answer"))).await.unwrap_err();
        sessions.server().vanished.store(false, Ordering::Relaxed);
        assert_eq!(number(&sessions).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserved_session_is_there_when_all_others_are_lent() {
        let sessions = Sessions::new(Counting::default(), 1);
        let other = sessions.lend().await.unwrap();
        let reserved = sessions.lend_reserved().await.unwrap();
        assert_eq!(sessions.lend_reserved().await.err().unwrap().kind(), ErrorKind::Unavailable);
        reserved.give_back();
        assert_eq!(sessions.lend_reserved().await.unwrap().0, 1);
        other.give_back();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_vanished_costs_one_trial() {
        let sessions = Sessions::new(Counting::default(), 4);
        let mut lent = Vec::new();
        for _ in 0..4 {
            lent.push(sessions.lend().await.unwrap());
        }
        lent.into_iter().for_each(Lent::give_back);
        tokio::time::advance(FRESH).await;
        let vanished = &sessions.server().vanished;
        vanished.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let late = tokio::spawn({
            let sessions = sessions.clone();
            async move { number(&sessions).await }
        });
        tokio::time::sleep(TRIAL / 2).await;
        assert!(!late.is_finished());
        // New connections come through again.
        vanished.store(false, Ordering::Relaxed);
        assert_eq!(late.await.unwrap(), 4);
        assert!(begun.elapsed() < TRIAL + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_keeps_no_place() {
        let sessions = Sessions::new(Counting::default(), 1);
        sessions.server().vanished.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(sessions.lend().await.err().unwrap().kind(), ErrorKind::Unavailable);
        }
        sessions.server().vanished.store(false, Ordering::Relaxed);
        assert_eq!(number(&sessions).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn old_sessions_are_closed() {
        let limited = Counting { lifetime: Some(2 * FRESH), ..Counting::default() };
        let sessions = Sessions::new(limited, 2);
        let first = sessions.lend().await.unwrap();
        assert_eq!(number(&sessions).await, 1);
        tokio::time::advance(2 * FRESH).await;
        // Those that were idle are as old as this one.
        first.give_back();
        assert_eq!(number(&sessions).await, 2);
        tokio::time::advance(FRESH).await;
        assert_eq!(number(&sessions).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lent_of_what_is_closed() {
        let sessions = Sessions::new(Counting::default(), 1);
        assert_eq!(number(&sessions).await, 0);
        sessions.server().closed.store(true, Ordering::Relaxed);
        let error = sessions.lend().await.err().unwrap();
        assert_eq!(error.to_string(), closed().to_string());
    }
}
