//! Wake-ups by NOTIFY.

use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Error, ErrorKind, Result, Wakeups};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Executor, PgPool};

use crate::error::map_error;

/// How often a silent connection is tried out. Who only listens never learns that the other side has vanished.
const CHECK: Duration = Duration::from_secs(10);
/// How long the answer to that may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens on a connection of its own, so that the pool keeps all of its connections.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: PgListener,
}

impl Listener {
    pub(crate) async fn connect(pool: &PgPool, channel: &str) -> Result<Self> {
        // The listener wants a pool to reconnect by.
        let own = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .connect_lazy_with((*pool.connect_options()).clone());
        let mut listener = PgListener::connect_with(&own).await.map_err(map_error)?;
        listener.ignore_pool_close_event(true);
        listener.listen(channel).await.map_err(map_error)?;
        Ok(Self { listener })
    }

    /// Fails if nobody is at the other end any more. A notification that comes meanwhile is kept.
    async fn check(&mut self) -> Result<()> {
        match tokio::time::timeout(PATIENCE, self.listener.execute("SELECT 1")).await {
            Ok(answer) => answer.map(|_| ()).map_err(map_error),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the connection that listens has vanished")),
        }
    }
}

#[async_trait]
impl Wakeups for Listener {
    async fn wait(&mut self) -> Result<()> {
        // Nothing from a loss of the connection: it listens again by now, and what was committed in between has
        // been notified to nobody. So that counts as a hint, too.
        loop {
            match tokio::time::timeout(CHECK, self.listener.try_recv()).await {
                Ok(received) => {
                    let _ = received.map_err(map_error)?;
                    while self.listener.next_buffered().is_some() {}
                    return Ok(());
                }
                Err(_) => self.check().await?,
            }
        }
    }
}
