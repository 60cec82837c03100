//! The relay's loop: wait, fetch, dispatch, settle, with leases alongside.
//!
//! One task owns all state. It starts calls to the store and the publisher as tasks ([`jobs`]), at most one fetch,
//! one settle and one lease call at a time, and takes in their answers one after the other ([`answers`]); so there
//! are no locks, and every decision sees a consistent state.

mod answers;
mod call;
mod jobs;
mod publishing;
mod store_calls;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::call::{Calls, Pending};
use self::jobs::Jobs;
use self::publishing::Flow;
use self::store_calls::StoreCalls;
use super::backoff::RetryPolicy;
use super::handle::Status;
use super::leases::Leases;
use super::pacer::Pacer;
use super::settings::Settings;
use super::wake::WakeTask;
use super::window::Window;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventSender};
use crate::metrics::Metrics;
use crate::publisher::{Publisher, PublisherCapabilities};
use crate::store::{FetchLimit, Partition, Reader, RelayId, Settle, Settlement, Store};

/// How long leaving the group and closing the publisher may take, after the shutdown's own deadline.
const FAREWELL: Duration = Duration::from_secs(5);

/// Something to tell the reader once it is back from its fetch.
enum Assignment {
    Assign(Partition),
    Revoke(Partition),
}

pub(super) struct Engine<S, P> {
    jobs: Jobs<S, P>,
    settings: Settings,
    capabilities: PublisherCapabilities,
    events: EventSender,
    metrics: Metrics,
    status: watch::Sender<Status>,
    rng: fastrand::Rng,

    store_calls: StoreCalls,
    store_failures: u32,
    leases: Leases,
    reader: Option<Box<dyn Reader>>,
    assignments: Vec<Assignment>,
    pacer: Pacer,
    fetches: u64,

    window: Window,
    calls: Calls,
    flow: Flow,

    pending: Vec<Pending>,
    settling: Vec<Pending>,
    /// Keys whose failed message the store has recorded; unblocked once no older fetch is under way.
    recorded: BTreeSet<Arc<str>>,

    stopping: bool,
}

impl<S: Store, P: Publisher> Engine<S, P> {
    pub(super) fn new(
        store: Arc<S>,
        publisher: Arc<P>,
        settings: Settings,
        metrics: Metrics,
        events: EventSender,
        status: watch::Sender<Status>,
    ) -> Self {
        let now = Instant::now();
        let capabilities = publisher.capabilities();
        let flow = Flow::new(&capabilities, &settings);
        let seed = settings.seed.unwrap_or_else(|| fastrand::u64(..));
        Self {
            capabilities,
            metrics,
            reader: Some(store.reader()),
            events,
            status,
            rng: fastrand::Rng::with_seed(seed),
            store_calls: StoreCalls::new(&settings, now),
            store_failures: 0,
            leases: Leases::default(),
            assignments: Vec::new(),
            pacer: Pacer::new(settings.min_poll_interval, settings.poll_interval, now),
            fetches: 0,
            window: Window::default(),
            calls: Calls::default(),
            flow,
            pending: Vec::new(),
            settling: Vec::new(),
            recorded: BTreeSet::new(),
            stopping: false,
            jobs: Jobs {
                store,
                publisher,
                relay: RelayId::new(),
                store_timeout: settings.store_timeout,
                running: JoinSet::new(),
            },
            settings,
        }
    }

    /// Runs until `shutdown` resolves and everything in flight is settled, or the shutdown deadline passes.
    pub(super) async fn run(mut self, shutdown: impl Future<Output = ()>, poke: Arc<Notify>) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut deadline = None;
        let mut wake = WakeTask::spawn(self.jobs.store.clone());
        tracing::info!(
            relay = %self.jobs.relay,
            store = self.jobs.store.name(),
            publisher = self.jobs.publisher.name(),
            "the relay starts"
        );
        loop {
            self.start_what_may_start();
            if self.stopping && self.is_at_rest() {
                break;
            }
            let timer = self.next_timer();
            let next = deadline.map_or(timer, |deadline| timer.min(deadline));
            tokio::select! {
                // Answers first: they free what everything else waits for.
                biased;
                Some(done) = self.jobs.running.join_next() => {
                    self.take_in(done);
                    while let Some(done) = self.jobs.running.try_join_next() {
                        self.take_in(done);
                    }
                }
                () = &mut shutdown, if !self.stopping => {
                    self.stop();
                    deadline = Some(Instant::now() + self.settings.shutdown_timeout);
                }
                () = poke.notified() => self.pacer.wake(Instant::now()),
                arrive = wake.changed() => match arrive {
                    Some(arrive) => self.pacer.wakeups(arrive, Instant::now()),
                    None => self.pacer.wake(Instant::now()),
                },
                () = tokio::time::sleep_until(next) => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) && !self.is_at_rest() {
                break;
            }
        }
        self.leave().await
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.window.drop_waiting(|_| true);
    }

    /// Nothing is in flight, nothing is to be settled.
    fn is_at_rest(&self) -> bool {
        self.calls.len() == 0
            && self.nothing_to_settle()
            && !self.store_calls.settle.is_running()
            && !self.store_calls.fetch.is_running()
            && !self.lease_call_runs()
    }

    fn lease_call_runs(&self) -> bool {
        self.store_calls.heartbeat.is_running() || self.store_calls.release.is_running()
    }

    fn nothing_to_settle(&self) -> bool {
        self.pending.is_empty() && self.settling.is_empty()
    }

    /// The end: whatever still runs is abandoned, and the leases are given back.
    async fn leave(mut self) -> Result<()> {
        let (published, unsettled) = (self.calls.len(), self.pending.len() + self.settling.len());
        self.jobs.running.shutdown().await;
        // Both are courtesies: leases run out by themselves, and connections end with the process.
        let courtesies = async {
            if let Err(error) = self.jobs.store.leave(self.jobs.relay).await {
                tracing::warn!(error = %error.report(), "the leases could not be released and will run out");
            }
            self.jobs.publisher.close().await;
        };
        if tokio::time::timeout(FAREWELL, courtesies).await.is_err() {
            tracing::warn!("the store or the broker did not answer when the relay said good-bye");
        }
        if published + unsettled > 0 {
            return Err(Error::new(
                ErrorKind::Timeout,
                "the shutdown deadline passed with work in flight; these messages may be published once more",
            )
            .with("publish calls abandoned", published)
            .with("outcomes not recorded", unsettled));
        }
        Ok(())
    }

    /// When the loop must turn next even if nothing answers. Holds only times at which something can be started
    /// then; everything else waits for an answer.
    fn next_timer(&self) -> Instant {
        let now = Instant::now();
        let calls = &self.store_calls;
        let mut next = now + Duration::from_secs(60);
        let mut consider = |time: Option<Instant>| next = time.map_or(next, |time| next.min(time));
        consider(self.leases.valid_until());
        if !self.nothing_to_settle() {
            consider(calls.settle.next());
        }
        if self.stopping {
            return next;
        }
        if !self.lease_call_runs() {
            consider(calls.heartbeat.next());
            if self.leases.draining().next().is_some() {
                consider(calls.release.next().filter(|at| *at > now));
            }
        }
        if self.may_fetch() {
            consider(calls.fetch.next().map(|at| at.max(self.pacer.next())));
        }
        if let Some(at) = self.flow.timer(now) {
            consider(Some(at));
        }
        if self.pacer.announce().is_some() {
            consider(calls.announce.next());
        }
        consider(calls.maintain.next());
        consider(calls.measure.next());
        next
    }

    fn start_what_may_start(&mut self) {
        let now = Instant::now();
        self.expire_leases(now);
        self.dispatch(now);
        self.start_settle(now);
        self.start_lease_call(now);
        self.start_fetch(now);
        self.start_side_jobs(now);
        self.metrics.in_flight.set(self.window.len() as f64);
        self.metrics.in_flight_bytes.set(self.window.bytes() as f64);
    }

    fn expire_leases(&mut self, now: Instant) {
        let stopped = self.leases.expire(now);
        if !stopped.is_empty() {
            tracing::warn!(partitions = stopped.len(), "the lease ran out before it could be renewed");
            self.stop_reading(&stopped);
            self.leases_changed();
        }
    }

    fn stop_reading(&mut self, partitions: &[Partition]) {
        let gone: HashSet<Partition> = partitions.iter().copied().collect();
        self.window.drop_waiting(|partition| gone.contains(&partition));
        self.assignments.extend(partitions.iter().copied().map(Assignment::Revoke));
    }

    fn leases_changed(&self) {
        let owned = self.leases.owned();
        self.metrics.leases.set(owned.len() as f64);
        let relays = self.leases.relays();
        self.status.send_if_modified(|status| {
            let changed = status.owned != owned || status.relays != relays;
            status.owned.clone_from(&owned);
            status.relays = relays;
            changed
        });
        self.events.emit(|| Event::LeasesChanged { owned: owned.into(), relays });
    }

    fn start_settle(&mut self, now: Instant) {
        if !self.store_calls.settle.may_start(now) {
            return;
        }
        if self.settling.is_empty() {
            // One home for what is being written: a failed call is repeated with the same rows, then the next.
            let most = self.settings.fetch_batch.max(self.settings.publish_batch);
            let count = self.pending.len().min(most);
            self.settling.extend(self.pending.drain(..count));
        }
        if self.settling.is_empty() {
            return;
        }
        let batch: Vec<Settle> = self.settling.iter().map(Pending::settle).collect();
        self.metrics.settle_batch.record(batch.len() as f64);
        self.store_calls.settle.started();
        self.jobs.settle(batch, self.settings.retention.is_some());
    }

    fn may_fetch(&self) -> bool {
        // Waiting for room for a good part of a batch keeps fetches few while the window is nearly full.
        let room = self.settings.max_in_flight.saturating_sub(self.window.len());
        let wanted = self.settings.fetch_batch.min(self.settings.max_in_flight / 2).max(1);
        let bytes_room = self.settings.max_bytes_in_flight.saturating_sub(self.window.bytes());
        let has_room =
            self.window.len() == 0 || (room >= wanted && bytes_room >= self.settings.max_bytes_in_flight / 4);
        !self.stopping && self.leases.any_active() && has_room
    }

    fn start_fetch(&mut self, now: Instant) {
        self.apply_assignments();
        if !self.may_fetch() || now < self.pacer.next() || !self.store_calls.fetch.may_start(now) {
            return;
        }
        let Some(reader) = self.reader.take() else { return };
        self.store_calls.fetch.started();
        let limit = FetchLimit {
            messages: self.settings.fetch_batch.min(self.settings.max_in_flight - self.window.len()).max(1),
            bytes: self.settings.max_bytes_in_flight.saturating_sub(self.window.bytes()).max(1),
        };
        self.fetches += 1;
        self.pacer.fetching(now);
        // What is to be tried again or held may have been recorded by a call whose answer was lost, and be due by now.
        let recorded = self
            .pending
            .iter()
            .chain(&self.settling)
            .filter(|pending| pending.settlement != Settlement::Delivered)
            .map(|pending| pending.row.meta.position);
        let in_memory = self.window.due_positions().into_iter().chain(recorded).collect();
        self.jobs.fetch(reader, self.fetches, limit, in_memory);
    }

    /// Brings the reader up to date, while it is not out on a fetch.
    fn apply_assignments(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        // A partition that was lost and has come back is read again from its start only when nothing of it is in
        // memory any more: what is would be read a second time.
        let mut deferred: HashSet<Partition> = HashSet::new();
        self.assignments.retain(|assignment| match *assignment {
            Assignment::Assign(partition)
                if deferred.contains(&partition) || !self.window.is_empty_of(partition) =>
            {
                deferred.insert(partition);
                true
            }
            Assignment::Revoke(partition) if deferred.contains(&partition) => true,
            Assignment::Assign(partition) => {
                reader.assign(partition);
                false
            }
            Assignment::Revoke(partition) => {
                reader.revoke(partition);
                false
            }
        });
        // No fetch is under way that could still show these keys as they were.
        for key in std::mem::take(&mut self.recorded) {
            self.window.unblock(&key);
        }
    }

    fn start_lease_call(&mut self, now: Instant) {
        if self.lease_call_runs() || self.stopping {
            return;
        }
        let calls = &mut self.store_calls;
        // A partition is handed over when nothing of it is in memory. What a running fetch brings of it is refused.
        let drained: Vec<Partition> =
            self.leases.draining().filter(|partition| self.window.is_empty_of(*partition)).collect();
        if !drained.is_empty() && calls.release.may_start(now) {
            calls.release.started();
            self.jobs.release(drained);
        } else if calls.heartbeat.may_start(now) {
            calls.heartbeat.started();
            calls.heartbeat.plan(now + self.settings.heartbeat_interval);
            self.jobs.heartbeat(self.settings.lease_ttl);
        }
    }

    fn start_side_jobs(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        let calls = &mut self.store_calls;
        if let Some(idle) = self.pacer.announce()
            && calls.announce.may_start(now)
        {
            calls.announce.started();
            self.jobs.announce(idle);
        }
        if calls.maintain.may_start(now) {
            calls.maintain.plan(now + self.settings.purge_interval);
            if self.leases.any_active() {
                calls.maintain.started();
                // One relay of the group is enough to purge: the one that owns the first partition.
                let retention = self.settings.retention.filter(|_| self.leases.is_active(Partition(0)));
                self.jobs.maintain(self.leases.owned(), retention, self.settings.purge_batch);
            }
        }
        if let Some(interval) = self.settings.stats_interval
            && calls.measure.may_start(now)
        {
            calls.measure.started();
            calls.measure.plan(now + interval);
            self.jobs.measure(self.settings.stats_limit);
        }
    }

    /// How long to leave the store alone after its last failure.
    fn store_pause(&mut self) -> Duration {
        let pauses = RetryPolicy::default().initial(Duration::from_millis(100)).max(Duration::from_secs(5));
        let ceiling = pauses.ceiling(self.store_failures);
        // Not below half, so that many relays neither hammer the store nor come back in step.
        ceiling.mul_f64(0.5 + self.rng.f64() / 2.0)
    }
}
