//! The one place where the memory store reads the time.

use tokio::time::Instant;

use crate::time::Timestamp;

/// Wall-clock time that advances with tokio's clock, so that paused time drives it.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    started_at: Timestamp,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), started_at: Timestamp::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.started_at.saturating_add(self.started.elapsed())
    }
}
