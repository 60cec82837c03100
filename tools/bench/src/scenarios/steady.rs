//! The time from a message's commit to the broker's confirmation, while messages arrive at a steady rate.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use outbox_core::{Message, Publisher, Relay};
use serde_json::json;

use super::{Entrants, say};
use crate::brokers::Broker;
use crate::contenders::{Contender, Ours};
use crate::databases::{Database, Table, Write};
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::{Common, Steady};
use crate::servers;
use crate::stats::Latencies;
use crate::verify::{Watched, verify};

/// Number of concurrent clients.
const CLIENTS: u64 = 4;
/// At a higher commit rate the clients would be measured. Beyond it, a transaction has several messages.
const TRANSACTIONS: f64 = 400.0;
/// The rows that a transaction writes next to its messages.
const BUSINESS: [u8; 200] = [b'b'; 200];
/// The first messages find cold caches and are not counted.
const WARM_UP: f64 = 0.1;
/// How long the last messages may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common, options: &Steady) -> Result<()> {
    let database = servers::database(common).await?;
    let broker = servers::broker(common).await?;
    let publisher = broker.as_ref().map_or("noop", |broker| broker.name());
    let full = match options.rate {
        Some(rate) => rate,
        None => full_rate(common, &database, broker.as_deref()).await?,
    };
    let output = Output::new(common);
    for percent in &options.percent {
        let offered = full * f64::from(*percent) / 100.0;
        let mut entrants = Entrants::new(common, &["ours", "floor"])?;
        let mut figures: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
        for round in 0..common.rounds {
            for name in entrants.next_round() {
                let run = Run {
                    common,
                    database: &database,
                    broker: broker.as_deref(),
                    offered,
                    seconds: options.seconds,
                };
                let latencies =
                    run.measure(name).await.with_context(|| format!("{name} in round {round}"))?;
                say(format_args!("{percent} %: {name} p50 {:.2} ms", latencies.quantile(0.5)));
                for (metric, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                    figures.entry((metric, name)).or_default().push(latencies.quantile(part));
                }
            }
        }
        for ((metric, name), rounds) in &figures {
            let mut line = Line::new("steady", *metric, "ms", *name, common, rounds)
                .with("store", database.name())
                .with("publisher", publisher)
                .with("percent", *percent)
                .with("offered", json!(offered.round()));
            if let Some(floor) = figures.get(&(*metric, "floor")).filter(|_| *name == "ours") {
                line = line.against("floor", floor);
            }
            output.emit(&line)?;
        }
    }
    Ok(())
}

/// The rate at which the relay drains a backlog, to which percentages refer.
async fn full_rate(
    common: &Common,
    database: &Arc<dyn Database>,
    broker: Option<&dyn Broker>,
) -> Result<f64> {
    let load = Load::new(common.messages.unwrap_or(50_000), common.payload, common.keys);
    let rate = super::drain::drain(&Ours::default() as &dyn Contender, database, broker, &load).await?;
    say(format_args!("100 % is {rate:.0}/s"));
    Ok(rate)
}

struct Run<'a> {
    common: &'a Common,
    database: &'a Arc<dyn Database>,
    broker: Option<&'a dyn Broker>,
    offered: f64,
    seconds: f64,
}

impl Run<'_> {
    async fn measure(&self, name: &str) -> Result<Latencies> {
        let per_transaction = (self.offered / TRANSACTIONS).ceil().max(1.0);
        let transactions = (self.offered / per_transaction * self.seconds).ceil().max(1.0);
        let messages = (transactions * per_transaction) as u64;
        let load = Load::new(messages, self.common.payload, self.common.keys);
        self.database.clear().await?;
        let place = match self.broker {
            Some(broker) => Some(broker.place().await?),
            None => None,
        };
        let publisher = match &place {
            Some(place) => Watched::before(place.publisher()?, messages),
            None => Watched::noop(messages, None),
        };
        let clocks = Arc::new(Clocks::new(messages)?);
        let stopwatch = clocks.clone();
        publisher.on_confirm(move |number| stopwatch.confirmed(number));
        let pace = Pace {
            per_transaction: per_transaction as u64,
            interval: Duration::from_secs_f64(per_transaction / self.offered),
            transactions: transactions as u64,
        };
        let directly = name == "floor";
        let relay = if directly {
            None
        } else {
            let relay = Relay::builder(self.database.own_store().await?, publisher.clone()).build()?.spawn();
            let mut status = relay.status();
            status.wait_for(|status| !status.owned.is_empty()).await?;
            Some(relay)
        };
        write(self.database, &load, pace, &clocks, directly.then_some(&publisher)).await?;
        let all = tokio::time::timeout(PATIENCE, publisher.all_confirmed()).await;
        ensure!(
            all.is_ok(),
            "no figure: {} of {messages} messages were confirmed in time",
            publisher.confirmed()
        );
        if let Some(relay) = relay {
            relay.shutdown().await?;
            ensure!(
                self.database.waiting(Table::Outbox).await? == 0,
                "no figure: messages are left in the table"
            );
        }
        // Several clients that publish directly keep no order, and do not claim to.
        verify(&load, &super::arrivals(place.as_deref(), &publisher, messages).await?, !directly)?;
        clocks.latencies()
    }
}

/// The commit time of each message, and the time it took from then.
struct Clocks {
    zero: Instant,
    committed: Vec<AtomicU64>,
    latencies: Mutex<Latencies>,
    /// Messages that were confirmed before their client had recorded when it sent the commit.
    early: Mutex<Vec<(u64, Instant)>>,
    first_counted: u64,
}

impl Clocks {
    fn new(messages: u64) -> Result<Self> {
        Ok(Self {
            zero: Instant::now(),
            committed: (0..messages).map(|_| AtomicU64::new(0)).collect(),
            latencies: Mutex::new(Latencies::new()?),
            early: Mutex::default(),
            first_counted: (messages as f64 * WARM_UP) as u64,
        })
    }

    fn committed(&self, number: u64, at: Instant) {
        if let Some(clock) = usize::try_from(number).ok().and_then(|number| self.committed.get(number)) {
            // Never zero, which means that the time is unknown.
            let nanos = at.duration_since(self.zero).as_nanos().max(1);
            clock.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Release);
        }
    }

    fn confirmed(&self, number: u64) {
        if number < self.first_counted {
            return;
        }
        let now = Instant::now();
        if !self.count(number, now) {
            self.early.lock().unwrap_or_else(PoisonError::into_inner).push((number, now));
        }
    }

    /// Returns whether the time of the commit was known.
    fn count(&self, number: u64, at: Instant) -> bool {
        let clock = usize::try_from(number).ok().and_then(|number| self.committed.get(number));
        let nanos = clock.map_or(0, |clock| clock.load(Ordering::Acquire));
        if nanos == 0 {
            return false;
        }
        let latency = at.saturating_duration_since(self.zero + Duration::from_nanos(nanos));
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
        true
    }

    fn latencies(&self) -> Result<Latencies> {
        for (number, at) in self.early.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            ensure!(self.count(number, at), "message {number} was confirmed but never committed");
        }
        Ok(self.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[derive(Clone, Copy)]
struct Pace {
    per_transaction: u64,
    interval: Duration,
    transactions: u64,
}

/// Commits messages at their times, whether or not earlier ones have been delivered. With `directly`, the
/// client publishes the message after the commit, and the database gets only a business row.
async fn write(
    database: &Arc<dyn Database>,
    load: &Load,
    pace: Pace,
    clocks: &Arc<Clocks>,
    directly: Option<&Arc<Watched>>,
) -> Result<()> {
    let start = tokio::time::Instant::now() + Duration::from_millis(20);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (database, load, clocks, directly, next) =
            (database.clone(), load.clone(), clocks.clone(), directly.cloned(), next.clone());
        clients.push(tokio::spawn(async move {
            loop {
                let transaction = next.fetch_add(1, Ordering::Relaxed);
                if transaction >= pace.transactions {
                    return anyhow::Ok(());
                }
                let first = transaction * pace.per_transaction;
                let numbers = first..first + pace.per_transaction;
                let messages: Vec<Message> =
                    numbers.clone().map(|number| load.message(number)).collect::<Result<_>>()?;
                let due = start + pace.interval.mul_f64(transaction as f64);
                tokio::time::sleep_until(due).await;
                let business = Write::Business(&BUSINESS);
                let at = match &directly {
                    None => database.commit(&[business, Write::Enqueue(&messages)]).await?,
                    Some(_) => database.commit(&[business]).await?,
                };
                numbers.for_each(|number| clocks.committed(number, at));
                if let Some(publisher) = &directly
                    && let Some(error) = publisher.publish(&messages).await.into_iter().find_map(Result::err)
                {
                    bail!("a message was not published: {}", error.report());
                }
            }
        }));
    }
    for client in clients {
        client.await??;
    }
    Ok(())
}
