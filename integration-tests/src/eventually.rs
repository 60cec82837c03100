//! Waiting for a condition instead of sleeping for a fixed time.

use std::future::Future;
use std::time::{Duration, Instant};

/// The interval between two polls. Short compared with any waiting time of a test, long compared with the
/// cost of a poll.
const INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it returns `Some`, and returns that value.
///
/// The deadline counts in real time, because the awaited event happens in other processes. A single poll is
/// cut off when the deadline passes, so a condition may itself wait for a server that never answers.
///
/// # Panics
/// When `deadline` has passed without a `Some`. The message contains `what`, the awaited condition.
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
    poll_until(deadline, condition)
        .await
        .unwrap_or_else(|| panic!("waited {deadline:?} without success for {what}"))
}

/// The time limits that [`with_growing_limit`] tries.
const LIMITS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(20), Duration::from_secs(120)];

/// Runs `attempt` with growing time limits until it returns `Ok`.
///
/// For tests of a time limit, such as "a broker that does not answer is given up after the limit". The limit
/// should be short, because the test waits for it, and long enough for everything that must happen before. No
/// single value is right on both a fast and a slow machine. An error that does not come from slowness occurs
/// with every limit.
///
/// # Panics
/// If `attempt` also returns an error with the longest limit.
pub async fn with_growing_limit(mut attempt: impl AsyncFnMut(Duration) -> Result<(), String>) {
    let mut failures = Vec::new();
    for limit in LIMITS {
        match attempt(limit).await {
            Ok(()) => return,
            Err(failure) => failures.push(format!("with a limit of {limit:?}: {failure}")),
        }
    }
    panic!("{}", failures.join("\n"));
}

/// Like [`eventually`], but returns `None` when the deadline has passed.
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

/// Like [`poll_until`], for a condition that needs no runtime.
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
    async fn a_longer_limit_follows_a_failure() {
        let mut tried = Vec::new();
        with_growing_limit(async |limit| {
            tried.push(limit);
            if limit >= LIMITS[1] { Ok(()) } else { Err("too slow".to_owned()) }
        })
        .await;
        assert_eq!(tried, LIMITS[..2]);
    }

    #[tokio::test]
    #[should_panic(expected = "with a limit of 120s: wrong")]
    async fn what_fails_with_every_limit_fails() {
        with_growing_limit(async |_| Err("wrong".to_owned())).await;
    }

    #[tokio::test]
    #[should_panic(expected = "without success for a miracle")]
    async fn the_failure_says_what_was_missing() {
        eventually("a miracle", Duration::from_millis(20), || async { None::<()> }).await;
    }
}
