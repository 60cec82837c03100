//! The settings of a relay, under the names that they have in the library.

use std::ops::RangeInclusive;
use std::time::Duration;

use outbox_core::{KeyOrder, Settings};

use super::section::Section;

/// Counts are bounded by memory, not by us.
const COUNT: RangeInclusive<i64> = 1..=i64::MAX;
const TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
/// Delivered messages may be kept for long.
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(10 * 365 * 86_400);

pub(super) fn read(section: Section<'_>) -> Settings {
    let mut settings = Settings::default();
    let s = &section;
    s.fill("max_in_flight", s.number("max_in_flight", COUNT), &mut settings.max_in_flight);
    s.fill("max_bytes_in_flight", s.bytes("max_bytes_in_flight"), &mut settings.max_bytes_in_flight);
    s.fill("fetch_batch", s.number("fetch_batch", COUNT), &mut settings.fetch_batch);
    s.fill("publish_batch", s.number("publish_batch", COUNT), &mut settings.publish_batch);
    s.fill("publish_concurrency", s.number("publish_concurrency", COUNT), &mut settings.publish_concurrency);
    s.fill("publish_timeout", s.duration("publish_timeout", TIME), &mut settings.publish_timeout);
    s.fill("store_timeout", s.duration("store_timeout", TIME), &mut settings.store_timeout);
    s.fill("lease_ttl", s.duration("lease_ttl", TIME), &mut settings.lease_ttl);
    s.fill("heartbeat_interval", s.duration("heartbeat_interval", TIME), &mut settings.heartbeat_interval);
    s.fill("poll_interval", s.duration("poll_interval", TIME), &mut settings.poll_interval);
    s.fill("min_poll_interval", s.duration("min_poll_interval", TIME), &mut settings.min_poll_interval);
    s.fill("circuit_pause", s.duration("circuit_pause", TIME), &mut settings.circuit_pause);
    s.fill("circuit_max_pause", s.duration("circuit_max_pause", TIME), &mut settings.circuit_max_pause);
    s.fill("retention", s.duration_or_never("retention", AGE), &mut settings.retention);
    s.fill("purge_interval", s.duration("purge_interval", TIME), &mut settings.purge_interval);
    s.fill("purge_batch", s.number("purge_batch", COUNT), &mut settings.purge_batch);
    s.fill("stats_interval", s.duration_or_never("stats_interval", TIME), &mut settings.stats_interval);
    s.fill("stats_limit", s.number("stats_limit", COUNT), &mut settings.stats_limit);
    s.fill("shutdown_timeout", s.duration("shutdown_timeout", TIME), &mut settings.shutdown_timeout);
    let orders =
        [("strict", KeyOrder::Strict), ("skip_dead", KeyOrder::SkipDead), ("progress", KeyOrder::Progress)];
    settings.key_order = s.choice("key_order", &orders).unwrap_or_default();
    retry(s.section("retry"), &mut settings);
    if let Err(error) = settings.validate() {
        section.blame(&error);
    }
    section.finish();
    settings
}

fn retry(section: Section<'_>, settings: &mut Settings) {
    let (s, retry) = (&section, &mut settings.retry);
    s.fill("max_attempts", s.number("max_attempts", 1..=i64::from(u32::MAX)), &mut retry.max_attempts);
    s.fill("initial", s.duration("initial", Duration::ZERO..=*TIME.end()), &mut retry.initial);
    s.fill("max", s.duration("max", Duration::ZERO..=*AGE.end()), &mut retry.max);
    s.fill("factor", s.factor("factor", 1.0), &mut retry.factor);
    s.fill("jitter", s.truth("jitter"), &mut retry.jitter);
    if retry.max < retry.initial {
        section.fault_in("max", "is shorter than retry.initial");
        // Told already.
        retry.max = retry.initial;
    }
    section.finish();
}
