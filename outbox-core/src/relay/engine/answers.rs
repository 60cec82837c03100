//! What the engine does with the answers of its tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

use super::call::Pending;
use super::jobs::Done;
use super::outage::Recovery;
use super::parking::Place;
use super::settling::{Batch as SettleBatch, Blame, blame, substitute};
use super::store_calls::Kind;
use super::{Assignment, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::publisher::Publisher;
use crate::relay::leases::Changes;
use crate::relay::window::{Offer, Row};
use crate::store::{
    Batch, Content, Fetched, Membership, Partition, Position, Reader, Settlement, Stats, Store,
};

/// While so many rows of a key wait in memory, rows that were released behind them need not be fetched immediately.
const ENOUGH: usize = 64;

impl<S: Store, P: Publisher> Engine<S, P> {
    pub(super) fn take_in(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Heartbeat { number, sent, answer }) => self.heartbeat_answered(number, sent, answer),
            Ok(Done::Released { partitions, answer }) => self.released(&partitions, answer),
            Ok(Done::Fetched { reader, number, answer }) => self.fetched(reader, number, answer),
            Ok(Done::Published { call, messages, outcomes }) => self.published(call, messages, outcomes),
            Ok(Done::Settled { id, answer }) => self.settled(id, answer),
            Ok(Done::SetIdle { membership, idle, answer }) => self.idle_set(membership, idle, answer),
            Ok(Done::Repaired { answer }) => self.repaired(answer),
            Ok(Done::Purged { answer }) => self.purged(answer),
            Ok(Done::Counted { answer }) => self.counted(answer),
            // Panics are caught inside the tasks and aborts happen only after the loop.
            Err(error) => tracing::error!(%error, "a task of the relay ended without an answer"),
        }
    }

    /// Takes in a call's answer. A failed call is planned again after a pause.
    fn answered<T>(&mut self, kind: Kind, answer: Result<T>) -> Option<T> {
        let now = Instant::now();
        match answer {
            Ok(answer) => {
                let call = self.store_calls.get(kind);
                call.succeeded();
                // Of settle calls several may run, so that these tell by themselves when they were sent.
                if kind != Kind::Settle {
                    self.last_answered = self.last_answered.max(call.started_at());
                }
                self.store_succeeded(kind, now);
                Some(answer)
            }
            Err(error) => {
                let call = self.store_calls.get(kind);
                call.failed();
                let pause = call.pause(&mut self.rng);
                call.plan(now + pause);
                self.store_failed(kind, &error, now);
                None
            }
        }
    }

    fn store_failed(&mut self, kind: Kind, error: &Error, now: Instant) {
        self.metrics.store_errors.increment(1);
        let (operation, text) = (kind.as_str(), error.report());
        if self.outages.failed(kind, error, now) {
            tracing::warn!(operation, error = %text, "a call to the store failed and is repeated until it succeeds");
            self.events.emit(|| Event::StoreFailed { operation, error: text.into() });
        } else {
            tracing::debug!(operation, error = %text, "another call to the store failed");
        }
    }

    fn store_succeeded(&mut self, kind: Kind, now: Instant) {
        let calls = &self.store_calls;
        let Some(recovery) = self.outages.succeeded(kind, now, |kind| calls.is_running(kind)) else { return };
        let Recovery { outage, failed } = recovery;
        tracing::info!(?outage, failed_calls = ?failed, "calls to the store succeed again");
        self.events.emit(|| Event::StoreRecovered { outage, failed: failed.into() });
    }

    fn heartbeat_answered(&mut self, number: u64, sent: Instant, answer: Result<Membership>) {
        let Some(membership) = self.answered(Kind::Heartbeat, answer) else {
            let latest = Instant::now() + self.settings.heartbeat_interval;
            self.store_calls.heartbeat.plan_by(latest);
            return;
        };
        let relays_before = self.leases.relays();
        let mut changes = Changes::default();
        if membership.joined {
            // Its membership had run out, whatever our own clock says, so that others may have had these partitions meanwhile.
            changes.stopped = self.leases.end();
            self.membership_ended(&changes.stopped);
        }
        let valid = self.settings.lease_ttl.saturating_sub(self.settings.lease_margin());
        let next_fetch = self.store_calls.fetch.next_number();
        let renewed = self.leases.renew(&membership, sent, valid, number, next_fetch);
        self.stop_reading(&renewed.stopped);
        changes.stopped.extend(renewed.stopped);
        changes.gained = renewed.gained;
        self.metrics.partitions.set(membership.partitions as f64);
        if changes == Changes::default() && relays_before == membership.relays {
            return;
        }
        self.assignments.extend(changes.gained.iter().copied().map(Assignment::Assign));
        if !changes.gained.is_empty() {
            let now = Instant::now();
            self.pacer.wake(now);
            // Whoever had these partitions before may have died between two halves of something.
            self.store_calls.repair.plan_by(now);
        }
        self.leases_changed();
    }

    fn released(&mut self, partitions: &[Partition], answer: Result<()>) {
        // After a failure they stay "draining" and are released again.
        let succeeded = self.answered(Kind::Release, answer).is_some();
        self.leases.release_ended(partitions, succeeded, self.store_calls.heartbeat.next_number());
    }

    fn idle_set(&mut self, membership: u64, idle: bool, answer: Result<()>) {
        let succeeded = self.answered(Kind::SetIdle, answer).is_some();
        if membership != self.memberships {
            self.pacer.unknown();
        } else if succeeded {
            self.pacer.announced(idle, Instant::now());
        }
    }

    /// Repairs on while there is something to repair.
    fn repaired(&mut self, answer: Result<u64>) {
        if self.answered(Kind::Repair, answer).is_some_and(|rows| rows > 0) {
            let now = Instant::now();
            self.store_calls.repair.plan(now + self.settings.min_poll_interval);
            self.pacer.wake(now);
        }
    }

    /// Purges on while batches are full.
    fn purged(&mut self, answer: Result<u64>) {
        let Some(rows) = self.answered(Kind::Purge, answer) else { return };
        self.metrics.purged.increment(rows);
        if rows >= self.settings.purge_batch as u64 {
            self.store_calls.purge.plan(Instant::now());
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
        let Some(batch) = self.answered(Kind::Fetch, answer) else { return };
        let count = batch.rows.len();
        if count > 0 {
            self.metrics.fetch_batch.record(count as f64);
        }
        let known = self.window.len();
        let mut aside = 0;
        for fetched in batch.rows {
            if !self.stopping && self.leases.accepts(fetched.partition, number) {
                aside += usize::from(self.take_row(fetched, now));
            }
        }
        self.parking.fetched(batch.more);
        // Rows that are all in memory already are no progress, and would be brought again at once, and again.
        let taken = self.window.len().saturating_sub(known) + aside;
        self.pacer.fetched(taken, batch.more && (taken > 0 || count == 0), batch.next_due, now);
    }

    /// Takes a row in. Returns whether it was set aside instead.
    fn take_row(&mut self, mut fetched: Fetched, now: Instant) -> bool {
        let place = self.place(&fetched);
        if place == Place::Aside {
            return true;
        }
        let blocked = fetched.blocked || place == Place::Held;
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
        false
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
        let is_parked = self.parking.contains(row.meta.key.as_ref());
        let counter = if is_parked { &self.metrics.parked } else { &self.metrics.held };
        counter.increment(1);
        self.settling.push(Pending::new(*row, Settlement::Held, Duration::ZERO, Instant::now()));
    }

    /// Holds what waits behind this position, and what comes behind it until the store knows.
    pub(super) fn block(&mut self, key: &Arc<str>, position: Position) {
        for held in self.window.block(key, position) {
            self.push_held(held);
        }
    }

    fn settled(&mut self, id: u64, answer: Result<()>) {
        let Some(call) = self.settling.ended(id) else { return };
        let error = match answer {
            Ok(()) => {
                self.last_answered = self.last_answered.max(Some(call.sent));
                self.answered(Kind::Settle, Ok(()));
                self.recorded(call.batch.rows);
                return;
            }
            Err(error) => error,
        };
        let now = Instant::now();
        match blame(&error, &call, self.last_answered) {
            Blame::Store => {
                self.answered::<()>(Kind::Settle, Err(error));
                let from = self.store_calls.settle.pause_over().unwrap_or(now);
                self.settling.repeat(call.batch, now, from);
            }
            Blame::Rows => {
                self.store_calls.settle.refused();
                self.metrics.store_errors.increment(1);
                tracing::debug!(rows = call.batch.rows.len(), error = %error.report(), "the store refused a batch");
                if call.batch.rows.len() > 1 {
                    self.settling.divide(call.batch, now);
                } else {
                    self.refused(call.batch, &error, now);
                }
            }
        }
    }

    /// The store refuses to record what became of a message.
    fn refused(&mut self, batch: SettleBatch, error: &Error, now: Instant) {
        let (refusals, failed_at) = (batch.refusals, batch.failed_at);
        let Some(mut pending) = batch.rows.into_iter().next() else { return };
        let position = pending.row.meta.position;
        if refusals == 0 {
            let text = error.report();
            tracing::warn!(%position, error = %text, "the store refuses to record the outcome of a message");
            self.events.emit(|| Event::SettleRefused { position, error: text.into() });
        }
        if self.stopping || !self.leases.is_active(pending.row.meta.partition) {
            let behind = self.settling.given_up(pending.row.meta.key.as_ref());
            self.abandon(&pending);
            for pending in &behind {
                self.abandon(pending);
            }
        } else if refusals == 0
            && let Some(settlement) = substitute(&pending.settlement)
        {
            pending.settlement = settlement;
            self.settling.replace(pending, failed_at, now);
        } else {
            self.settling.refuse(pending, refusals + 1, now);
        }
    }

    /// Forgets an outcome that the store does not record. The message is in the store as it was.
    pub(super) fn abandon(&mut self, pending: &Pending) {
        tracing::warn!(position = %pending.row.meta.position, "an outcome was not recorded");
        self.abandoned += usize::from(self.stopping);
        self.window.forget(pending.row.meta.row());
        self.recorded.extend(pending.block());
    }

    fn recorded(&mut self, mut settled: Vec<Pending>) {
        self.bring_back(&mut settled);
        let listened_to = self.events.has_listeners();
        for pending in &settled {
            self.window.forget(pending.row.meta.row());
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
            self.recorded.extend(pending.block());
            // Its delivery, or the end of it, may have made held messages of its key due.
            let may_release = pending.row.meta.due || pending.settlement == Settlement::Held;
            if may_release && self.window.waiting_of(pending.row.meta.key.as_ref()) < ENOUGH {
                self.pacer.wake(Instant::now());
            }
        }
        self.settling.recorded(settled);
    }

    fn counted(&mut self, answer: Result<Stats>) {
        let Some(stats) = self.answered(Kind::Stats, answer) else { return };
        self.metrics.backlog.set(stats.backlog.value as f64);
        self.metrics.dead_letters.set(stats.dead_letters.value as f64);
        self.metrics.lag.set(stats.lag.unwrap_or_default().as_secs_f64());
    }
}
