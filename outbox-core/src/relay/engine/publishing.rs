//! The engine's dealings with the publisher: what goes into the next call, and what its outcomes mean.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::call::{Pending, Ruling, judge};
use crate::error::{Error, ErrorKind, Verdict};
use crate::event::Event;
use crate::message::Message;
use crate::publisher::{Outcome, Publisher, PublisherCapabilities};
use crate::relay::CallId;
use crate::relay::blame::{Blame, Record, Suspect};
use crate::relay::circuit::{Circuit, Permission};
use crate::relay::settings::Settings;
use crate::relay::speed::Speed;
use crate::relay::window::{CallLimit, Meta, Row, Rows};
use crate::store::{Position, Settlement, Store};

/// What the engine knows about its publisher.
pub(super) struct Flow {
    circuit: Circuit,
    blame: Blame,
    speed: Speed,
    quiet: Quiet,
    /// Whether users were told that the circuit is open.
    announced: bool,
    /// Whether users were told how to avoid timeouts of large calls.
    advised: bool,
}

impl Flow {
    pub(super) fn new(capabilities: &PublisherCapabilities, settings: &Settings) -> Self {
        let messages = capabilities.max_batch_messages.min(settings.publish_batch);
        Self {
            circuit: Circuit::new(settings.circuit_pause, settings.circuit_max_pause),
            blame: Blame::default(),
            speed: Speed::new(messages, settings.publish_concurrency, settings.publish_timeout),
            quiet: Quiet::default(),
            announced: false,
            advised: false,
        }
    }

    /// What is known about a message that was fetched.
    pub(super) fn record(&self, meta: &Meta) -> Record {
        self.blame.record(meta.row(), meta.attempts)
    }

    /// Whether calls are not limited to a probe of the broker.
    pub(super) fn may_publish(&self, now: Instant) -> bool {
        self.circuit.permission(now) == Permission::Full
    }

    /// How many messages a call may have at present.
    pub(super) fn call_size(&self) -> usize {
        self.speed.messages()
    }

    /// When something may be published that may not be published now, even if no call ends.
    pub(super) fn timer(&self, now: Instant) -> Option<Instant> {
        match self.circuit.permission(now) {
            Permission::Wait(until) | Permission::Fresh(Some(until)) => Some(until),
            _ => self.quiet.until().filter(|until| *until > now),
        }
    }
}

/// Keeps other calls away from a message that may break the connection. Only for a limited time, since it may as well be a
/// message that is never answered.
#[derive(Default)]
struct Quiet {
    /// Until when a message waits for the calls in flight to end.
    wanted: Option<Instant>,
    /// The call that is to be alone, and until when.
    running: Option<(CallId, Instant)>,
}

impl Quiet {
    fn until(&self) -> Option<Instant> {
        self.running.map(|(_, until)| until).or(self.wanted)
    }

    fn is_kept(&self, now: Instant) -> bool {
        self.running.is_some_and(|(_, until)| now < until)
    }

    fn ended(&mut self, call: CallId) {
        self.running = self.running.filter(|(running, _)| *running != call);
    }
}

/// A call that failed as a whole.
struct Outage {
    error: String,
    advice: Option<Duration>,
    kind: ErrorKind,
    /// The message, if the call held just one.
    suspect: Option<Suspect>,
    /// Whether the message is known to fail in this way, so that its failure is no news.
    is_known: bool,
    /// Whether it says something about the broker: not only a message failed that had failed before.
    is_news: bool,
}

impl<S: Store, P: Publisher> Engine<S, P> {
    /// Hands waiting rows to the publisher, as far as the circuit, the lease and the limits allow.
    pub(super) fn dispatch(&mut self, now: Instant) {
        while !self.stopping
            && self.window.has_waiting()
            && self.leases.outlasts(now, self.settings.publish_timeout)
        {
            let has_slot = self.calls.len() < self.settings.publish_concurrency;
            let permission = self.flow.circuit.permission(now);
            let probe = permission != Permission::Full;
            let rows: Rows = match permission {
                Permission::Full => self.take(now),
                Permission::Probe if has_slot => self.window.take_probe(false).into_iter().collect(),
                Permission::Fresh(_) if has_slot => self.window.take_probe(true).into_iter().collect(),
                _ => break,
            };
            let Some(first) = rows.first() else { break };
            let record = first.meta.record;
            self.metrics.published.increment(rows.len() as u64);
            self.metrics.publish_batch.record(rows.len() as f64);
            let is_full = rows.len() >= self.flow.speed.messages();
            let (call, messages) = self.calls.begin(rows, is_full);
            if probe {
                self.flow.circuit.probe_started(call, !record.has_failed);
            } else if record.is_alone() {
                self.flow.quiet =
                    Quiet { wanted: None, running: Some((call, now + self.settings.circuit_pause)) };
            }
            self.jobs.publish(call, messages, self.settings.publish_timeout);
        }
    }

    /// Takes the rows of an ordinary call.
    fn take(&mut self, now: Instant) -> Rows {
        if self.calls.len() >= self.flow.speed.calls() || self.flow.quiet.is_kept(now) {
            return Rows::new();
        }
        let rows = self.window.take(CallLimit {
            messages: self.flow.speed.messages(),
            bytes: self.capabilities.max_batch_bytes,
            many_per_key: self.capabilities.ordered_batches,
            alone: self.calls.len() == 0 || self.flow.quiet.wanted.is_some_and(|until| now >= until),
        });
        if rows.is_empty() && self.window.next_is_alone() {
            self.flow.quiet.wanted.get_or_insert(now + self.settings.circuit_pause);
        } else {
            self.flow.quiet.wanted = None;
        }
        rows
    }

    pub(super) fn published(&mut self, id: CallId, messages: Arc<Vec<Message>>, outcomes: Vec<Outcome>) {
        let Some(call) = self.calls.end(id) else { return };
        self.flow.quiet.ended(id);
        let now = Instant::now();
        let publish_time = now - call.started;
        self.metrics.publish_time.record(publish_time.as_secs_f64());
        // The task has ended and dropped its share, so this copies nothing.
        let messages = Arc::try_unwrap(messages).unwrap_or_else(|shared| shared.to_vec());
        let count = messages.len();
        let mut outage: Option<Outage> = None;
        let mut failed_keys: HashSet<Arc<str>> = HashSet::new();
        let mut confirmed = 0;
        let mut is_blamed = false;
        let mut failed = Vec::new();

        for ((mut meta, message), outcome) in call.metas.into_iter().zip(messages).zip(outcomes) {
            let key = meta.key.clone();
            match judge(outcome) {
                Ruling::Delivered => {
                    confirmed += 1;
                    self.flow.blame.forget(meta.row());
                    let row = Row::of(meta, message);
                    let pending = Pending::new(row, Settlement::Delivered, publish_time, now);
                    self.metrics.commit_to_confirm.record(pending.confirmed_after.as_secs_f64());
                    self.settling.push(pending);
                    self.window.landed(key.as_ref());
                }
                Ruling::PutBack(error) if self.is_to_blame(&mut meta) => {
                    is_blamed = true;
                    self.fail(Row::of(meta, message), &error.with_verdict(Verdict::Retry), publish_time);
                    self.window.landed(key.as_ref());
                }
                Ruling::PutBack(error) => {
                    if error.verdict() == Verdict::Unknown {
                        self.metrics.unknown.increment(1);
                    }
                    failed_keys.extend(key.clone().filter(|_| self.capabilities.ordered_batches));
                    let is_known = meta.record.is_accused || self.flow.blame.remembers(meta.row());
                    let had_failed = meta.record.has_failed;
                    meta.record.came_back(count == 1);
                    let outage = outage.get_or_insert_with(|| Outage {
                        error: error.report(),
                        advice: error.retry_after(),
                        kind: error.kind(),
                        suspect: None,
                        is_known: is_known && count == 1,
                        is_news: count > 1 || !had_failed,
                    });
                    if count == 1 {
                        let (row, judge) = (meta.row(), self.calls.next());
                        outage.suspect = Some(Suspect { row, key, error, publish_time, call: id, judge });
                    }
                    self.put_back(Box::new(Row::of(meta, message)));
                }
                // Behind a failure of the same call it failed with it, which is no attempt of its own.
                Ruling::Failed(_) if key.as_ref().is_some_and(|key| failed_keys.contains(key)) => {
                    self.put_back(Box::new(Row::of(meta, message)));
                }
                Ruling::Failed(error) => {
                    failed_keys.extend(key.clone().filter(|_| self.capabilities.ordered_batches));
                    failed.extend(self.record_failure(Row::of(meta, message), &error, publish_time));
                    self.window.landed(key.as_ref());
                }
            }
        }
        // After the loop, so that what came back of a key is held before what waited behind it. A settle call may record only the
        // first of them, and the store releases what it was told to hold before it shows what is ready.
        for (key, position) in failed {
            self.block(&key, position);
        }

        self.metrics.confirmed.increment(confirmed);
        match outage {
            Some(outage) => self.call_failed(id, count, outage, now),
            None if is_blamed => {}
            None => {
                let next = self.calls.next();
                self.flow.speed.answered(id, count, publish_time, call.is_full, next);
                self.call_answered(id, now);
            }
        }
    }

    /// Queues a row again that was in flight, unless it is somebody else's by now, or nobody's because we stop.
    fn put_back(&mut self, row: Box<Row>) {
        if self.stopping || !self.leases.is_active(row.meta.partition) {
            self.window.forget(row.meta.row());
            self.window.landed(row.meta.key.as_ref());
        } else if let Some(row) = self.window.put_back(row) {
            self.hold(row);
        }
    }

    /// The endpoint failed, or a message made it look so.
    fn call_failed(&mut self, call: CallId, messages: usize, outage: Outage, now: Instant) {
        if outage.is_news && matches!(outage.kind, ErrorKind::Timeout | ErrorKind::Throttled) {
            let is_probe = self.flow.circuit.probe(call).is_some();
            self.flow.speed.overwhelmed(call, is_probe, self.calls.next());
        }
        if outage.kind == ErrorKind::Timeout && messages > 1 && !self.flow.advised {
            self.flow.advised = true;
            tracing::warn!(
                messages,
                timeout = ?self.settings.publish_timeout,
                "a publish call of several messages timed out; they are published again in smaller calls and may become \
                 duplicates. If the publisher sends messages one after the other, lower its max_batch_messages or the \
                 relay's publish_batch, or raise publish_timeout"
            );
        }
        let pause = self.flow.circuit.failed(call, now, outage.advice);
        if self.flow.circuit.is_down() {
            self.flow.blame.clear();
            self.window.forgive();
        } else if let Some(suspect) = outage.suspect {
            self.flow.blame.suspect(suspect);
        }
        let Some(pause) = pause else { return };
        if outage.is_known && !self.flow.announced && !self.flow.circuit.is_down() {
            tracing::debug!(error = %outage.error, ?pause, "a message failed that may fail every time");
        } else {
            self.circuit_opened(outage.error, pause);
        }
    }

    /// The publisher answered for each message, whatever it said.
    fn call_answered(&mut self, call: CallId, now: Instant) {
        if self.flow.circuit.probe(call).is_none() {
            if !self.flow.circuit.is_open() {
                self.flow.blame.answered();
            }
            return;
        }
        self.flow.circuit.close();
        if let Some(suspect) = self.flow.blame.judged_by(call) {
            match self.window.take_out(suspect.row, suspect.key.as_ref()) {
                Some(row) => self.judge_suspect(row, suspect, now),
                None => self.flow.blame.judge_later(suspect.row),
            }
        }
        if self.flow.announced && !self.flow.circuit.is_open() {
            self.flow.announced = false;
            self.circuit_changed(false);
            tracing::info!("circuit closed: the broker answers again");
            self.events.emit(|| Event::CircuitClosed);
        }
    }

    /// A message failed again that was already being tried again when the call after its last failure was answered. Returns
    /// whether that makes it the message's fault.
    fn is_to_blame(&mut self, meta: &mut Meta) -> bool {
        if !self.flow.blame.was_judged(meta.row()) {
            return false;
        }
        let is_blamed = meta.record.is_accused && self.flow.blame.blame(meta.row());
        meta.record.is_accused = true;
        is_blamed
    }

    /// A message failed alone, and the next call was answered. Once may be an outage that has just ended; after the second time
    /// it is the message.
    fn judge_suspect(&mut self, mut row: Box<Row>, suspect: Suspect, now: Instant) {
        if row.meta.record.is_accused {
            if self.flow.blame.blame(suspect.row) {
                // What the error says of the endpoint does not hold: it answers.
                let error = suspect.error.with_verdict(Verdict::Retry);
                return self.fail(*row, &error, suspect.publish_time);
            }
            let pause = self.flow.circuit.give_up(now);
            self.circuit_opened(suspect.error.report(), pause);
        }
        row.meta.record.is_accused = true;
        if let Some(row) = self.window.queue(row) {
            self.hold(row);
        }
    }

    fn circuit_opened(&mut self, error: String, pause: Duration) {
        if self.flow.announced {
            tracing::debug!(%error, ?pause, "the broker still fails");
        } else {
            self.flow.announced = true;
            self.circuit_changed(true);
            tracing::warn!(%error, ?pause, "circuit opened: the broker fails as a whole");
        }
        self.events.emit(|| Event::CircuitOpened { pause, error: error.into() });
    }

    fn circuit_changed(&self, open: bool) {
        self.metrics.circuit_open.set(f64::from(u8::from(open)));
        self.status.send_if_modified(|status| {
            let changed = status.circuit_open != open;
            status.circuit_open = open;
            changed
        });
    }

    /// Counts an attempt, and blocks the key if it is to wait.
    pub(super) fn fail(&mut self, row: Row, error: &Error, publish_time: Duration) {
        if let Some((key, position)) = self.record_failure(row, error, publish_time) {
            self.block(&key, position);
        }
    }

    /// Counts an attempt. Returns the key and the position behind which it is to be blocked, if so.
    fn record_failure(
        &mut self,
        row: Row,
        error: &Error,
        publish_time: Duration,
    ) -> Option<(Arc<str>, Position)> {
        let (settlement, block_key) = super::call::failure(&row.meta, error, &self.settings, &mut self.rng);
        if error.verdict() == Verdict::Unknown {
            self.metrics.unknown.increment(1);
        }
        let key = row.meta.key.clone().filter(|_| block_key);
        if let Some(key) = &key {
            self.failed_key(key);
        }
        let position = row.meta.position;
        self.settling.push(Pending::new(row, settlement, publish_time, Instant::now()));
        key.map(|key| (key, position))
    }
}
