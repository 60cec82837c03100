//! Random storms: several relays that come and go, a broker and a store that fail in every way they can, writers
//! that commit late or roll back, all in paused time. Whatever happens, nothing is lost or invented, each key
//! comes in order, and once the faults end the outbox drains.
//!
//! A failing storm prints its seed; `OUTBOX_STORM_SEED=…` repeats it alone, `OUTBOX_STORMS=…` sets how many run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_core::memory::{MemoryPublisher, MemoryStore, Operation};
use outbox_core::relay::{RelayHandle, RetryPolicy};
use outbox_core::{Error, ErrorKind, Message, PublisherCapabilities};
use support::{drained, message, number, relay, settings};

const KEYS: u64 = 12;

/// What every broker of a storm saw, in the order in which it saw it.
type Log = Arc<Mutex<Vec<(Option<String>, u64)>>>;

struct Storm {
    rng: fastrand::Rng,
    store: MemoryStore,
    log: Log,
    publishers: Vec<MemoryPublisher>,
    relays: Vec<RelayHandle>,
    committed: HashMap<Option<String>, Vec<u64>>,
    rolled_back: HashSet<u64>,
    next: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            store: MemoryStore::new(),
            log: Log::default(),
            publishers: Vec::new(),
            relays: Vec::new(),
            committed: HashMap::new(),
            rolled_back: HashSet::new(),
            next: 0,
        }
    }

    fn start_relay(&mut self) {
        let mut settings = settings();
        settings.seed = Some(self.rng.u64(..));
        settings.max_in_flight = self.rng.usize(5..60);
        settings.fetch_batch = self.rng.usize(2..40);
        settings.publish_batch = self.rng.usize(1..20);
        settings.retry = RetryPolicy::default()
            .max_attempts(1_000_000)
            .initial(Duration::from_millis(200))
            .max(Duration::from_secs(3));
        let mut dice = self.rng.fork();
        let (fail, lose) = (dice.u32(0..20), dice.u32(0..10));
        let (log, script_dice) = (self.log.clone(), Mutex::new(dice.fork()));
        let confirm_dice = Mutex::new(dice.fork());
        let delay_dice = Mutex::new(dice.fork());
        let publisher = MemoryPublisher::builder()
            .capabilities(PublisherCapabilities::default().ordered_batches(dice.bool()))
            .script(move |message, _| {
                if script_dice.lock().unwrap().u32(0..100) < fail {
                    return Err(Error::new(ErrorKind::Rejected, "the storm says no"));
                }
                log.lock().unwrap().push((message.key().map(str::to_owned), number(message)));
                Ok(())
            })
            .confirm_if(move |_, _| confirm_dice.lock().unwrap().u32(0..100) >= lose)
            .delay_with(move |_| Duration::from_millis(delay_dice.lock().unwrap().u64(0..300)))
            .build();
        self.relays.push(relay(&self.store, &publisher, settings));
        self.publishers.push(publisher);
    }

    fn new_message(&mut self) -> Message {
        self.next += 1;
        let key = self.rng.u64(0..KEYS + 3);
        message((key < KEYS).then(|| format!("key-{key}")).as_deref(), self.next)
    }

    fn note(&mut self, message: &Message) {
        self.committed.entry(message.key().map(str::to_owned)).or_default().push(number(message));
    }

    /// One transaction: several messages, of keys that no open transaction touches.
    fn write(&mut self, open: &mut Vec<(outbox_core::memory::MemoryTransaction, Vec<Message>)>) {
        let mut transaction = self.store.begin();
        let mut messages = Vec::new();
        for _ in 0..self.rng.usize(1..8) {
            let message = self.new_message();
            // Order between concurrent transactions of one key is nobody's promise; a business row's lock would
            // serialise them.
            let busy =
                open.iter().flat_map(|(_, messages)| messages).any(|other| other.key() == message.key());
            if message.key().is_none() || !busy {
                transaction.enqueue(&message);
                messages.push(message);
            }
        }
        match self.rng.u32(0..10) {
            0 => {
                transaction.rollback();
                self.rolled_back.extend(messages.iter().map(number));
            }
            1..=3 => open.push((transaction, messages)),
            _ => {
                transaction.commit();
                messages.iter().for_each(|message| self.note(message));
            }
        }
    }

    async fn disturb(&mut self) {
        let faults = self.store.faults();
        let operations = [
            Operation::Fetch,
            Operation::Settle,
            Operation::Heartbeat,
            Operation::Release,
            Operation::SetIdle,
        ];
        let operation = operations[self.rng.usize(..operations.len())];
        match self.rng.u32(0..14) {
            0..=1 => faults.fail_next(operation, self.rng.u64(1..4), ErrorKind::Unavailable),
            2..=3 => faults.lose_answers(operation, self.rng.u64(1..3)),
            4 => faults.delay(operation, Duration::from_millis(self.rng.u64(0..2_000))),
            5 => faults.down(),
            6..=7 => faults.clear(),
            8 => self.publishers.iter().for_each(MemoryPublisher::down),
            9..=10 => self.publishers.iter().for_each(MemoryPublisher::up),
            11 if self.relays.len() < 4 => self.start_relay(),
            12 if !self.relays.is_empty() => {
                let victim = self.rng.usize(..self.relays.len());
                self.relays.swap_remove(victim).abort().await;
            }
            13 if !self.relays.is_empty() => {
                let leaver = self.rng.usize(..self.relays.len());
                let handle = self.relays.swap_remove(leaver);
                // With the store down it may well end at its deadline.
                let _ = handle.shutdown().await;
            }
            _ => {}
        }
    }

    async fn run(mut self) {
        let mut open = Vec::new();
        self.start_relay();
        for _ in 0..60 {
            self.write(&mut open);
            if self.rng.u32(0..3) == 0 {
                self.disturb().await;
            }
            if !open.is_empty() && self.rng.bool() {
                let (transaction, messages) = open.swap_remove(self.rng.usize(..open.len()));
                transaction.commit();
                messages.iter().for_each(|message| self.note(message));
            }
            tokio::time::sleep(Duration::from_millis(self.rng.u64(0..1_500))).await;
        }
        for (transaction, messages) in open.drain(..) {
            transaction.commit();
            messages.iter().for_each(|message| self.note(message));
        }
        self.store.faults().clear();
        self.store.faults().up();
        self.publishers.iter().for_each(MemoryPublisher::up);
        self.start_relay();
        drained(&self.store).await;
        for relay in self.relays.drain(..) {
            relay.shutdown().await.expect("a calm relay stops cleanly");
        }
        self.check();
    }

    fn check(&self) {
        let mut seen: HashMap<Option<String>, Vec<u64>> = HashMap::new();
        for (key, number) in self.log.lock().unwrap().iter() {
            let numbers = seen.entry(key.clone()).or_default();
            if !numbers.contains(number) {
                numbers.push(*number);
            }
            assert!(!self.rolled_back.contains(number), "{number} was rolled back and published");
        }
        for (key, committed) in &self.committed {
            let mut published = seen.remove(key).unwrap_or_default();
            if key.is_none() {
                published.sort_unstable();
            }
            let mut committed = committed.clone();
            committed.sort_unstable();
            assert_eq!(published, committed, "{key:?}: published is not what was committed, in order");
        }
        assert!(seen.is_empty(), "published from nowhere: {seen:?}");
    }
}

#[test]
fn no_storm_loses_invents_or_reorders() {
    let variable = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let seeds = match variable("OUTBOX_STORM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = fastrand::u64(..1 << 48);
            (0..variable("OUTBOX_STORMS").unwrap_or(150)).map(|offset| first + offset).collect()
        }
    };
    for seed in seeds {
        println!("storm seed {seed}");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(Storm::new(seed).run());
    }
}
