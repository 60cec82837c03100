//! A steady load, and what became of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outbox_conformance::{Ledger, Rules, Verdict};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::arrivals::{Arrival, payload};

const WRITERS: u64 = 4;
const KEYS_OF_A_WRITER: u64 = 10;
/// Between two messages of one writer.
const INTERVAL: Duration = Duration::from_millis(20);

/// A message whose transaction is committed.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) key: String,
    pub(crate) number: u64,
    pub(crate) at: Instant,
}

/// Writers that enqueue at a steady rate until they are stopped. They wait while the database is frozen.
pub(crate) struct Load {
    committed: Arc<Mutex<Vec<Committed>>>,
    enough: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    pub(crate) async fn start(database: &str, topic: &'static str) -> Self {
        let (committed, enough) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let numbers = Arc::<AtomicU64>::default();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let mut connection = PgConnection::connect(database).await.unwrap();
            let (committed, enough, numbers) = (committed.clone(), enough.clone(), numbers.clone());
            writers.spawn(async move {
                let mut clock = tokio::time::interval(INTERVAL);
                clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for count in 0.. {
                    clock.tick().await;
                    if enough.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("key-{writer}-{}", count % KEYS_OF_A_WRITER);
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let insert = "INSERT INTO outbox_message (topic, key, payload) VALUES ($1, $2, $3)";
                    let payload = payload(&key, number).into_bytes();
                    // An error would leave open whether the message was committed.
                    let insert = sqlx::query(insert).bind(topic).bind(&key).bind(payload);
                    insert.execute(&mut connection).await.unwrap();
                    let message = Committed { key, number, at: Instant::now() };
                    committed.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                }
            });
        }
        Self { committed, enough, writers }
    }

    /// What is committed so far.
    ///
    /// # Panics
    /// If a writer has failed.
    pub(crate) fn committed(&self) -> Vec<Committed> {
        assert_eq!(self.writers.len(), 4);
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the writers, and returns everything that they have committed.
    pub(crate) async fn stop(self) -> Vec<Committed> {
        self.enough.store(true, Ordering::Relaxed);
        self.writers.join_all().await;
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Committed messages, in the order of their commits, with the time until each arrived first; `None` if it has not.
pub(crate) fn delays(committed: &[Committed], arrived: &[Arrival]) -> Vec<(Committed, Option<Duration>)> {
    let mut first = HashMap::new();
    for arrival in arrived {
        first.entry(arrival.number).or_insert(arrival.at);
    }
    let mut delays: Vec<_> = committed
        .iter()
        .map(|message| {
            let at = first.get(&message.number);
            (message.clone(), at.map(|at| at.saturating_duration_since(message.at)))
        })
        .collect();
    delays.sort_by_key(|(message, _)| message.at);
    delays
}

/// The promises, over all that was committed and arrived.
pub(crate) fn verdict(committed: &[Committed], arrived: &[Arrival]) -> Verdict {
    let mut ledger = Ledger::new();
    for message in committed {
        ledger.committed(Some(&message.key), message.number);
    }
    for arrival in arrived {
        ledger.arrived(Some(&arrival.key), arrival.number);
    }
    ledger.verdict(&Rules::new())
}

/// The delay that nine of ten messages do not exceed; `None` if some have not arrived.
pub(crate) fn ninth_decile(delays: &[(Committed, Option<Duration>)]) -> Option<Duration> {
    let mut delays = delays.iter().map(|(_, delay)| *delay).collect::<Option<Vec<_>>>()?;
    delays.sort_unstable();
    delays.get(delays.len() * 9 / 10).copied()
}
