//! Counts the statements to databases, from the driver's log events.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::layer::{Context, Layer};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The number of statements so far, if [`Counter`] is installed.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// The target of sqlx's log event for each statement, at the level `debug`.
pub const TARGET: &str = "sqlx::query";

/// Counts them.
#[derive(Clone, Copy, Debug)]
pub struct Counter;

impl<S: tracing::Subscriber> Layer<S> for Counter {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == TARGET {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    }
}
