//! Two relays in containers, with the database and the broker on separate networks. A relay loses its network or
//! is paused, and so are the servers, while messages are written at a steady rate. `OUTBOX_LEDGER_SEED` sets the seed of their
//! keys, which is printed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fault_runs::books::{Books, OnPostgres};
use fault_runs::brokers::{Broker, OnRabbitMq};
use integration_tests::docker::{Container, Docker, Network};
use integration_tests::{Environment, Server, eventually};
use outbox_conformance::Rules;
use outbox_core::Message;
use serde_json::Value;
use tokio::task::JoinHandle;
use url::Url;

use crate::journal::{Entry, Journal};
use crate::program::image;
use crate::support::{DEADLINE, Place};

/// Lease of the relays. Short, so that a takeover takes seconds.
const LEASE: Duration = Duration::from_secs(5);
/// Maximum number of messages that a relay has in memory, and so the number that one failure can repeat.
const IN_FLIGHT: u64 = 100;
const PARTITIONS: u64 = 16;
const KEYS: i64 = 60;
/// Between two transactions of three messages each.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two polls of the group of relays, each of which starts a program.
const LOOK: Duration = Duration::from_millis(200);

/// A relay in a container without a writable file system, with settings in variables alone.
struct Relay(Container);

impl Relay {
    fn start(docker: &Docker, image: &str, networks: &Networks, database: &str, broker: &str) -> Self {
        let lease = format!("OUTBOX__RELAY__LEASE_TTL={}s", LEASE.as_secs());
        let (in_flight, database, broker) = (
            format!("OUTBOX__RELAY__MAX_IN_FLIGHT={IN_FLIGHT}"),
            format!("OUTBOX__STORE__URL={}", at(database, "database", 5432)),
            format!("OUTBOX__PUBLISHER__URL={}", at(broker, "broker", 5672)),
        );
        let variables = [
            "OUTBOX__LOG__FORMAT=json",
            "OUTBOX__STORE__TYPE=postgres",
            &database,
            "OUTBOX__PUBLISHER__TYPE=amqp",
            &broker,
            &lease,
            &in_flight,
            "OUTBOX__RELAY__HEARTBEAT_INTERVAL=500ms",
            "OUTBOX__RELAY__PUBLISH_TIMEOUT=2s",
            "OUTBOX__RELAY__STORE_TIMEOUT=3s",
            "OUTBOX__RELAY__CIRCUIT_MAX_PAUSE=1s",
        ];
        let mut options = vec!["--read-only", "--cap-drop", "ALL", "--network", networks.database.name()];
        options.extend(variables.iter().flat_map(|variable| ["--env", variable]));
        let container = docker.container(image, &options, &[]);
        networks.broker.connect(container.name(), "relay");
        container.start();
        Self(container)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    /// How often the relay has found the broker down.
    fn circuits_opened(&self) -> usize {
        self.0.log().matches("circuit opened").count()
    }

    /// Number of failures that the relay has logged, each of which may have repeated messages.
    fn failures(&self) -> u64 {
        self.0.log().matches("\"level\":\"WARN\"").count() as u64
    }
}

/// The same URL, with another host and port.
fn at(url: &str, host: &str, port: u16) -> String {
    let mut url = Url::parse(url).unwrap();
    url.set_host(Some(host)).unwrap();
    url.set_port(Some(port)).unwrap();
    url.to_string()
}

struct Networks {
    database: Network,
    broker: Network,
}

/// The parts of a run. Dropped in this order: the relays before the networks, and the servers last.
struct Run {
    relays: [Relay; 2],
    networks: Networks,
    place: Place,
    journal: Arc<Mutex<Journal>>,
    enough: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    books: Arc<OnPostgres>,
    broker: Arc<OnRabbitMq>,
    /// The usual delay before anything went wrong.
    usual: Duration,
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes three messages at a time, and the numbers of the ledger in the same transaction, until it is enough.
async fn write(books: Arc<OnPostgres>, topic: String, journal: Arc<Mutex<Journal>>, enough: Arc<AtomicBool>) {
    let seed = std::env::var("OUTBOX_LEDGER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut numbers = vec![0; usize::try_from(KEYS).unwrap()];
    let mut timer = tokio::time::interval(PAUSE);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !enough.load(Ordering::Relaxed) {
        timer.tick().await;
        let entries: Vec<Entry> = (0..3)
            .map(|_| {
                let key = rng.i64(0..KEYS);
                let number = &mut numbers[usize::try_from(key).unwrap()];
                *number += 1;
                (key, *number)
            })
            .collect();
        let message = |(key, number): &Entry| {
            Message::bytes(&topic, format!("{key}:{number}")).key(format!("key-{key}")).build().unwrap()
        };
        let messages: Vec<_> = entries.iter().map(message).collect();
        let transaction = async {
            let mut page = books.begin().await?;
            page.write(&entries, &messages).await?;
            page.commit().await
        };
        // After an error the database knows whether the transaction was committed.
        if transaction.await.is_ok() {
            let mut journal = lock(&journal);
            entries.into_iter().for_each(|entry| journal.committed(entry));
        }
    }
}

/// Notes what arrives.
async fn read(broker: Arc<OnRabbitMq>, journal: Arc<Mutex<Journal>>) {
    loop {
        let seen = lock(&journal).seen();
        for payload in broker.arrivals_after(seen) {
            let (key, number) = payload.split_once(':').unwrap();
            lock(&journal).arrived((key.parse().unwrap(), number.parse().unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Run {
    async fn start(docker: &Docker) -> Option<Self> {
        let image = image(docker)?;
        let containers = Environment::of_process().with("OUTBOX_TEST_MODE", "container");
        let books = Arc::new(OnPostgres::start_in(containers.clone()).await?);
        let broker = Arc::new(OnRabbitMq::start_in(containers).await?);
        let networks = Networks { database: docker.network(), broker: docker.network() };
        networks.database.connect(&books.server().instance().container_id().unwrap(), "database");
        networks.broker.connect(&broker.server().instance().container_id().unwrap(), "broker");
        let url = books.url();
        let place = Place::new(&format!(
            "[[route]]\n[route.store]\ntype = \"postgres\"\nurl = \"{url}\"\n[route.publisher]\ntype = \"terminal\"\n"
        ));
        let relays = [(); 2].map(|()| Relay::start(docker, image, &networks, &url, broker.uri()));
        let (journal, enough) = <(Arc<Mutex<Journal>>, Arc<AtomicBool>)>::default();
        let tasks = vec![
            tokio::spawn(write(books.clone(), broker.topic().to_owned(), journal.clone(), enough.clone())),
            tokio::spawn(read(broker.clone(), journal.clone())),
        ];
        let usual = Duration::ZERO;
        let mut run = Self { relays, networks, place, journal, enough, tasks, books, broker, usual };
        run.until_shared().await;
        let calm = Instant::now();
        let usual = async || lock(&run.journal).usual_delay(calm);
        run.usual = eventually("messages to arrive", DEADLINE, usual).await;
        println!("usual delay of messages: {:?}", run.usual);
        Some(run)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    /// How many partitions each relay holds that the database knows, in ascending order.
    async fn shares(&self) -> Vec<u64> {
        tokio::time::sleep(LOOK).await;
        let status: Value = serde_json::from_str(&self.place.run(&["status", "--json"])).unwrap();
        let relays = status["relays"].as_array().unwrap().iter();
        let mut shares: Vec<_> = relays.map(|relay| relay["partitions"].as_u64().unwrap()).collect();
        shares.sort_unstable();
        shares
    }

    async fn until_shared(&self) {
        eventually("both relays to have a share", DEADLINE, async || {
            (self.shares().await == [PARTITIONS / 2; 2]).then_some(())
        })
        .await;
    }

    /// Waits until one relay has the partitions of both.
    async fn until_taken_over(&self) {
        eventually("a relay to have all partitions", DEADLINE, async || {
            self.shares().await.contains(&PARTITIONS).then_some(())
        })
        .await;
    }

    /// Waits until messages arrive as fast as before.
    async fn until_fast(&self) {
        let since = Instant::now();
        eventually("messages to arrive as fast as before", DEADLINE, async || {
            self.journal().is_as_fast_as(self.usual, since).then_some(())
        })
        .await;
    }

    /// Makes something fail, waits for the effect, repairs it, and waits until the state from before is back.
    async fn suffer(
        &self,
        what: &str,
        fail: impl AsyncFnOnce(),
        effect: impl AsyncFnOnce(),
        repair: impl AsyncFnOnce(),
    ) {
        let (started, repeats) = (Instant::now(), self.journal().repeats());
        fail().await;
        effect().await;
        repair().await;
        let repaired = Instant::now();
        self.until_shared().await;
        self.until_fast().await;
        let (longest, repeated) = {
            let journal = self.journal();
            (journal.longest_delay(started), journal.repeats() - repeats)
        };
        println!(
            "{what}: {:.1} s, as before {:.1} s after the repair, longest delay {:.1} s, {repeated} repeats",
            (repaired - started).as_secs_f64(),
            repaired.elapsed().as_secs_f64(),
            longest.as_secs_f64(),
        );
    }

    /// Makes a relay vanish for the database: the other one takes over its partitions, and messages arrive as fast as before.
    async fn lose(&self, what: &str, fail: impl FnOnce(), repair: impl FnOnce()) {
        let effect = async || {
            self.until_taken_over().await;
            self.until_fast().await;
        };
        self.suffer(what, async || fail(), effect, async || repair()).await;
    }

    /// Waits until these relays find the broker down.
    async fn until_broker_down(&self, relays: &[&Relay], before: &[usize]) {
        eventually("the relays to find the broker down", DEADLINE, async || {
            tokio::time::sleep(LOOK).await;
            relays.iter().zip(before).all(|(relay, before)| relay.circuits_opened() > *before).then_some(())
        })
        .await;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_vanish_lose_and_reorder_nothing() {
    let Some(docker) = Docker::find() else { return };
    let Some(run) = Run::start(&docker).await else { return };
    let started = Instant::now();
    let [first, second] = &run.relays;
    let Networks { database, broker } = &run.networks;

    run.lose(
        "a relay without the database",
        || database.disconnect(first.name()),
        || database.connect(first.name(), "relay"),
    )
    .await;
    let opened = second.circuits_opened();
    let cut_off = async || {
        run.until_broker_down(&[second], &[opened]).await;
        // It keeps its partitions, and the other relay publishes the messages of the others.
        let arrived = run.journal().arrived_once();
        eventually("messages of the other relay to arrive", DEADLINE, async || {
            (run.journal().arrived_once() > arrived + 50).then_some(())
        })
        .await;
    };
    run.suffer(
        "a relay without the broker",
        async || broker.disconnect(second.name()),
        cut_off,
        async || broker.connect(second.name(), "relay"),
    )
    .await;
    run.lose(
        "a relay without both",
        || {
            database.disconnect(first.name());
            broker.disconnect(first.name());
        },
        || {
            database.connect(first.name(), "relay");
            broker.connect(first.name(), "relay");
        },
    )
    .await;
    run.lose("a paused relay", || second.0.pause(), || second.0.unpause()).await;
    run.suffer(
        "a paused database",
        async || run.books.stop().await,
        // Longer than any lease lasts.
        async || tokio::time::sleep(LEASE * 3 / 2).await,
        async || run.books.cont().await,
    )
    .await;
    let opened = [first.circuits_opened(), second.circuits_opened()];
    run.suffer(
        "a paused broker",
        async || run.broker.stop().await,
        async || run.until_broker_down(&[first, second], &opened).await,
        async || run.broker.cont().await,
    )
    .await;

    run.enough.store(true, Ordering::Relaxed);
    let committed = eventually("all messages to arrive", DEADLINE, async || {
        tokio::time::sleep(LOOK).await;
        let committed = run.books.committed().await;
        (run.tasks[0].is_finished() && run.journal().arrived_once() >= committed.len()).then_some(committed)
    })
    .await;
    for relay in &run.relays {
        assert_eq!(relay.0.stop(60), 0, "{}", relay.0.log());
    }
    let failures = run.relays.iter().map(Relay::failures).sum::<u64>();
    let rules = Rules::new().most_duplicates(failures * IN_FLIGHT);
    let verdict = run.journal().ledger(committed).verdict(&rules);
    println!(
        "{verdict}, longest delay {:.1} s, {failures} failures in the logs of the relays, {:.0} s",
        run.journal().longest_delay(started).as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    assert!(verdict.is_clean(), "{verdict}");
}
