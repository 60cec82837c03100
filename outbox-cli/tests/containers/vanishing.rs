//! Two relays from the image, with the database and the broker on networks of their own. Hosts vanish from the networks or
//! stand still, under a steady load.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use integration_tests::{Docker, eventually};
use outbox_conformance::Breach;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::arrivals::{Arrival, Arrivals};
use crate::load::{Committed, Load, delays, ninth_decile, verdict};
use crate::{PATIENCE, POSTGRES, RABBITMQ, image};

const QUEUE: &str = "orders";
const LEASE: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(100);
const MAX_IN_FLIGHT: u64 = 200;
/// How long a host is away if nobody can take over meanwhile: longer than a lease, a publish call and a call to the store.
const AWAY: Duration = Duration::from_secs(8);
/// What a busy machine may add to a delay that follows from the settings.
const SLACK: Duration = Duration::from_secs(15);
/// The normal delay is measured over this many messages.
const WINDOW: usize = 100;

/// All that follows from the settings is short, so that the test is.
fn settings() -> String {
    format!(
        "[[route]]\nname = \"orders\"\n\
         [route.store]\ntype = \"postgres\"\nurl = \"postgres://outbox:secret@postgres/shop\"\n\
         acquire_timeout = \"2s\"\n\
         [route.publisher]\ntype = \"amqp\"\nurl = \"amqp://outbox:secret@rabbitmq:5672\"\n\
         connect_timeout = \"1s\"\nconfirm_timeout = \"1500ms\"\nheartbeat = \"2s\"\n\
         [[route.publisher.queues]]\nname = \"{QUEUE}\"\ntype = \"classic\"\n\
         [route.relay]\nlease_ttl = \"{LEASE:?}\"\nheartbeat_interval = \"{HEARTBEAT:?}\"\npoll_interval = \"{POLL:?}\"\n\
         publish_timeout = \"2s\"\nstore_timeout = \"2s\"\ncircuit_max_pause = \"1s\"\nmax_in_flight = {MAX_IN_FLIGHT}\n"
    )
}

/// When a fault ends.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// The other relay has delivered what was committed since the fault began.
    TakenOver,
    /// Nobody can take over, or nobody does.
    Passed(Duration),
}

struct Fault {
    name: &'static str,
    until: Until,
    /// Relays whose messages in flight may have to be published again.
    relays: u64,
    begin: Vec<Vec<String>>,
    end: Vec<Vec<String>>,
}

/// The hosts, by the names of their containers and networks.
struct Hosts {
    docker: Docker,
    database_network: String,
    broker_network: String,
    postgres: String,
    rabbitmq: String,
    relays: [String; 2],
    // Behind the daemon: the settings are mounted.
    folder: TempDir,
}

impl Hosts {
    fn new(docker: Docker) -> Self {
        let name = |of: &str| docker.name(of);
        let (database_network, broker_network) = (name("database"), name("broker"));
        let (postgres, rabbitmq) = (name("postgres"), name("rabbitmq"));
        let relays = [name("relay-1"), name("relay-2")];
        let folder = tempfile::tempdir().unwrap();
        Self { docker, database_network, broker_network, postgres, rabbitmq, relays, folder }
    }

    fn start_servers(&self) {
        let label = self.docker.label();
        for network in [&self.database_network, &self.broker_network] {
            self.docker.run(&["network", "create", "--label", &label, network]);
        }
        let start = |name: &str, network: &str, alias: &str, rest: &[&str]| {
            let start = ["run", "--detach", "--label", &label, "--name", name, "--hostname", alias];
            let network = ["--network", network, "--network-alias", alias];
            self.docker.run(&[&start, &network[..], rest].concat());
        };
        let database = ["POSTGRES_USER=outbox", "POSTGRES_PASSWORD=secret", "POSTGRES_DB=shop"];
        let [user, password, database] = database;
        start(
            &self.postgres,
            &self.database_network,
            "postgres",
            &["--env", user, "--env", password, "--env", database, "--publish", "127.0.0.1::5432", POSTGRES],
        );
        let [user, password] = ["RABBITMQ_DEFAULT_USER=outbox", "RABBITMQ_DEFAULT_PASS=secret"];
        start(
            &self.rabbitmq,
            &self.broker_network,
            "rabbitmq",
            &["--env", user, "--env", password, "--publish", "127.0.0.1::5672", RABBITMQ],
        );
    }

    /// Makes the tables, and starts both relays.
    fn start_relays(&self, image: &str) {
        let file = self.folder.path().join("outbox.toml");
        std::fs::write(&file, settings()).unwrap();
        // The relay's user has to read it.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let label = self.docker.label();
        let mount = format!("{}:/outbox.toml:ro", file.display());
        let common = ["--label", &label, "--volume", &mount, "--env", "OUTBOX_CONFIG=/outbox.toml"];
        let common = [&common, &["--network", &self.database_network][..], &image::RESTRICTED[..]].concat();
        self.docker.run(&[&["run", "--rm"], &common[..], &[image, "migrate"]].concat());
        for relay in &self.relays {
            self.docker.run(&[&["create", "--name", relay], &common[..], &[image, "relay"]].concat());
            self.docker.run(&["network", "connect", &self.broker_network, relay]);
            self.docker.run(&["start", relay]);
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let Self { database_network: database, broker_network: broker, postgres, rabbitmq, relays, .. } =
            self;
        let [first, second] = relays;
        let on = |arguments: &[&str]| arguments.iter().map(|&argument| argument.to_owned()).collect();
        let cut = |network: &str, relay: &str| on(&["network", "disconnect", "--force", network, relay]);
        let join = |network: &str, relay: &str| on(&["network", "connect", network, relay]);
        let (pause, unpause) = (|host: &str| on(&["pause", host]), |host: &str| on(&["unpause", host]));
        vec![
            Fault {
                name: "a relay is cut off from the database",
                until: Until::TakenOver,
                relays: 1,
                begin: vec![cut(database, first)],
                end: vec![join(database, first)],
            },
            // It keeps its partitions, so their messages wait.
            Fault {
                name: "a relay is cut off from the broker",
                until: Until::Passed(AWAY),
                relays: 1,
                begin: vec![cut(broker, second)],
                end: vec![join(broker, second)],
            },
            Fault {
                name: "a relay is cut off from both",
                until: Until::TakenOver,
                relays: 1,
                begin: vec![cut(database, first), cut(broker, first)],
                end: vec![join(database, first), join(broker, first)],
            },
            Fault {
                name: "a relay stands still",
                until: Until::TakenOver,
                relays: 1,
                begin: vec![pause(second)],
                end: vec![unpause(second)],
            },
            Fault {
                name: "the database stands still",
                until: Until::Passed(AWAY),
                relays: 2,
                begin: vec![pause(postgres)],
                end: vec![unpause(postgres)],
            },
            Fault {
                name: "the broker stands still",
                until: Until::Passed(AWAY),
                relays: 2,
                begin: vec![pause(rabbitmq)],
                end: vec![unpause(rabbitmq)],
            },
        ]
    }

    fn run_all(&self, commands: &[Vec<String>]) {
        for command in commands {
            self.docker.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

impl Drop for Hosts {
    /// What a relay did when it did not do what the test waited for is in its log.
    #[allow(clippy::print_stderr, reason = "a test's output is captured, and shown where it fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for relay in &self.relays {
                eprintln!("The end of the log of {relay}:\n{}", self.docker.log(relay));
            }
        }
    }
}

/// The first moment from which the delay is normal for [`WINDOW`] messages, if that many have followed.
fn normal_since(
    committed: &[Committed],
    arrived: &[Arrival],
    since: Instant,
    normal: Duration,
) -> Option<Instant> {
    let mut delays = delays(committed, arrived);
    delays.retain(|(message, _)| message.at >= since);
    let mut windows = delays.windows(WINDOW).step_by(WINDOW / 10);
    let window = windows.find(|window| ninth_decile(window).is_some_and(|delay| delay <= normal))?;
    Some(window[0].0.at)
}

/// What a fault did.
struct Effect {
    name: &'static str,
    lasted: Duration,
    longest: Duration,
    repeats: u64,
    recovered: Duration,
}

/// Makes a fault, ends it, and waits until the delay is what it was.
async fn suffer(hosts: &Hosts, fault: &Fault, load: &Load, arrivals: &Arrivals, normal: Duration) -> Effect {
    let before = verdict(&load.committed(), &arrivals.all());
    let begun = Instant::now();
    hosts.run_all(&fault.begin);
    match fault.until {
        Until::Passed(time) => tokio::time::sleep(time).await,
        Until::TakenOver => {
            // While the fault lasts: for more than a lease, and until what was committed in its first second is there.
            tokio::time::sleep(LEASE + HEARTBEAT).await;
            let early: Vec<_> = load.committed().into_iter().filter(|message| message.at >= begun).collect();
            let early: Vec<_> =
                early.into_iter().take_while(|message| message.at < begun + Duration::from_secs(1)).collect();
            assert!(early.len() > WINDOW / 2, "only {} messages in a second", early.len());
            eventually("the other relay to take over", PATIENCE, || async {
                delays(&early, &arrivals.all()).iter().all(|(_, delay)| delay.is_some()).then_some(())
            })
            .await;
        }
    }
    let ended = Instant::now();
    hosts.run_all(&fault.end);
    let back = eventually("the delay to be what it was", PATIENCE, || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        normal_since(&load.committed(), &arrivals.all(), ended, normal)
    })
    .await;
    let affected: Vec<_> = load.committed().into_iter().filter(|message| message.at <= back).collect();
    eventually("every message of the time", PATIENCE, || async {
        delays(&affected, &arrivals.all()).iter().all(|(_, delay)| delay.is_some()).then_some(())
    })
    .await;
    let mut delays = delays(&affected, &arrivals.all());
    // Those that were committed just before the fault may be in flight when it begins.
    delays.retain(|(message, _)| message.at + Duration::from_secs(1) >= begun);
    let after = verdict(&load.committed(), &arrivals.all());
    Effect {
        name: fault.name,
        lasted: ended - begun,
        longest: delays.iter().filter_map(|(_, delay)| *delay).max().unwrap(),
        repeats: after.duplicates - before.duplicates,
        recovered: back.saturating_duration_since(ended),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_reordered_when_hosts_vanish() {
    let images = [&image::BASES[..], &[POSTGRES, RABBITMQ]].concat();
    let Some(docker) = Docker::with_images(&images) else { return };
    let image = image::built(&docker);
    let hosts = Hosts::new(docker);
    hosts.start_servers();
    let address = hosts.docker.address(&hosts.postgres, 5432);
    let database = format!("postgres://outbox:secret@{address}/shop");
    let mut connection =
        eventually("PostgreSQL", PATIENCE, || async { PgConnection::connect(&database).await.ok() }).await;
    hosts.start_relays(image);
    let broker = hosts.docker.address(&hosts.rabbitmq, 5672);
    let arrivals = Arrivals::of(&format!("amqp://outbox:secret@{broker}"), QUEUE).await;
    both_have_partitions(&database).await;
    let load = Load::start(&database, QUEUE).await;
    let started = Instant::now();
    let usual = eventually("the first messages", PATIENCE, || async {
        let delays = delays(&load.committed(), &arrivals.all());
        ninth_decile(delays.get(2 * WINDOW..3 * WINDOW)?)
    })
    .await;
    // A relay that has lost its lease may not be woken any more: then it polls.
    let normal = usual * 2 + POLL * 3 / 2;
    let mut effects = Vec::new();
    for fault in hosts.faults() {
        both_have_partitions(&database).await;
        let effect = suffer(&hosts, &fault, &load, &arrivals, normal).await;
        // What a lost relay holds is free after a lease and the heartbeat with which the other one sees it.
        let bound = match fault.until {
            Until::TakenOver => LEASE + HEARTBEAT * 2,
            Until::Passed(_) => effect.lasted,
        };
        assert!(effect.longest <= bound + SLACK, "{}: a delay of {:?}", effect.name, effect.longest);
        let most = fault.relays * MAX_IN_FLIGHT * 2;
        assert!(effect.repeats <= most, "{}: {} repeats", effect.name, effect.repeats);
        effects.push(effect);
    }
    let load_time = started.elapsed();
    let committed = load.stop().await;
    eventually("the table to be empty", PATIENCE, || async {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox_message")
            .fetch_one(&mut connection_to(&database).await)
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
    let dead: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox_dead_letter")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(dead, 0, "an outage is no reason for a dead letter");

    let arrived = arrivals.all();
    let verdict = verdict(&committed, &arrived);
    let lost = verdict.breaches.iter().filter(|(breach, _)| matches!(breach, Breach::Lost { .. })).count();
    let reordered =
        verdict.breaches.iter().filter(|(breach, _)| matches!(breach, Breach::Overtaken { .. })).count();
    let mut report = format!(
        "{} messages in {:.0} s: {lost} lost, {reordered} reordered, {} copies; usual delay {:.1} ms (p90)\n\
         | fault | lasted | longest delay | copies | delay normal again |\n| --- | --- | --- | --- | --- |\n",
        verdict.committed,
        load_time.as_secs_f64(),
        verdict.duplicates,
        usual.as_secs_f64() * 1e3,
    );
    for Effect { name, lasted, longest, repeats, recovered } in &effects {
        let [lasted, longest, recovered] = [lasted, longest, recovered].map(Duration::as_secs_f64);
        writeln!(report, "| {name} | {lasted:.1} s | {longest:.1} s | {repeats} | {recovered:.1} s |")
            .unwrap();
    }
    println!("{report}");
    assert!(verdict.is_clean(), "{verdict}");
    let copies = most_copies(&arrived);
    assert!(copies <= 1 + effects.len(), "a message arrived {copies} times");
}

/// Waits until both relays hold leases, so that a fault of either is felt.
async fn both_have_partitions(database: &str) {
    eventually("both relays to have partitions", PATIENCE, || async {
        let owners = "SELECT count(DISTINCT owner) FROM outbox_lease WHERE expires_at > now()";
        let owners: i64 =
            sqlx::query_scalar(owners).fetch_one(&mut connection_to(database).await).await.unwrap();
        (owners == 2).then_some(())
    })
    .await;
}

async fn connection_to(database: &str) -> PgConnection {
    PgConnection::connect(database).await.unwrap()
}

fn most_copies(arrived: &[Arrival]) -> usize {
    let mut copies = std::collections::HashMap::new();
    arrived.iter().for_each(|arrival| *copies.entry(arrival.number).or_insert(0) += 1);
    copies.into_values().max().unwrap_or_default()
}
