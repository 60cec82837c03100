//! Wake-ups by NOTIFY.

use async_trait::async_trait;
use outbox_core::{Result, Wakeups};
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};

use crate::error::map_error;

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
}

#[async_trait]
impl Wakeups for Listener {
    async fn wait(&mut self) -> Result<()> {
        // Nothing from a loss of the connection: it listens again by now, and what was committed in between has
        // been notified to nobody. So that counts as a hint, too.
        let _ = self.listener.try_recv().await.map_err(map_error)?;
        while self.listener.next_buffered().is_some() {}
        Ok(())
    }
}
