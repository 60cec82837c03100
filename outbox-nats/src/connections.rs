//! The connections of a publisher: one for each call at a time.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::dial::{DialFailure, Dialer};

#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) dialer: Dialer,
    slots: Semaphore,
    /// Not more than there are slots.
    idle: Mutex<Vec<Connection>>,
}

/// A connection that belongs to one call. It is closed with this value, unless it is given back.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    pub(crate) connection: Connection,
    connections: &'a Connections,
    _slot: SemaphorePermit<'a>,
}

impl Connections {
    pub(crate) fn new(dialer: Dialer, most: usize) -> Self {
        Self { dialer, slots: Semaphore::new(most), idle: Mutex::default() }
    }

    /// A connection for a call, after dialing if none is idle.
    pub(crate) async fn lease(&self, deadline: Instant) -> Result<Lease<'_>, DialFailure> {
        let Ok(Ok(slot)) = timeout_at(deadline, self.slots.acquire()).await else {
            return Err(DialFailure::NoneFree);
        };
        let connection = match self.idle() {
            Some(connection) => connection,
            None => self.dialer.dial(deadline).await?,
        };
        Ok(Lease { connection, connections: self, _slot: slot })
    }

    /// The idle connection that was used last. Those that have ended meanwhile are dropped.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some(connection) = idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    /// Closes the idle connections.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease<'_> {
    /// Returns the connection for the next call. Every message that was sent on it has its answer.
    pub(crate) fn give_back(self) {
        self.connections.lock().push(self.connection);
    }
}
