//! Wake-ups that do not wake, or wake for nothing.

use async_trait::async_trait;
use outbox_core::memory::MemoryStore;
use outbox_core::{Result, Store as _, Wakeups};

pub(super) struct Silent;

#[async_trait]
impl Wakeups for Silent {
    async fn wait(&mut self) -> Result<()> {
        std::future::pending().await
    }
}

pub(super) struct Noisy;

#[async_trait]
impl Wakeups for Noisy {
    async fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Listens only while somebody waits.
pub(super) struct Forgetful(pub(super) MemoryStore);

#[async_trait]
impl Wakeups for Forgetful {
    async fn wait(&mut self) -> Result<()> {
        match self.0.wakeups().await? {
            Some(mut wakeups) => wakeups.wait().await,
            None => Ok(()),
        }
    }
}
