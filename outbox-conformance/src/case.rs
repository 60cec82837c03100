//! A case and its result.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use outbox_core::Error;

use crate::inbox_harness::{InboxFixture, InboxHarness};
use crate::publisher_harness::{PublisherFixture, PublisherHarness};
use crate::store_harness::{StoreFixture, StoreHarness};

/// Minimum time after which a case counts as hanging.
const CASE_TIMEOUT: Duration = Duration::from_secs(900);

/// Maximum number of waits of a full deadline in one case, each of which could still succeed.
const WAITS: u32 = 10;

/// Returns the time after which a case counts as hanging, given the longest wait for a single condition.
fn case_timeout(deadline: Duration) -> Duration {
    CASE_TIMEOUT.max(deadline.saturating_mul(WAITS))
}

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The promise is broken, or could not be checked. The text describes the observation.
    Failed(String),
    /// The case does not apply to this backend. The text gives the reason.
    NotApplicable(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => f.write_str(text),
            Self::NotApplicable(text) => write!(f, "not applicable: {text}"),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(format!("an unexpected error: {}", error.report()))
    }
}

/// How a case ended.
pub type CaseResult = Result<(), Stop>;

type CaseFuture<'a> = Pin<Box<dyn Future<Output = CaseResult> + Send + 'a>>;

/// A promise, and the check of it on a fixture `F`.
pub struct Case<F: ?Sized> {
    /// Its name, `group::what_is_promised`.
    pub name: &'static str,
    /// The promise in one sentence.
    pub promise: &'static str,
    run: for<'a> fn(&'a F) -> CaseFuture<'a>,
}

/// A case for a store.
pub type StoreCase = Case<dyn StoreFixture>;

/// A case for an inbox.
pub type InboxCase = Case<dyn InboxFixture>;

/// A case for a publisher.
pub type PublisherCase = Case<dyn PublisherFixture>;

impl<F: ?Sized> Clone for Case<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: ?Sized> Copy for Case<F> {}

impl<F: ?Sized> fmt::Debug for Case<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("promise", &self.promise)
            .finish_non_exhaustive()
    }
}

impl<F: ?Sized> Case<F> {
    pub(crate) const fn new(
        name: &'static str,
        promise: &'static str,
        run: for<'a> fn(&'a F) -> CaseFuture<'a>,
    ) -> Self {
        Self { name, promise, run }
    }

    async fn run_on(&self, fixture: &F, limit: Duration) -> CaseResult {
        tokio::time::timeout(limit, (self.run)(fixture))
            .await
            .unwrap_or_else(|_| Err(Stop::Failed(format!("hangs: not done after {limit:?}"))))
    }

    /// Turns a case that does not apply and is not listed into a failure, and a listed case that applies
    /// likewise.
    fn judge(&self, result: CaseResult, not_applicable: &[&str]) -> CaseResult {
        let listed = not_applicable.contains(&self.name);
        match result {
            Err(Stop::NotApplicable(reason)) if !listed => Err(Stop::Failed(format!(
                "does not apply: {reason}; if this is intended, list `{}` in `not_applicable`",
                self.name
            ))),
            Ok(()) if listed => Err(Stop::Failed(
                "is listed in `not_applicable` but applies and passes; remove it from the list".to_owned(),
            )),
            result => result,
        }
    }
}

impl StoreCase {
    /// Runs the case on a new fixture. A case that takes longer than 15 minutes fails.
    ///
    /// # Errors
    /// See [`Stop`]. [`Stop::NotApplicable`] only for cases that the harness lists.
    pub async fn run(&self, harness: &dyn StoreHarness) -> CaseResult {
        let fixture = harness.create().await?;
        let result = self.run_on(&*fixture, case_timeout(fixture.traits().deadline)).await;
        fixture.destroy().await;
        self.judge(result, harness.not_applicable())
    }
}

impl InboxCase {
    /// Runs the case on a new fixture. A case that takes longer than 15 minutes fails.
    ///
    /// # Errors
    /// See [`Stop`]. [`Stop::NotApplicable`] only for cases that the harness lists.
    pub async fn run(&self, harness: &dyn InboxHarness) -> CaseResult {
        let fixture = harness.create().await?;
        let result = self.run_on(&*fixture, CASE_TIMEOUT).await;
        fixture.destroy().await;
        self.judge(result, harness.not_applicable())
    }
}

impl PublisherCase {
    /// Runs the case on a new fixture. A case that takes longer than 15 minutes fails.
    ///
    /// # Errors
    /// See [`Stop`]. [`Stop::NotApplicable`] only for cases that the harness lists.
    pub async fn run(&self, harness: &dyn PublisherHarness) -> CaseResult {
        let fixture = harness.create().await?;
        let result = self.run_on(&*fixture, case_timeout(fixture.traits().deadline)).await;
        fixture.destroy().await;
        self.judge(result, harness.not_applicable())
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::case::Stop::Failed(format!($($text)+)));
        }
    };
}

/// Fails the case unless both sides are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($text:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err($crate::case::Stop::Failed(format!(
                        "{}: expected {right:?}, got {left:?}", format_args!($($text)+)
                    )));
                }
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq};
