//! Counts the statements that go to databases, by what the driver says of them.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::layer::{Context, Layer};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// How many there were so far, if [`Counter`] is in place.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// The target under which sqlx speaks of each statement, at the level of debugging.
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
