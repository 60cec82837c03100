//! Hints that something was committed: from this process by a poke, from others by the file's own counter.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Result, Wakeups};
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::error::store_error;

/// The poking end, shared by everything made from one outbox.
#[derive(Clone)]
pub(crate) struct Bell(watch::Sender<u64>);

impl Bell {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn ring(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bell")
    }
}

/// Waits for pokes, and watches `PRAGMA data_version`, which changes when another connection commits, in this
/// process or in another, without reading any table.
///
/// That also covers an enqueue whose poke came before its commit. What the relay itself writes gives hints, too,
/// but a hint leads to one fetch, and a fetch writes nothing, so that an idle relay falls silent.
pub(crate) struct SqliteWakeups {
    pool: SqlitePool,
    pokes: watch::Receiver<u64>,
    /// Keeps [`Self::pokes`] alive.
    _bell: Bell,
    looks: Interval,
    /// A connection of its own, so that the pool's size does not matter. Lost on an error.
    connection: Option<(SqliteConnection, i64)>,
}

impl SqliteWakeups {
    pub(crate) async fn new(pool: SqlitePool, bell: Bell, interval: Duration) -> Result<Self> {
        let mut looks = tokio::time::interval(interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let pokes = bell.0.subscribe();
        let connection = Some(connect(&pool).await?);
        Ok(Self { pool, pokes, _bell: bell, looks, connection })
    }

    /// Whether somebody else has committed since the last look.
    async fn look(&mut self) -> Result<bool> {
        let Some((connection, seen)) = &mut self.connection else {
            self.connection = Some(connect(&self.pool).await?);
            // Nobody watched in between.
            return Ok(true);
        };
        match data_version(connection).await {
            Ok(version) => {
                let changed = version != *seen;
                *seen = version;
                Ok(changed)
            }
            Err(error) => {
                self.connection = None;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Wakeups for SqliteWakeups {
    async fn wait(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                // The sending end is held above, so that this fails never.
                _ = self.pokes.changed() => return Ok(()),
                _ = self.looks.tick() => {}
            }
            if self.look().await? {
                return Ok(());
            }
        }
    }
}

/// Taken from the pool for good, so that it is set up as the pool's connections are.
async fn connect(pool: &SqlitePool) -> Result<(SqliteConnection, i64)> {
    let doing = "opening a connection for wake-ups";
    let mut connection = pool.acquire().await.map_err(|error| store_error(doing, error))?.detach();
    let version = data_version(&mut connection).await?;
    Ok((connection, version))
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar("PRAGMA data_version")
        .fetch_one(connection)
        .await
        .map_err(|error| store_error("looking for new commits", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_not_lost_while_nobody_listens() {
        let bell = Bell::new();
        let receiver = bell.0.subscribe();
        bell.ring();
        bell.ring();
        assert!(receiver.has_changed().unwrap());
    }
}
