//! What the engine does with the answers of its tasks.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

use super::call::Pending;
use super::jobs::Done;
use super::{Assignment, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::publisher::Publisher;
use crate::relay::window::{Offer, Row};
use crate::store::{
    Batch, Content, Fetched, Membership, Partition, Position, Reader, Settlement, Stats, Store,
};

impl<S: Store, P: Publisher> Engine<S, P> {
    pub(super) fn take_in(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Heartbeat { sent, answer }) => self.heartbeat_answered(sent, answer),
            Ok(Done::Released { partitions, answer }) => self.released(&partitions, answer),
            Ok(Done::Fetched { reader, number, answer }) => self.fetched(reader, number, answer),
            Ok(Done::Published { call, messages, outcomes }) => self.published(call, messages, outcomes),
            Ok(Done::Settled { answer }) => self.settled(answer),
            Ok(Done::Announced { idle, answer }) => self.announced(idle, answer),
            Ok(Done::Maintained { purged, answer }) => self.maintained(purged, answer),
            Ok(Done::Measured { answer }) => self.measured(answer),
            // Panics are caught inside the tasks and aborts happen only after the loop.
            Err(error) => tracing::error!(%error, "a task of the relay ended without an answer"),
        }
    }

    fn store_failed(&mut self, operation: &'static str, error: &Error) {
        self.store_failures = self.store_failures.saturating_add(1);
        self.metrics.store_errors.increment(1);
        let text = error.report();
        tracing::warn!(operation, error = %text, "a call to the store failed and will be repeated");
        self.events.emit(|| Event::StoreFailed { operation, error: text.into() });
    }

    fn heartbeat_answered(&mut self, sent: Instant, answer: Result<Membership>) {
        let membership = match answer {
            Ok(membership) => membership,
            Err(error) => {
                self.store_failed("heartbeat", &error);
                let pause = self.store_pause().min(self.settings.heartbeat_interval);
                self.store_calls.heartbeat.failed();
                self.store_calls.heartbeat.plan(Instant::now() + pause);
                return;
            }
        };
        self.store_calls.heartbeat.succeeded();
        let valid = self.settings.lease_ttl.saturating_sub(self.settings.lease_margin());
        let relays_before = self.leases.relays();
        let changes = self.leases.renew(&membership, sent, valid, self.fetches + 1);
        self.metrics.partitions.set(membership.partitions as f64);
        if changes.gained.is_empty() && changes.stopped.is_empty() && relays_before == membership.relays {
            return;
        }
        self.stop_reading(&changes.stopped);
        self.assignments.extend(changes.gained.iter().copied().map(Assignment::Assign));
        if !changes.gained.is_empty() {
            let now = Instant::now();
            self.pacer.wake(now);
            // Whoever had these partitions before may have died between two halves of something.
            self.store_calls.maintain.plan_by(now);
        }
        self.leases_changed();
    }

    fn released(&mut self, partitions: &[Partition], answer: Result<()>) {
        match answer {
            Ok(()) => {
                self.store_calls.release.succeeded();
                self.leases.released(partitions);
            }
            // They stay "draining" and are released again after a pause.
            Err(error) => {
                self.store_failed("release", &error);
                let pause = self.store_pause();
                self.store_calls.release.failed();
                self.store_calls.release.plan(Instant::now() + pause);
            }
        }
    }

    fn announced(&mut self, idle: bool, answer: Result<()>) {
        match answer {
            Ok(()) => {
                self.store_calls.announce.succeeded();
                self.pacer.announced(idle, Instant::now());
            }
            Err(error) => {
                self.store_failed("set_idle", &error);
                let pause = self.store_pause();
                self.store_calls.announce.failed();
                self.store_calls.announce.plan(Instant::now() + pause);
            }
        }
    }

    fn maintained(&mut self, purged: u64, answer: Result<()>) {
        self.metrics.purged.increment(purged);
        match answer {
            Ok(()) => self.store_calls.maintain.succeeded(),
            Err(error) => {
                self.store_failed("maintain", &error);
                self.store_calls.maintain.failed();
            }
        }
    }

    fn fetched(&mut self, reader: Option<Box<dyn Reader>>, number: u64, answer: Result<Batch>) {
        let now = Instant::now();
        match reader {
            Some(reader) => self.reader = Some(reader),
            None => {
                self.reader = Some(self.jobs.store.reader());
                self.assignments.clear();
                self.assignments.extend(self.leases.owned().into_iter().map(Assignment::Assign));
            }
        }
        let batch = match answer {
            Ok(batch) => batch,
            Err(error) => {
                self.store_failed("fetch", &error);
                let pause = self.store_pause();
                self.store_calls.fetch.failed();
                self.store_calls.fetch.plan(now + pause);
                return;
            }
        };
        self.store_calls.fetch.succeeded();
        self.store_failures = 0;
        let count = batch.rows.len();
        if count > 0 {
            self.metrics.fetch_batch.record(count as f64);
        }
        let known = self.window.len();
        for fetched in batch.rows {
            if !self.stopping && self.leases.accepts(fetched.partition, number) {
                self.take_row(fetched, now);
            }
        }
        // Rows that are all in memory already are no progress, and would be brought again at once, and again.
        let taken = self.window.len().saturating_sub(known);
        self.pacer.fetched(taken, batch.more && (taken > 0 || count == 0), batch.next_due, now);
    }

    fn take_row(&mut self, mut fetched: Fetched, now: Instant) {
        let blocked = fetched.blocked;
        let unfit = self.unfit(&mut fetched.content);
        let mut row = Box::new(Row::new(fetched, now));
        row.meta.record = self.flow.record(&row.meta);
        if let Some(error) = unfit {
            self.reject(row, blocked, error);
        } else if blocked {
            if self.window.admit(&row.meta) {
                self.hold(row);
            }
        } else if let Offer::Blocked(row) = self.window.offer(row) {
            self.hold(row);
        }
    }

    /// Why a row cannot be published at all, if so.
    fn unfit(&self, content: &mut Content) -> Option<Error> {
        match content {
            Content::Malformed { reason, .. } => Some(Error::malformed(std::mem::take(reason))),
            Content::Message(message) => {
                let bytes = message.payload().len();
                let limit = self.capabilities.max_message_bytes.filter(|limit| bytes > *limit)?;
                let error = Error::new(ErrorKind::TooLarge, "the payload is larger than the publisher takes");
                Some(error.with("bytes", bytes).with("limit", limit))
            }
        }
    }

    /// A row that cannot be published at all. Behind a blocked key it waits like any other.
    fn reject(&mut self, row: Box<Row>, blocked: bool, error: Error) {
        if !self.window.admit(&row.meta) {
            return;
        }
        let waits = row.meta.key.as_ref().is_some_and(|key| self.window.is_blocked(key, row.meta.position));
        if blocked || waits { self.hold(row) } else { self.fail(*row, &error, Duration::ZERO) }
    }

    /// Has the store hold a row back. Until it does, nothing in the store keeps the later rows of the key from
    /// looking free, once what blocks this one is gone: so they are held in their turn.
    pub(super) fn hold(&mut self, row: Box<Row>) {
        let (key, position) = (row.meta.key.clone(), row.meta.position);
        self.push_held(row);
        if let Some(key) = key {
            self.block(&key, position);
        }
    }

    fn push_held(&mut self, row: Box<Row>) {
        self.metrics.held.increment(1);
        self.pending.push(Pending::new(*row, Settlement::Held, Duration::ZERO, Instant::now()));
    }

    /// Holds what waits behind this position, and what comes behind it until the store knows.
    pub(super) fn block(&mut self, key: &Arc<str>, position: Position) {
        // A key whose last trouble was just recorded has new trouble, which has to be recorded again.
        self.recorded.remove(key);
        for held in self.window.block(key, position) {
            self.push_held(held);
        }
    }

    fn settled(&mut self, answer: Result<()>) {
        if let Err(error) = answer {
            self.store_failed("settle", &error);
            let pause = self.store_pause();
            self.store_calls.settle.failed();
            self.store_calls.settle.plan(Instant::now() + pause);
            return;
        }
        self.store_calls.settle.succeeded();
        self.store_failures = 0;
        let mut settled = std::mem::take(&mut self.settling);
        // Keys with more trouble that is yet to be recorded stay blocked.
        let failing: HashSet<Arc<str>> =
            self.pending.iter().filter_map(Pending::blocked_key).cloned().collect();
        let listened_to = self.events.has_listeners();
        for pending in &settled {
            self.window.forget(pending.row.meta.position);
            match &pending.settlement {
                Settlement::Delivered if listened_to => {
                    self.events.emit(|| Event::Delivered(pending.delivery()))
                }
                Settlement::Delivered | Settlement::Held => {}
                Settlement::Retry { after, .. } => {
                    self.metrics.retried.increment(1);
                    self.events.emit(|| Event::Retrying { delivery: pending.delivery(), after: *after });
                    self.pacer.expect(*after, Instant::now());
                }
                Settlement::Dead { error, .. } => {
                    self.metrics.dead.increment(1);
                    tracing::warn!(position = %pending.row.meta.position, %error, "a message is dead");
                    self.events.emit(|| Event::DeadLettered(pending.delivery()));
                }
            }
            self.recorded.extend(pending.blocked_key().filter(|key| !failing.contains(*key)).cloned());
            // Its delivery, or the end of it, may have made held messages of its key due.
            if pending.row.meta.due || pending.settlement == Settlement::Held {
                self.pacer.wake(Instant::now());
            }
        }
        settled.clear();
        self.settling = settled;
    }

    fn measured(&mut self, answer: Result<Stats>) {
        match answer {
            Ok(stats) => {
                self.store_calls.measure.succeeded();
                self.metrics.backlog.set(stats.backlog.value as f64);
                self.metrics.dead_letters.set(stats.dead_letters.value as f64);
                self.metrics.lag.set(stats.lag.unwrap_or_default().as_secs_f64());
            }
            Err(error) => {
                self.store_failed("stats", &error);
                self.store_calls.measure.failed();
            }
        }
    }
}
