//! What can be set on a relay, and which settings make sense together.

use std::time::Duration;

use super::backoff::RetryPolicy;
use crate::error::{Error, Result};

/// Longest duration of a setting. Adding a much longer one to the current time would overflow.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// What a failing message means for the later messages of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyOrder {
    /// Nothing of the key is published until the failing message is delivered. If it ends as a dead letter, its
    /// key waits for a redrive or a discard. Order is never broken. The default.
    #[default]
    Strict,
    /// The key waits while the message is being retried, and goes on once it is a dead letter.
    SkipDead,
    /// The key goes on at once; a retried message arrives late. Progress instead of order.
    Progress,
}

/// Settings of a relay. Every field has a default that suits a small service; see each one for the reason.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// Most messages held in memory between fetch and settle. Default: 4 000, some 15 ms of work at full speed.
    pub max_in_flight: usize,
    /// Most payload bytes held in memory between fetch and settle. Default: 16 MiB. One message larger than that
    /// still passes, alone.
    pub max_bytes_in_flight: usize,
    /// Most messages of one fetch. Default: 1 000; larger ones gain little and delay the first message.
    pub fetch_batch: usize,
    /// Maximum number of messages in one publish call. Default: 500. The publisher's own limit applies as well.
    ///
    /// Calls start with 10 messages. The size doubles with each full call that is answered within a quarter of `publish_timeout`,
    /// and a call that times out sets it back to 10.
    pub publish_batch: usize,
    /// Maximum number of publish calls that run at once. Default: 4. Fewer run while the broker does not even confirm single messages
    /// within `publish_timeout`.
    pub publish_concurrency: usize,
    /// How long one publish call may take before its messages count as "outcome unknown". Default: 10 seconds.
    /// Must leave room in the lease, so that no message of a lost partition is still being published when the
    /// next owner begins.
    pub publish_timeout: Duration,
    /// How long one call to the store may take before it is given up and repeated. A database that has vanished without closing
    /// its connections answers never, and would be waited for as long. Default: 30 seconds; much more than any call
    /// should take, since a call that needs longer would be repeated for ever. A heartbeat is given up earlier, so that it can be
    /// repeated before the lease ends.
    pub store_timeout: Duration,
    /// How long a lease lasts without renewal, and so how long the partitions of a relay that died stay idle.
    /// Default: 20 seconds.
    pub lease_ttl: Duration,
    /// How often leases are renewed and shares looked at: the time within which a relay takes over what another
    /// one left behind in good order. Default: 2 seconds.
    pub heartbeat_interval: Duration,
    /// How often an idle relay looks for messages even if nothing woke it. Default: 1 second.
    pub poll_interval: Duration,
    /// The shortest pause between two looks, taken right after activity; after a few looks that found nothing it doubles up to
    /// `poll_interval`. It is counted from the beginning of a look, and is at least as long as the look took, so that a busy database is
    /// asked less often, for more. A look costs the database some 0.3 ms of processor time. Default: 1 millisecond.
    pub min_poll_interval: Duration,
    /// When and how often to try again.
    pub retry: RetryPolicy,
    /// What a failing message means for its key.
    pub key_order: KeyOrder,
    /// Pause after the broker failed as a whole, doubling up to `circuit_max_pause`. It is also the longest time for which other
    /// calls wait while a message is sent alone that may break the connection. Default: 250 milliseconds.
    pub circuit_pause: Duration,
    /// Longest pause before a broker that is down is probed again, even if the broker asks for a longer one. Default: 10 seconds.
    pub circuit_max_pause: Duration,
    /// How long delivered messages are kept, or `None` to delete them at once. Default: `None`.
    pub retention: Option<Duration>,
    /// How often kept messages past their retention are purged. Default: 30 seconds.
    pub purge_interval: Duration,
    /// Most rows one purge statement deletes, so that it neither locks nor logs much at once. Default: 1 000.
    pub purge_batch: usize,
    /// How often backlog and lag are measured for the metrics, or `None` for never. Default: 15 seconds.
    pub stats_interval: Option<Duration>,
    /// At most so many rows are counted for the backlog metric. Default: 100 000.
    pub stats_limit: u64,
    /// How long a shutdown may take before what is in flight is abandoned. Default: 30 seconds.
    pub shutdown_timeout: Duration,
    /// Events kept for a slow subscriber before it misses some. Default: 4 096.
    pub event_capacity: usize,
    /// Seed of the relay's dice (jitter), for tests that must repeat. Default: `None`, random.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_in_flight: 4_000,
            max_bytes_in_flight: 16 << 20,
            fetch_batch: 1_000,
            publish_batch: 500,
            publish_concurrency: 4,
            publish_timeout: Duration::from_secs(10),
            store_timeout: Duration::from_secs(30),
            lease_ttl: Duration::from_secs(20),
            heartbeat_interval: Duration::from_secs(2),
            poll_interval: Duration::from_secs(1),
            min_poll_interval: Duration::from_millis(1),
            retry: RetryPolicy::default(),
            key_order: KeyOrder::default(),
            circuit_pause: Duration::from_millis(250),
            circuit_max_pause: Duration::from_secs(10),
            retention: None,
            purge_interval: Duration::from_secs(30),
            purge_batch: 1_000,
            stats_interval: Some(Duration::from_secs(15)),
            stats_limit: 100_000,
            shutdown_timeout: Duration::from_secs(30),
            event_capacity: 4_096,
            seed: None,
        }
    }
}

impl Settings {
    /// The part of the lease kept back for the difference between sending a heartbeat and acting on its answer.
    pub(crate) fn lease_margin(&self) -> Duration {
        self.lease_ttl / 10
    }

    /// How long a heartbeat may take after so many failed ones in a row. A hung heartbeat must leave time to repeat it before
    /// the lease ends, and a store that is only slow must have time to answer.
    pub(crate) fn heartbeat_timeout(&self, failures: u32) -> Duration {
        let usable = self.lease_ttl - self.lease_margin();
        (usable / 4).saturating_mul(failures.saturating_add(1)).min(usable).min(self.store_timeout)
    }

    /// Checks that the settings make sense alone and together.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming the setting and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("max_in_flight", self.max_in_flight),
            ("max_bytes_in_flight", self.max_bytes_in_flight),
            ("fetch_batch", self.fetch_batch),
            ("publish_batch", self.publish_batch),
            ("publish_concurrency", self.publish_concurrency),
            ("purge_batch", self.purge_batch),
            ("event_capacity", self.event_capacity),
        ];
        for (name, value) in counts {
            if value == 0 {
                return Err(Error::config("must be at least 1").with("setting", name));
            }
        }
        let times = [
            ("publish_timeout", Some(self.publish_timeout)),
            ("store_timeout", Some(self.store_timeout)),
            ("lease_ttl", Some(self.lease_ttl)),
            ("heartbeat_interval", Some(self.heartbeat_interval)),
            ("poll_interval", Some(self.poll_interval)),
            ("min_poll_interval", Some(self.min_poll_interval)),
            ("circuit_pause", Some(self.circuit_pause)),
            ("circuit_max_pause", Some(self.circuit_max_pause)),
            ("retry.max", Some(self.retry.max)),
            ("purge_interval", Some(self.purge_interval)),
            ("stats_interval", self.stats_interval),
        ];
        for (name, value) in times {
            if value.is_some_and(|value| value.is_zero()) {
                return Err(Error::config("must be longer than zero").with("setting", name));
            }
        }
        let may_be_zero =
            [("retry.max", Some(self.retry.max)), ("shutdown_timeout", Some(self.shutdown_timeout))];
        for (name, value) in times.into_iter().chain(may_be_zero) {
            if value.is_some_and(|value| value > LONGEST) {
                return Err(Error::config("must be at most 365 days").with("setting", name));
            }
        }
        if self.min_poll_interval > self.poll_interval {
            return Err(Error::config("min_poll_interval is longer than poll_interval"));
        }
        if self.circuit_max_pause < self.circuit_pause {
            return Err(Error::config("circuit_max_pause is shorter than circuit_pause"));
        }
        if self.heartbeat_interval * 2 + self.publish_timeout + self.lease_margin() > self.lease_ttl {
            return Err(Error::config(
                "lease_ttl is too short: it must hold a publish_timeout, two heartbeat_intervals and a tenth of \
                 itself as margin",
            )
            .with("lease_ttl", format_args!("{:?}", self.lease_ttl))
            .with("publish_timeout", format_args!("{:?}", self.publish_timeout))
            .with("heartbeat_interval", format_args!("{:?}", self.heartbeat_interval)));
        }
        self.retry.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Settings::default().validate().unwrap();
    }

    #[test]
    fn each_nonsense_is_named() {
        type Change = fn(&mut Settings);
        let cases: [(&str, Change); 12] = [
            ("max_in_flight", |s| s.max_in_flight = 0),
            ("publish_timeout", |s| s.publish_timeout = Duration::ZERO),
            ("store_timeout", |s| s.store_timeout = Duration::ZERO),
            ("stats_interval", |s| s.stats_interval = Some(Duration::ZERO)),
            ("min_poll_interval", |s| s.min_poll_interval = Duration::from_secs(5)),
            ("circuit_max_pause", |s| s.circuit_max_pause = Duration::from_millis(1)),
            ("circuit_max_pause", |s| s.circuit_max_pause = Duration::MAX),
            ("retry.max", |s| s.retry.max = Duration::MAX),
            ("shutdown_timeout", |s| s.shutdown_timeout = Duration::MAX),
            ("lease_ttl", |s| s.publish_timeout = Duration::from_secs(19)),
            ("retry.max_attempts", |s| s.retry.max_attempts = 0),
            ("retry.factor", |s| s.retry.factor = f64::NAN),
        ];
        for (name, change) in cases {
            let mut settings = Settings::default();
            change(&mut settings);
            let error = settings.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{name} is missing in: {error}");
        }
    }
}
