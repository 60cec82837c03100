//! One run: writers, relays, failures and an operator, then recovery without failures, then the verdict.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_conformance::{Ledger, Rules, Verdict};
use outbox_core::memory::{MemoryStore, MemoryTransaction};
use outbox_core::relay::{KeyOrder, RetryPolicy, Settings, Waker};
use outbox_core::{Content, DeadLetterFilter, Message, Relay, Store};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::broker::{FreeAt, Link as BrokerLink, Taken, number};
use crate::link::Link;
use crate::process::{End, Process};
use crate::trace::Trace;
use crate::weather::{Chances, Conditions, Weather};
use crate::witness::Witness;

const KEYS: u64 = 8;
/// Maximum number of messages that a relay has in flight here.
const WINDOW: usize = 40;
/// How long the remaining work may take after the failures have ended: leases of dead relays, an open
/// circuit, postponed retries, and the work of a paused process. All of these take a minute or two.
const DRAIN: Duration = Duration::from_secs(600);

/// Messages of a key with a backlog, at 50 milliseconds each.
const HOT: usize = 1_200;
/// How long a message of another key may take beside it, and the lease of a relay that has crashed before. The longest poll interval
/// is a part of that.
const BESIDE_HOT: Duration = Duration::from_secs(15);

/// The result of a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The verdict of the ledger.
    pub verdict: Verdict,
    /// The first other error: a relay broke a rule that the ledger cannot see, a message is stuck, or a relay
    /// did not stop after the failures had ended.
    pub failure: Option<String>,
    /// Virtual time from the end of the failures until no message was undelivered.
    pub drained: Duration,
    /// All calls.
    pub trace: Trace,
}

impl Outcome {
    /// Returns whether there was no error.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.failure.is_none()
    }
}

/// Runs the simulation of this seed. With `lines`, the trace has text.
///
/// # Panics
/// If the simulation itself is broken.
pub fn simulate(seed: u64, lines: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async move { World::new(seed, lines).run().await })
}

fn numbered(content: &Content) -> Option<u64> {
    match content {
        Content::Message(message) => Some(number(message)),
        Content::Malformed { .. } => None,
    }
}

struct Member {
    task: JoinHandle<End>,
    stop: Option<oneshot::Sender<()>>,
    process: Process,
    waker: Waker,
}

struct World {
    rng: fastrand::Rng,
    /// For features that were added later, so that older seeds keep their course.
    more: fastrand::Rng,
    /// Most messages have the same key.
    is_hot: bool,
    /// In the end, messages of other keys are enqueued behind many messages of one key.
    has_backlog: bool,
    /// For the store failures of a third of the runs.
    trouble: Option<fastrand::Rng>,
    /// For the store's losses of its latest commits, which a quarter of the worlds have.
    losses: Option<fastrand::Rng>,
    /// What was committed, in order, and those of these messages that the store has lost.
    committed: Vec<(Option<String>, u64)>,
    lost: HashSet<u64>,
    /// Dead letters at positions that the store assigns again. They have to arrive, in no order with what came after them.
    outlived: HashSet<u64>,
    store: MemoryStore,
    taken: Taken,
    free_at: FreeAt,
    weather: Arc<Weather>,
    trace: Trace,
    members: Vec<Member>,
    /// Relays that were asked to stop.
    leavers: Vec<JoinHandle<End>>,
    /// How strongly the seed mixes the order in which tasks run.
    most_turns: u32,
    relays: u32,
    open: Vec<(MemoryTransaction, Vec<Message>)>,
    ledger: Ledger,
    next: u64,
    ordered_batches: bool,
    key_order: KeyOrder,
    lease: Duration,
    witness: Witness,
}

impl World {
    fn new(seed: u64, lines: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let builder = MemoryStore::builder().partitions([1, 3, 16][rng.usize(..3)]).wakeups(rng.bool());
        let key_order = match rng.u32(0..8) {
            0 => KeyOrder::Progress,
            1 => KeyOrder::SkipDead,
            _ => KeyOrder::Strict,
        };
        let lease = Duration::from_secs(rng.u64(5..20));
        let mut more = fastrand::Rng::with_seed(seed ^ 0x6d6f_7265);
        Self {
            is_hot: more.u32(0..4) == 0,
            more,
            store: builder.build().expect("a valid store"),
            taken: Taken::default(),
            free_at: FreeAt::default(),
            weather: Weather::new(),
            trace: Trace::new(lines),
            members: Vec::new(),
            leavers: Vec::new(),
            most_turns: [0, 1, 3][rng.usize(..3)],
            relays: 0,
            open: Vec::new(),
            ledger: Ledger::new(),
            next: 0,
            ordered_batches: rng.bool(),
            key_order,
            lease,
            witness: Witness::new(lease / 4),
            has_backlog: seed % 8 == 1,
            trouble: seed.is_multiple_of(3).then(|| fastrand::Rng::with_seed(!seed)),
            losses: (seed % 4 == 1).then(|| fastrand::Rng::with_seed(!seed.rotate_left(7))),
            committed: Vec::new(),
            lost: HashSet::new(),
            outlived: HashSet::new(),
            rng,
        }
    }

    fn settings(&mut self) -> Settings {
        let mut settings = Settings::default();
        settings.seed = Some(self.rng.u64(..));
        settings.max_in_flight = self.rng.usize(3..=WINDOW);
        if self.has_backlog {
            // In fewer there is no room beside what one key has in flight and what waits for that.
            settings.max_in_flight = settings.max_in_flight.max(10);
        }
        settings.fetch_batch = self.rng.usize(1..30);
        settings.publish_batch = self.rng.usize(1..15);
        settings.publish_concurrency = self.rng.usize(1..5);
        settings.lease_ttl = self.lease;
        settings.heartbeat_interval = self.lease / 5;
        settings.publish_timeout = self.lease / 4;
        settings.shutdown_timeout = Duration::from_secs(self.rng.u64(1..20));
        settings.purge_interval = Duration::from_secs(self.rng.u64(1..60));
        settings.retention = self.rng.bool().then_some(Duration::from_secs(30));
        settings.stats_interval = None;
        // Unsuccessful polling is most of the cost of a run, and its result is the same with few or many
        // subscribers of events.
        settings.min_poll_interval = Duration::from_millis([2, 20, 200][self.rng.usize(..3)]);
        settings.poll_interval = Duration::from_secs(self.rng.u64(1..5));
        settings.event_capacity = 1;
        settings.key_order = self.key_order;
        settings.retry = RetryPolicy::default()
            .max_attempts(self.rng.u32(1..12))
            .jitter(self.rng.bool())
            .initial(Duration::from_millis(200))
            .max(Duration::from_secs(5));
        settings
    }

    fn start_relay(&mut self) {
        let settings = self.settings();
        self.relays += 1;
        let relay = self.relays;
        // The relay does not know yet how fast the broker is.
        self.weather.may_repeat();
        let steps = (self.rng.u32(0..3) == 0).then(|| self.rng.u64(1..1_000));
        if steps.is_some() {
            self.weather.may_repeat();
        }
        let process = Process::new(steps, self.most_turns, self.rng.fork());
        let store = Link {
            store: self.store.clone(),
            relay,
            weather: self.weather.clone(),
            process: process.clone(),
            witness: self.witness.clone(),
            retry: settings.retry.clone(),
            trace: self.trace.clone(),
            rng: Arc::new(Mutex::new(self.rng.fork())),
        };
        let broker = BrokerLink {
            taken: self.taken.clone(),
            free_at: self.free_at.clone(),
            relay,
            weather: self.weather.clone(),
            process: process.clone(),
            witness: self.witness.clone(),
            trace: self.trace.clone(),
            rng: Mutex::new(self.rng.fork()),
            ordered_batches: self.ordered_batches,
        };
        let engine = Relay::builder(store, broker).settings(settings).build().expect("valid settings");
        let waker = engine.waker();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = engine.run(async move {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let task = tokio::spawn(process.clone().live(Box::pin(run)));
        self.members.push(Member { task, stop: Some(stop), process, waker });
    }

    fn message(&mut self) -> Message {
        self.next += 1;
        let mut key = self.rng.u64(0..KEYS + 2);
        if self.is_hot && self.more.u32(0..3) > 0 {
            key = 0;
        }
        let mut message =
            Message::bytes("topic", self.next.to_string()).id(Uuid::from_u128(self.rng.u128(..)));
        if key < KEYS {
            message = message.key(format!("key-{key}"));
        } else if self.rng.bool() {
            let later = self.store.now().as_micros() + self.rng.i64(0..20_000_000);
            message = message.deliver_at(outbox_core::Timestamp::from_micros(later));
        }
        message.build().expect("a valid message")
    }

    fn commit(&mut self, transaction: MemoryTransaction, messages: &[Message]) {
        transaction.commit();
        for message in messages {
            self.committed.push((message.key().map(str::to_owned), number(message)));
        }
    }

    /// One transaction: several messages, with keys to which no open transaction writes. Concurrent
    /// transactions of one key have no order to keep; a row lock of the business would serialise them.
    fn write(&mut self) {
        let mut transaction = self.store.begin();
        let mut messages = Vec::new();
        for _ in 0..self.rng.usize(1..8) {
            let message = self.message();
            let busy =
                self.open.iter().flat_map(|(_, messages)| messages).any(|other| other.key() == message.key());
            if message.key().is_none() || !busy {
                transaction.enqueue(&message);
                messages.push(message);
            }
        }
        match self.rng.u32(0..10) {
            0 => transaction.rollback(),
            1..=3 => self.open.push((transaction, messages)),
            _ => self.commit(transaction, &messages),
        }
    }

    fn change_weather(&mut self) {
        let rng = &mut self.rng;
        let now = self.weather.now();
        let conditions = match rng.u32(0..6) {
            0 => Conditions::default(),
            1 => Conditions { store_down: !now.store_down, ..now },
            2 => Conditions { broker_down: !now.broker_down, ..now },
            _ => Conditions {
                store: Chances::draw(rng),
                broker: Chances::draw(rng),
                store_down: false,
                broker_down: false,
                refuses: if rng.bool() { rng.u32(0..150) } else { 0 },
                poison: if rng.u32(0..3) == 0 { rng.u64(5..40) } else { 0 },
                breaks: if self.more.u32(0..4) == 0 { self.more.u64(5..60) } else { 0 },
                pace: match self.more.u32(0..4) {
                    0 => Duration::from_millis(self.more.u64(1..60)),
                    _ => Duration::ZERO,
                },
                ..Conditions::default()
            },
        };
        if now.pace != conditions.pace {
            // Messages in flight may not be finished in time, or messages sent so far take long.
            self.weather.may_repeat();
        }
        self.weather.set(conditions);
    }

    /// Some settlements are refused, one kind of call hangs, or relays are poked endlessly.
    async fn disturb_the_store(&mut self) {
        let Some(rng) = &mut self.trouble else { return };
        let now = self.weather.now();
        let unsettled = if rng.bool() { rng.i64(2..30) } else { 0 };
        let hangs = ["heartbeat", "release", "fetch", "settle", "set_idle", "repair", "purge"];
        let hangs = (rng.u32(0..3) == 0).then(|| hangs[rng.usize(..hangs.len())]);
        self.weather.set(Conditions { unsettled, hangs, ..now });
        if rng.u32(0..3) == 0 {
            for _ in 0..rng.u32(1..500) {
                self.members.iter().for_each(|member| member.waker.wake());
                sleep(Duration::from_micros(rng.u64(1..2_000))).await;
            }
        }
    }

    /// The store loses its latest commits and assigns their positions again.
    async fn lose_commits(&mut self) {
        let Some(rng) = &mut self.losses else { return };
        let rows = self.store.undelivered();
        if rows.is_empty() || rng.u32(0..4) > 0 {
            return;
        }
        // Mostly the last few.
        let most = if rng.bool() { rows.len() } else { rows.len().min(3) };
        let lost = &rows[rows.len() - rng.usize(1..=most)..];
        let from = lost[0].0;
        self.lost.extend(lost.iter().filter_map(|(_, content)| numbered(content)));
        let dead_letters = self.store.dead_letters().expect("it has them");
        let letters = dead_letters.list(&DeadLetterFilter::all(), None, usize::MAX).await;
        for letter in letters.expect("the memory answers").iter().filter(|letter| letter.position >= from) {
            self.outlived.extend(letter.message.as_ref().map(number));
        }
        self.trace.note(0, "lost", lost.len() as u64);
        // A crash rolls them back.
        self.open.clear();
        self.store.lose_from(from);
    }

    /// An event for a relay, or for the dead letters.
    async fn disturb(&mut self) {
        let some = (!self.members.is_empty()).then(|| self.rng.usize(..self.members.len().max(1)));
        match (self.rng.u32(0..12), some) {
            (0..=2, _) if self.members.len() < 4 => self.start_relay(),
            (3, Some(victim)) => {
                self.weather.may_repeat();
                let member = self.members.swap_remove(victim);
                member.task.abort();
                let _ = member.task.await;
            }
            (4, Some(leaver)) => {
                // It may have to give up messages in flight.
                self.weather.may_repeat();
                let mut member = self.members.swap_remove(leaver);
                member.process.freeze(false);
                let _ = member.stop.take().map(|stop| stop.send(()));
                self.leavers.push(member.task);
            }
            (5..=6, Some(victim)) => {
                self.weather.may_repeat();
                let process = &self.members[victim].process;
                process.freeze(!process.is_frozen());
            }
            (7, _) => drop(self.redrive().await),
            _ => self.change_weather(),
        }
        self.members.retain(|member| !member.task.is_finished());
    }

    async fn redrive(&mut self) -> u64 {
        let dead_letters = self.store.dead_letters().expect("it has them");
        dead_letters.redrive(&DeadLetterFilter::default(), 1_000).await.expect("the memory answers")
    }

    async fn run(mut self) -> Outcome {
        self.start_relay();
        for _ in 0..self.rng.usize(5..60) {
            self.write();
            if self.rng.u32(0..3) == 0 {
                self.disturb().await;
            }
            if self.trouble.as_mut().is_some_and(|rng| rng.u32(0..4) == 0) {
                self.disturb_the_store().await;
            }
            self.lose_commits().await;
            if !self.open.is_empty() && self.rng.bool() {
                let (transaction, messages) = self.open.swap_remove(self.rng.usize(..self.open.len()));
                self.commit(transaction, &messages);
            }
            sleep(Duration::from_millis(self.rng.u64(0..3_000))).await;
        }
        for (transaction, messages) in std::mem::take(&mut self.open) {
            self.commit(transaction, &messages);
        }
        self.make_peace().await
    }

    async fn make_peace(mut self) -> Outcome {
        self.trace.note(0, "peace", 0);
        self.weather.clear();
        self.witness.peace();
        for member in &self.members {
            member.process.freeze(false);
        }
        self.start_relay();
        let began = Instant::now();
        let drained = timeout(DRAIN, self.drain()).await;
        let drained_in = began.elapsed();
        let mut failure = drained.err().map(|_| format!("stuck after {DRAIN:?} of peace: {:?}", self.store));
        if failure.is_none() && self.has_backlog {
            failure = self.deliver_beside_a_backlog().await;
        }
        if failure.is_none() {
            failure = self.stop_all().await;
        }
        failure = self.witness.breach().or(failure);
        let exempt = |number: &u64| self.lost.contains(number) || self.outlived.contains(number);
        for (key, number) in self.committed.iter().filter(|(_, number)| !exempt(number)) {
            self.ledger.committed(key.as_deref(), *number);
        }
        let mut outlived = self.outlived.clone();
        outlived.retain(|number| !self.lost.contains(number));
        for (key, number) in self.taken.lock().expect("nobody panics").iter() {
            outlived.remove(number);
            if !exempt(number) {
                self.ledger.arrived(key.as_deref(), *number);
            }
            self.trace.note(0, "arrived", *number);
        }
        if !outlived.is_empty() {
            failure =
                failure.or(Some(format!("dead letters that were redriven never arrived: {outlived:?}")));
        }
        // With a setting other than strict order, later messages may overtake earlier ones.
        let most = (self.weather.causes() + 1) * WINDOW as u64;
        let rules = Rules::new().ordered(self.key_order == KeyOrder::Strict).most_duplicates(most);
        Outcome { verdict: self.ledger.verdict(&rules), failure, drained: drained_in, trace: self.trace }
    }

    /// A key has many messages, and messages of other keys are delivered beside it.
    async fn deliver_beside_a_backlog(&mut self) -> Option<String> {
        let broker = Chances { delay: 50, ..Chances::default() };
        self.weather.set(Conditions { broker, ..Conditions::default() });
        self.spare_relays();
        self.enqueue(0, HOT);
        let limit = BESIDE_HOT + self.lease * 3 / 2;
        for key in 1..KEYS {
            sleep(Duration::from_millis(self.more.u64(0..1_000))).await;
            self.enqueue(key, 1);
            let (number, began) = (self.next, Instant::now());
            while !self.taken.lock().expect("nobody panics").iter().any(|taken| taken.1 == number) {
                self.spare_relays();
                if began.elapsed() > limit {
                    return Some(format!("message {number} has waited for {limit:?} beside a hot key"));
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        let drained = timeout(DRAIN, self.drain()).await;
        drained.err().map(|_| format!("stuck after {DRAIN:?} with a hot key: {:?}", self.store))
    }

    fn enqueue(&mut self, key: u64, count: usize) {
        let mut transaction = self.store.begin();
        let mut messages = Vec::new();
        for _ in 0..count {
            self.next += 1;
            let message = Message::bytes("topic", self.next.to_string()).key(format!("key-{key}"));
            let message = message.id(Uuid::from_u128(self.more.u128(..))).build().expect("a valid message");
            transaction.enqueue(&message);
            messages.push(message);
        }
        self.commit(transaction, &messages);
    }

    /// Until no message is undelivered or dead.
    async fn drain(&mut self) {
        loop {
            self.replace_crashed_relays();
            // Messages behind a dead letter wait until it is redriven or discarded.
            let redriven = self.redrive().await;
            let stats = self.store.stats(1).await.expect("the memory answers");
            if stats.backlog.value == 0 && redriven == 0 {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// As any supervisor does.
    fn replace_crashed_relays(&mut self) {
        self.members.retain(|member| !member.task.is_finished());
        if self.members.is_empty() {
            self.start_relay();
        }
    }

    /// From now on no relay crashes.
    fn spare_relays(&mut self) {
        self.replace_crashed_relays();
        self.members.iter().for_each(|member| member.process.spare());
    }

    async fn stop_all(&mut self) -> Option<String> {
        let mut failure = None;
        // Calls that were slow before the end of the failures may still run, and keep a relay from stopping
        // cleanly. The pause after a failed call does the same.
        for _ in 0..180 {
            sleep(Duration::from_secs(1)).await;
            if self.weather.long_calls() == 0 {
                break;
            }
        }
        sleep(Duration::from_secs(10)).await;
        for leaver in self.leavers.drain(..) {
            // These relays stopped during failures, and may report this.
            match timeout(Duration::from_secs(120), leaver).await {
                Ok(Ok(_)) => {}
                other => failure = Some(format!("a relay did not stop: {other:?}")),
            }
        }
        for mut member in self.members.drain(..) {
            let _ = member.stop.take().map(|stop| stop.send(()));
            match timeout(Duration::from_secs(120), member.task).await {
                Ok(Ok(End::Itself { cleanly: true } | End::Crash)) => {}
                other => failure = Some(format!("a relay did not stop in peace: {other:?}")),
            }
        }
        failure
    }
}
