//! The relay's loop: wait, fetch, dispatch, settle, with leases alongside.
//!
//! One task owns all state. It starts calls to the store and the publisher as tasks ([`jobs`]) and takes in their
//! answers one after the other ([`answers`]); so there are no locks, and every decision sees a consistent state. At most one
//! call of each kind runs at a time ([`store_calls`]), except for settle calls ([`settling`]).

mod answers;
mod call;
mod jobs;
mod outage;
mod parking;
mod publishing;
mod settling;
mod store_calls;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::call::Calls;
use self::jobs::Jobs;
use self::outage::Outages;
use self::parking::Parking;
use self::publishing::Flow;
use self::settling::Settling;
use self::store_calls::StoreCalls;
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
use crate::store::{FetchLimit, Partition, Position, Reader, RelayId, Store};

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
    outages: Outages,
    /// When the latest call was sent that the store has answered.
    last_answered: Option<Instant>,
    leases: Leases,
    /// How many memberships have ended. What the store was told belongs to one membership.
    memberships: u64,
    reader: Option<Box<dyn Reader>>,
    assignments: Vec<Assignment>,
    pacer: Pacer,

    window: Window,
    parking: Parking,
    calls: Calls,
    flow: Flow,

    settling: Settling,
    /// Outcomes that the store did not record until the relay stopped.
    abandoned: usize,
    /// Keys that the store itself blocks behind these positions. They are unblocked here once no older fetch is under way.
    recorded: Vec<(Arc<str>, Position)>,

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
            outages: Outages::default(),
            last_answered: None,
            leases: Leases::default(),
            memberships: 0,
            assignments: Vec::new(),
            pacer: Pacer::new(settings.min_poll_interval, settings.poll_interval, now),
            window: Window::default(),
            parking: Parking::new(now),
            calls: Calls::default(),
            flow,
            settling: Settling::default(),
            abandoned: 0,
            recorded: Vec::new(),
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
        self.settling.hurry(Instant::now());
    }

    /// Nothing is in flight, nothing is to be settled.
    fn is_at_rest(&self) -> bool {
        self.calls.len() == 0
            && self.settling.is_empty()
            && !self.store_calls.fetch.is_running()
            && !self.store_calls.heartbeat.is_running()
            && !self.store_calls.release.is_running()
    }

    /// The end: whatever still runs is abandoned, and the leases are given back.
    async fn leave(mut self) -> Result<()> {
        let (published, unsettled) = (self.calls.len(), self.settling.len() + self.abandoned);
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
        let settle = self.settling.next_start(now, calls.settle.failures() > 0);
        consider(settle.map(|at| calls.settle.pause_over().map_or(at, |over| at.max(over))));
        if self.stopping {
            return next;
        }
        consider(calls.heartbeat.next());
        if self.leases.draining().next().is_some() {
            consider(calls.release.next().filter(|at| *at > now));
        }
        if self.may_fetch() {
            consider(calls.fetch.next().map(|at| at.max(self.pacer.next())));
        }
        consider(self.next_parking(now));
        if let Some(at) = self.flow.timer(now) {
            consider(Some(at));
        }
        if self.pacer.announce().is_some() {
            consider(calls.set_idle.next());
        }
        consider(calls.repair.next());
        consider(calls.purge.next());
        consider(calls.stats.next());
        next
    }

    fn start_what_may_start(&mut self) {
        let now = Instant::now();
        self.expire_leases(now);
        self.dispatch(now);
        self.park(now);
        self.start_settle(now);
        self.start_release(now);
        self.start_heartbeat(now);
        self.start_fetch(now);
        self.start_side_jobs(now);
        self.metrics.in_flight.set(self.window.len() as f64);
        self.metrics.in_flight_bytes.set(self.window.bytes() as f64);
    }

    fn expire_leases(&mut self, now: Instant) {
        if let Some(stopped) = self.leases.expire(now) {
            tracing::warn!(partitions = stopped.len(), "the lease ran out before it could be renewed");
            self.membership_ended(&stopped);
            self.leases_changed();
        }
    }

    /// Forgets what the store was told by a membership that has ended, and stops reading its partitions.
    fn membership_ended(&mut self, stopped: &[Partition]) {
        self.memberships += 1;
        self.pacer.forgotten();
        self.stop_reading(stopped);
    }

    fn stop_reading(&mut self, partitions: &[Partition]) {
        if partitions.is_empty() {
            return;
        }
        let gone: HashSet<Partition> = partitions.iter().copied().collect();
        self.window.drop_waiting(|partition| gone.contains(&partition));
        self.forget_parked_keys(|partition| gone.contains(&partition));
        self.assignments.extend(partitions.iter().copied().map(Assignment::Revoke));
        for refused in self.settling.give_up(|partition| gone.contains(&partition)) {
            self.abandon(&refused);
        }
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
        let call = &mut self.store_calls.settle;
        if call.pause_over().is_some_and(|over| now < over) {
            return;
        }
        // While the whole store fails, one call finds out whether it is back.
        let one_at_a_time = call.failures() > 0;
        let most = self.settings.fetch_batch.max(self.settings.publish_batch);
        while let Some((id, batch)) = self.settling.start(now, one_at_a_time, most) {
            call.start(now);
            self.metrics.settle_batch.record(batch.len() as f64);
            self.jobs.settle(id, batch, self.settings.retention.is_some());
        }
    }

    /// Whether there is room for a fetch beside so much in memory. Waiting for room for a good part of a batch keeps fetches few
    /// while the window is nearly full.
    fn has_room(&self, messages: usize, bytes: usize) -> bool {
        let room = self.settings.max_in_flight.saturating_sub(messages);
        let wanted = self.settings.fetch_batch.min(self.settings.max_in_flight / 2).max(1);
        let bytes_room = self.settings.max_bytes_in_flight.saturating_sub(bytes);
        messages == 0 || (room >= wanted && bytes_room >= self.settings.max_bytes_in_flight / 4)
    }

    fn may_fetch(&self) -> bool {
        !self.stopping && self.leases.any_active() && self.has_room(self.window.len(), self.window.bytes())
    }

    fn start_fetch(&mut self, now: Instant) {
        self.apply_assignments();
        if !self.may_fetch() || now < self.pacer.next() || !self.store_calls.fetch.may_start(now) {
            return;
        }
        let Some(reader) = self.reader.take() else { return };
        let number = self.store_calls.fetch.start(now);
        let limit = FetchLimit {
            messages: self.settings.fetch_batch.min(self.settings.max_in_flight - self.window.len()).max(1),
            bytes: self.settings.max_bytes_in_flight.saturating_sub(self.window.bytes()).max(1),
        };
        self.pacer.fetching(now);
        self.read_aside();
        // What is to be tried again or held may have been recorded by a call whose answer was lost, and be due by now.
        let in_memory = self.window.due_rows().into_iter().chain(self.settling.undelivered());
        let in_memory = in_memory.chain(self.parking.aside()).collect();
        self.jobs.fetch(reader, number, limit, in_memory);
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
        for (key, position) in self.recorded.drain(..) {
            self.window.unblock(&key, position);
        }
    }

    /// Gives drained partitions back. Heartbeats do not wait for it.
    fn start_release(&mut self, now: Instant) {
        let call = &mut self.store_calls.release;
        if self.stopping || !call.may_start(now) {
            return;
        }
        // A partition is handed over when nothing of it is in memory. What a running fetch brings of it is refused.
        let drained: Vec<Partition> =
            self.leases.draining().filter(|partition| self.window.is_empty_of(*partition)).collect();
        if !drained.is_empty() {
            call.start(now);
            self.leases.release_started(&drained);
            self.jobs.release(drained);
        }
    }

    fn start_heartbeat(&mut self, now: Instant) {
        let call = &mut self.store_calls.heartbeat;
        if self.stopping || !call.may_start(now) {
            return;
        }
        let number = call.start(now);
        call.plan(now + self.settings.heartbeat_interval);
        let timeout = self.settings.heartbeat_timeout(call.failures());
        self.jobs.heartbeat(number, self.settings.lease_ttl, timeout);
        self.sweep_parked_keys();
    }

    fn start_side_jobs(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        let calls = &mut self.store_calls;
        if let Some(idle) = self.pacer.announce()
            && calls.set_idle.may_start(now)
        {
            calls.set_idle.start(now);
            self.jobs.set_idle(self.memberships, idle);
        }
        if calls.repair.may_start(now) {
            calls.repair.plan(now + self.settings.purge_interval);
            if self.leases.any_active() {
                calls.repair.start(now);
                self.jobs.repair(self.leases.owned(), self.settings.purge_batch);
            }
        }
        if let Some(age) = self.settings.retention
            && calls.purge.may_start(now)
        {
            calls.purge.plan(now + self.settings.purge_interval);
            // One relay of the group is enough: the one that owns the first partition.
            if self.leases.is_active(Partition(0)) {
                calls.purge.start(now);
                self.jobs.purge(age, self.settings.purge_batch);
            }
        }
        if let Some(interval) = self.settings.stats_interval
            && calls.stats.may_start(now)
        {
            calls.stats.start(now);
            calls.stats.plan(now + interval);
            self.jobs.stats(self.settings.stats_limit);
        }
    }
}
