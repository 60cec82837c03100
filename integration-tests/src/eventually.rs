//! Waiting for a condition instead of sleeping and hoping.

use std::future::Future;
use std::time::{Duration, Instant};

/// Between two looks. Short beside anything a test waits for, long beside the cost of a look.
const INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it gives `Some`, and returns that.
///
/// The deadline counts in real time, because what is waited for happens in other processes. A single look is cut
/// off when the deadline passes, so a condition may itself wait on a server that never answers.
///
/// # Panics
/// When `deadline` has passed without a `Some`. `what` says in the message what was waited for.
///
/// ```
/// # use std::time::Duration;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use std::sync::atomic::{AtomicU32, Ordering};
/// let looks = AtomicU32::new(0);
/// let seen = integration_tests::eventually("three looks", Duration::from_secs(5), || async {
///     (looks.fetch_add(1, Ordering::Relaxed) == 2).then_some("done")
/// })
/// .await;
/// assert_eq!(seen, "done");
/// # });
/// ```
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    poll_until(deadline, condition).await.unwrap_or_else(|| panic!("waited {deadline:?} in vain for {what}"))
}

/// As [`eventually`], with `None` when the time is over.
pub(crate) async fn poll_until<T, F, Fut>(deadline: Duration, mut condition: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        let left = deadline.checked_sub(started.elapsed())?;
        if let Some(value) = tokio::time::timeout(left, condition()).await.ok()? {
            return Some(value);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// As [`poll_until`], for a condition that needs no runtime.
pub(crate) fn poll_until_blocking<T>(
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if started.elapsed() > deadline {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_hangs_does_not_outlive_the_deadline() {
        let started = Instant::now();
        let deadline = Duration::from_millis(50);
        assert!(poll_until(deadline, std::future::pending::<Option<()>>).await.is_none());
        assert!(started.elapsed() >= deadline);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for a miracle")]
    async fn the_failure_says_what_was_missing() {
        eventually("a miracle", Duration::from_millis(20), || async { None::<()> }).await;
    }
}
