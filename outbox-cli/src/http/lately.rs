//! What happened lately on a route, kept in memory, so that who looks only now sees how it came about.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outbox_core::event::{Delivery, Event, Events, Received};
use outbox_core::relay::Status;
use outbox_core::{Stats, Store, Timestamp};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::api::COUNT;
use crate::view;

/// How far back the samples go.
const SPAN: Duration = Duration::from_secs(3_600);
/// A sample is taken at least so often, whatever the relay's own interval is.
const SLOWEST: Duration = Duration::from_secs(5);
/// And not more often, which bounds the memory.
const FASTEST: Duration = Duration::from_millis(500);
/// Counting takes no more than one part in so many of the database's time.
const SHARE: u32 = 10;
/// Failures that are kept.
const FAILURES: usize = 200;
/// Characters of a text of somebody else that are kept.
const TEXT: usize = 1_000;

/// Keeps the last hour of one route. It looks on from beside: a relay that is faster than it loses nothing but entries here.
pub(crate) struct Lately {
    kept: Arc<Mutex<Kept>>,
    every: Duration,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Lately {
    /// Watches from now on. `stats_interval` is the relay's; without one nobody wants the store to be counted, so the
    /// samples have no counts.
    pub(crate) fn watch(
        store: Arc<dyn Store>,
        events: Events,
        status: watch::Receiver<Status>,
        stats_interval: Option<Duration>,
    ) -> Self {
        let every = stats_interval.unwrap_or(SLOWEST).clamp(FASTEST, SLOWEST);
        let kept = Arc::new(Mutex::new(Kept::new(every)));
        let listening = tokio::spawn(listen(kept.clone(), events));
        let store = stats_interval.map(|_| store);
        let sampling = tokio::spawn(sample(kept.clone(), store, status, every));
        Self { kept, every, _tasks: [AbortOnDropHandle::new(listening), AbortOnDropHandle::new(sampling)] }
    }

    /// The samples that are newer than `after`, which is in milliseconds since 1970.
    pub(super) fn samples(&self, after: u64) -> Value {
        let kept = lock(&self.kept);
        let samples: Vec<_> =
            kept.samples.iter().filter(|sample| sample.at > after).map(Sample::json).collect();
        json!({ "now": milliseconds(), "every_seconds": self.every.as_secs_f64(), "samples": samples })
    }

    /// The last failures, the newest first.
    pub(super) fn failures(&self) -> Value {
        let kept = lock(&self.kept);
        let failures: Vec<_> = kept.failures.iter().rev().map(Failure::json).collect();
        json!({ "failures": failures, "missed": kept.missed })
    }
}

struct Kept {
    samples: VecDeque<Sample>,
    most_samples: usize,
    /// Since the last sample.
    counts: Counts,
    failures: VecDeque<Failure>,
    missed: u64,
}

/// What the relay did in some time.
#[derive(Clone, Copy, Default)]
struct Counts {
    confirmed: u64,
    retried: u64,
    died: u64,
}

struct Sample {
    /// Milliseconds since 1970.
    at: u64,
    /// How long the counts took to come together.
    seconds: f64,
    counts: Counts,
    /// None if nobody wants it counted, or the store did not answer.
    stats: Option<Stats>,
    error: Option<String>,
    circuit_open: bool,
}

impl Sample {
    fn json(&self) -> Value {
        let mut json = json!({
            "at": self.at,
            "seconds": self.seconds,
            "confirmed": self.counts.confirmed,
            "retried": self.counts.retried,
            "died": self.counts.died,
            "circuit_open": self.circuit_open,
        });
        if let Some(stats) = &self.stats {
            json["backlog"] = view::count(stats.backlog);
            json["dead_letters"] = view::count(stats.dead_letters);
            json["lag_seconds"] = stats.lag.map(|lag| lag.as_secs_f64()).into();
        }
        if let Some(error) = &self.error {
            json["error"] = error.as_str().into();
        }
        json
    }
}

/// Something that went wrong, as often as it did so in a row.
struct Failure {
    kind: &'static str,
    at: Timestamp,
    times: u64,
    error: String,
    /// What belongs to a message, or to this kind.
    more: Map<String, Value>,
}

impl Failure {
    fn new(kind: &'static str, error: &str) -> Self {
        Self { kind, at: Timestamp::now(), times: 1, error: shortened(error), more: Map::new() }
    }

    fn of(kind: &'static str, delivery: &Delivery) -> Self {
        let mut failure = Self::new(kind, delivery.error.as_deref().unwrap_or_default());
        failure.add("position", delivery.position.0);
        failure.add("attempts", delivery.attempts);
        failure.add("topic", delivery.topic.as_deref().map(shortened));
        failure.add("key", delivery.key.as_deref().map(shortened));
        failure.add("id", delivery.id.map(|id| id.to_string()));
        failure
    }

    fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.more.insert(name.to_owned(), value.into());
    }

    fn json(&self) -> Value {
        let mut json = self.more.clone();
        json.insert("kind".to_owned(), self.kind.into());
        json.insert("at".to_owned(), self.at.to_string().into());
        json.insert("times".to_owned(), self.times.into());
        json.insert("error".to_owned(), self.error.as_str().into());
        Value::Object(json)
    }
}

/// What others may write as long as they like takes no more room than this.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Kept {
    fn new(every: Duration) -> Self {
        let most_samples = (SPAN.as_millis() / every.as_millis().max(1)).try_into().unwrap_or(usize::MAX);
        Self {
            samples: VecDeque::new(),
            most_samples,
            counts: Counts::default(),
            failures: VecDeque::new(),
            missed: 0,
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Delivered(_) => self.counts.confirmed += 1,
            Event::Retrying { delivery, after } => {
                self.counts.retried += 1;
                let mut failure = Failure::of("retrying", delivery);
                failure.add("retry_after_seconds", after.as_secs_f64());
                self.keep(failure);
            }
            Event::DeadLettered(delivery) => {
                self.counts.died += 1;
                self.keep(Failure::of("dead_letter", delivery));
            }
            Event::CircuitOpened { error, .. } => self.keep(Failure::new("broker", error)),
            Event::StoreFailed { operation, error } => {
                let mut failure = Failure::new("store", error);
                failure.add("operation", *operation);
                self.keep(failure);
            }
            _ => {}
        }
    }

    fn keep(&mut self, failure: Failure) {
        // A broker that is down fails at every probe. That is one thing to read, and not two hundred.
        if let Some(last) = self.failures.back_mut()
            && (last.kind, &last.error, &last.more) == (failure.kind, &failure.error, &failure.more)
        {
            (last.at, last.times) = (failure.at, last.times + 1);
            return;
        }
        if self.failures.len() == FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(failure);
    }

    fn add(&mut self, mut sample: Sample) {
        // A clock that was set back must not hide what comes from who asks for what is newer.
        if let Some(last) = self.samples.back() {
            sample.at = sample.at.max(last.at + 1);
        }
        sample.counts = std::mem::take(&mut self.counts);
        if self.samples.len() >= self.most_samples {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }
}

/// The time, in milliseconds since 1970.
fn milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis().try_into().unwrap_or(u64::MAX)
}

/// It is never held across anything that waits.
fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what the relay does, until it ends.
async fn listen(kept: Arc<Mutex<Kept>>, mut events: Events) {
    while let Some(received) = events.recv().await {
        let mut kept = lock(&kept);
        match received {
            Received::Event(event) => kept.note(&event),
            Received::Missed(number) => {
                // They come too fast only when all goes well, so they are counted as what nearly all of them are.
                kept.missed += number;
                kept.counts.confirmed += number;
            }
        }
    }
}

/// Looks at the store and the status again and again. Never ends.
async fn sample(
    kept: Arc<Mutex<Kept>>,
    store: Option<Arc<dyn Store>>,
    status: watch::Receiver<Status>,
    every: Duration,
) {
    let mut since = Instant::now();
    loop {
        let began = Instant::now();
        let (stats, error) = match &store {
            Some(store) => match store.stats(COUNT).await {
                Ok(stats) => (Some(stats), None),
                Err(error) => (None, Some(shortened(&error.report()))),
            },
            None => (None, None),
        };
        let took = began.elapsed();
        let circuit_open = status.borrow().circuit_open;
        lock(&kept).add(Sample {
            at: milliseconds(),
            seconds: since.elapsed().as_secs_f64(),
            counts: Counts::default(),
            stats,
            error,
            circuit_open,
        });
        since = Instant::now();
        tokio::time::sleep(every.max(took * SHARE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64) -> Sample {
        let counts = Counts::default();
        Sample { at, seconds: 1.0, counts, stats: None, error: None, circuit_open: false }
    }

    fn opened(error: &str) -> Event {
        Event::CircuitOpened { pause: Duration::from_secs(1), error: error.into() }
    }

    #[test]
    fn samples_are_bounded_and_their_times_grow_even_if_the_clock_does_not() {
        let mut kept = Kept::new(Duration::from_secs(5));
        for at in 1..=1_000 {
            kept.add(sample(at));
        }
        assert_eq!((kept.samples.len(), kept.samples[0].at), (720, 281));
        kept.add(sample(3));
        assert_eq!(kept.samples.back().map(|sample| sample.at), Some(1_001));
    }

    #[test]
    fn counts_are_those_since_the_last_sample() {
        let mut kept = Kept::new(Duration::from_secs(5));
        kept.counts.confirmed = 7;
        kept.add(sample(1));
        kept.add(sample(2));
        assert_eq!((kept.samples[0].counts.confirmed, kept.samples[1].counts.confirmed), (7, 0));
    }

    #[test]
    fn failures_are_bounded_and_the_same_one_again_is_counted() {
        let mut kept = Kept::new(Duration::from_secs(5));
        for _ in 0..3 {
            kept.note(&opened("refused"));
        }
        assert_eq!((kept.failures.len(), kept.failures[0].times), (1, 3));
        for number in 0..500 {
            kept.note(&opened(&format!("refused {number}")));
        }
        assert_eq!((kept.failures.len(), kept.failures[199].error.as_str()), (FAILURES, "refused 499"));
        kept.note(&opened(&"ä".repeat(5_000)));
        assert_eq!(kept.failures[199].error.chars().count(), TEXT + 1);
    }
}
