//! One report when calls to the store begin to fail, and one when they succeed again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::store_calls::Kind;
use crate::error::{Error, ErrorKind};

/// A kind of call that failed is repeated within this time, as long as it is wanted.
const QUIET: Duration = Duration::from_secs(10);

/// What is known of a time in which calls to the store fail.
#[derive(Debug)]
struct Outage {
    since: Instant,
    last_failure: Instant,
    /// How many calls of each kind failed, and whether none has succeeded since.
    failed: BTreeMap<Kind, (u64, bool)>,
    /// The reasons that were reported.
    reported: Vec<ErrorKind>,
}

/// An outage that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    pub(super) outage: Duration,
    /// How many calls of each kind failed.
    pub(super) failed: Vec<(&'static str, u64)>,
}

/// Watches the calls to the store.
#[derive(Debug, Default)]
pub(super) struct Outages {
    current: Option<Outage>,
}

impl Outages {
    /// Takes note of a failed call. Returns whether to report it: the first one of an outage, and the first one for each reason.
    pub(super) fn failed(&mut self, kind: Kind, error: &Error, now: Instant) -> bool {
        let outage = self.current.get_or_insert_with(|| Outage {
            since: now,
            last_failure: now,
            failed: BTreeMap::new(),
            reported: Vec::new(),
        });
        outage.last_failure = now;
        let (count, is_failing) = outage.failed.entry(kind).or_default();
        *count += 1;
        *is_failing = true;
        // A server that is lost refuses connections, cuts them, or does not answer.
        let reason = match error.kind() {
            ErrorKind::Timeout | ErrorKind::Interrupted => ErrorKind::Unavailable,
            other => other,
        };
        let is_new = !outage.reported.contains(&reason);
        if is_new {
            outage.reported.push(reason);
        }
        is_new
    }

    /// Takes note of a call that succeeded. `is_running` tells whether a call of a kind is under way.
    ///
    /// The outage is over when each kind that failed has succeeded. A kind that is no longer wanted does not keep it open.
    pub(super) fn succeeded(
        &mut self,
        kind: Kind,
        now: Instant,
        is_running: impl Fn(Kind) -> bool,
    ) -> Option<Recovery> {
        let outage = self.current.as_mut()?;
        if let Some((_, is_failing)) = outage.failed.get_mut(&kind) {
            *is_failing = false;
        }
        let is_quiet = now.duration_since(outage.last_failure) > QUIET;
        let is_open =
            |(kind, (_, is_failing)): (&Kind, &(u64, bool))| *is_failing && (!is_quiet || is_running(*kind));
        if outage.failed.iter().any(is_open) {
            return None;
        }
        let outage = self.current.take()?;
        Some(Recovery {
            outage: now.duration_since(outage.since),
            failed: outage.failed.into_iter().map(|(kind, (count, _))| (kind.as_str(), count)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "no")
    }

    #[test]
    fn an_outage_is_reported_once_and_ends_when_all_calls_succeed() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let idle = |_| false;
        assert!(outages.failed(Kind::Fetch, &error(ErrorKind::Unavailable), at(0)));
        assert!(!outages.failed(Kind::Heartbeat, &error(ErrorKind::Interrupted), at(1)));
        assert!(!outages.failed(Kind::Fetch, &error(ErrorKind::Timeout), at(2)));
        assert!(outages.failed(Kind::Fetch, &error(ErrorKind::Schema), at(3)), "another reason");
        assert_eq!(outages.succeeded(Kind::Heartbeat, at(4), idle), None, "fetches still fail");
        assert_eq!(outages.succeeded(Kind::Stats, at(5), idle), None);
        let failed = vec![("heartbeat", 1), ("fetch", 3)];
        let recovery = Recovery { outage: Duration::from_secs(6), failed };
        assert_eq!(outages.succeeded(Kind::Fetch, at(6), idle), Some(recovery));
        assert_eq!(outages.succeeded(Kind::Fetch, at(7), idle), None);
        assert!(outages.failed(Kind::Fetch, &error(ErrorKind::Unavailable), at(8)), "the next outage");
    }

    #[test]
    fn a_call_that_is_no_longer_wanted_does_not_keep_an_outage_open() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(outages.failed(Kind::Release, &error(ErrorKind::Unavailable), at(0)));
        assert_eq!(outages.succeeded(Kind::Fetch, at(9), |_| false), None, "it may be repeated");
        assert_eq!(outages.succeeded(Kind::Fetch, at(11), |kind| kind == Kind::Release), None, "it runs");
        assert!(outages.succeeded(Kind::Fetch, at(12), |_| false).is_some());
    }
}
