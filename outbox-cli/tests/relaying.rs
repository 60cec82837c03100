//! A process that relays from a real PostgreSQL to a real RabbitMQ, and what is done to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::postgres::Database;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{Mode, Postgres, RabbitMq, Server, Subprocess, eventually};
use outbox_conformance::{Ledger, Rules};
use sqlx::PgPool;
use support::{DEADLINE, Place, get, served_at};

const KEYS: i64 = 20;

/// Settings with which no call is given up, and no message repeated, because the machine is slow.
const PATIENT: &[&str] = &[
    "--set=relay.publish_timeout=300s",
    "--set=relay.lease_ttl=900s",
    "--set=publisher.confirm_timeout=200s",
    "--set=publisher.connect_timeout=200s",
    "--set=publisher.heartbeat=200s",
];

fn settings(database: &str, broker: &str) -> String {
    format!(
        "\
[[route]]
name = \"orders\"

[route.store]
type = \"postgres\"
url = \"{database}\"

[route.publisher]
type = \"amqp\"
url = \"{broker}\"
"
    )
}

/// As a service in any other language would: a plain statement. The payload is the number within the key.
async fn enqueue(pool: &PgPool, from: i64, to: i64) {
    sqlx::query(
        "INSERT INTO outbox_message (topic, key, payload)
        SELECT 'orders', 'key-' || n % $1, convert_to(n::text, 'UTF8') FROM generate_series($2, $3) n ORDER BY n",
    )
    .bind(KEYS)
    .bind(from)
    .bind(to)
    .execute(pool)
    .await
    .unwrap();
}

async fn left(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM outbox_message").fetch_one(pool).await.unwrap()
}

struct Setup {
    _database: Database,
    pool: PgPool,
    vhost: Vhost,
    place: Place,
}

impl Setup {
    async fn new(postgres: &Postgres, rabbitmq: &RabbitMq) -> Self {
        let database = postgres.database().await;
        let pool = database.pool(5).await;
        let vhost = rabbitmq.vhost().await;
        vhost.declare_queue("orders").await;
        let place = Place::new(&settings(database.url(), vhost.uri()));
        place.run(&["migrate"]);
        Self { _database: database, pool, vhost, place }
    }

    fn relay(&self, arguments: &[&str]) -> Subprocess {
        Subprocess::start("outbox-relay", self.place.command(&[&["relay"], arguments].concat()))
    }

    async fn left_at_most(&self, most: i64) {
        eventually("the relay", DEADLINE, || async { (left(&self.pool).await <= most).then_some(()) }).await;
    }

    /// Takes everything out of the queue, and compares it with numbers from 1.
    async fn verdict(&self, committed: i64, most_duplicates: Option<u64>) {
        let mut ledger = Ledger::new();
        for number in 1..=committed {
            ledger.committed(Some(&format!("key-{}", number % KEYS)), number.unsigned_abs());
        }
        let arrived = self.vhost.queue_depth("orders").await as usize;
        for delivery in self.vhost.consume("orders", arrived, DEADLINE).await {
            let number: i64 = String::from_utf8(delivery.data).unwrap().parse().unwrap();
            ledger.arrived(Some(&format!("key-{}", number % KEYS)), number.unsigned_abs());
        }
        let mut rules = Rules::new();
        if let Some(most) = most_duplicates {
            rules = rules.most_duplicates(most);
        }
        let verdict = ledger.verdict(&rules);
        assert!(verdict.is_clean(), "{verdict}");
    }
}

#[tokio::test]
async fn ten_lines_of_settings_relay_and_survive_a_restart_of_the_broker() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::start().await) else {
        return;
    };
    let setup = Setup::new(postgres, &rabbitmq).await;
    rabbitmq.sync_declarations().await;
    let relay = setup.relay(&[]);
    enqueue(&setup.pool, 1, 2_000).await;
    setup.left_at_most(1_500).await;
    rabbitmq.kill().await;
    enqueue(&setup.pool, 2_001, 3_000).await;
    eventually("the relay's notice", DEADLINE, || async {
        relay.log().contains("the broker fails").then_some(())
    })
    .await;
    rabbitmq.restart().await;
    setup.left_at_most(0).await;
    assert!(relay.log().contains("the broker answers again"), "{}", relay.log());
    // What was in flight when the broker died may have come twice.
    setup.verdict(3_000, None).await;
}

#[tokio::test]
async fn sigterm_drains_what_is_in_flight_and_leaves_the_rest_in_place() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let setup = Setup::new(postgres, rabbitmq).await;
    enqueue(&setup.pool, 1, 20_000).await;
    // Slow enough that it is in the middle when it is asked to stop: at most ten messages in 40 ms.
    let to_broker = rabbitmq.proxy().await;
    to_broker.set(Mode::Delay(Duration::from_millis(20))).await;
    let place = Place::new(&settings(setup._database.url(), &setup.vhost.uri_through(&to_broker)));
    let slow = [
        "relay",
        "--set=relay.publish_batch=10",
        "--set=relay.publish_concurrency=1",
        "--set=relay.shutdown_timeout=200s",
    ];
    let mut relay = Subprocess::start("outbox-relay", place.command(&[&slow[..], PATIENT].concat()));
    setup.left_at_most(19_900).await;
    relay.terminate();
    let status = relay.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("stopping") && relay.log().contains("stopped"), "{}", relay.log());

    // Each message is either confirmed and settled, or untouched: none was sent and not settled.
    let left = left(&setup.pool).await;
    assert!(left > 0, "the relay was done before it was asked to stop");
    assert_eq!(i64::from(setup.vhost.queue_depth("orders").await) + left, 20_000);
    let leases: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox_lease WHERE expires_at > now()")
        .fetch_one(&setup.pool)
        .await
        .unwrap();
    assert_eq!(leases, 0, "the next relay need not wait");

    setup.place.run(&[&["relay", "--until-empty"][..], PATIENT].concat());
    setup.verdict(20_000, Some(0)).await;
}

#[tokio::test]
async fn it_starts_while_database_and_broker_are_down_and_recovers_alone() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let setup = Setup::new(postgres, rabbitmq).await;
    let (to_database, to_broker) = (postgres.proxy().await, rabbitmq.proxy().await);
    to_database.set(Mode::Refuse).await;
    to_broker.set(Mode::Refuse).await;
    let database = setup._database.url_through(&to_database);
    let place = Place::new(&settings(&database, &setup.vhost.uri_through(&to_broker)));
    enqueue(&setup.pool, 1, 10).await;
    // Shorter than by default, so that nobody waits for the pool.
    let short = ["relay", "--set=store.acquire_timeout=3s", "--set=relay.circuit_max_pause=300ms"];
    let mut relay = Subprocess::start("outbox-relay", place.command(&[&short[..], PATIENT].concat()));
    let says = async |text: &str| {
        eventually(text, DEADLINE, || async { relay.log().contains(text).then_some(()) }).await;
    };
    says("a call to the store failed").await;
    to_database.set(Mode::Pass).await;
    says("the broker fails as a whole").await;
    to_broker.set(Mode::Pass).await;
    setup.left_at_most(0).await;
    setup.verdict(10, Some(0)).await;
    relay.terminate();
    assert_eq!(relay.wait(DEADLINE).await.code(), Some(0), "{}", relay.log());
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_given_up_with_a_code_of_its_own() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let setup = Setup::new(postgres, rabbitmq).await;
    let to_broker = rabbitmq.proxy().await;
    let place = Place::new(&settings(setup._database.url(), &setup.vhost.uri_through(&to_broker)));
    let flags = ["relay", "--set=relay.shutdown_timeout=300ms", "--set=http.listen=127.0.0.1:0"];
    let mut relay = Subprocess::start("outbox-relay", place.command(&[&flags[..], PATIENT].concat()));
    let address = eventually("the address", DEADLINE, || async { served_at(&relay.log()) }).await;
    enqueue(&setup.pool, 1, 10).await;
    setup.left_at_most(0).await;
    to_broker.set(Mode::Blackhole).await;
    enqueue(&setup.pool, 11, 20).await;
    eventually("messages in flight", DEADLINE, || async {
        let metrics = get(&address, "/metrics");
        let flying = metrics.lines().find(|line| line.starts_with("outbox_in_flight{"))?;
        (!flying.ends_with(" 0")).then_some(())
    })
    .await;
    relay.terminate();
    let status = relay.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(3), "{}", relay.log());
    assert!(relay.log().contains("in flight"), "{}", relay.log());
}

#[tokio::test]
async fn what_servers_refuse_is_one_clear_line_each() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let setup = Setup::new(postgres, rabbitmq).await;
    let doctor = |settings: &str, flags: &[&str]| {
        let place = Place::new(settings);
        let output = place.command(&[&["doctor"], flags].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let right = settings(setup._database.url(), setup.vhost.uri());
    let mut wrong_role = url::Url::parse(setup._database.url()).unwrap();
    wrong_role.set_username("nobody_of_this_name").unwrap();
    wrong_role.set_password(Some("s3cret")).unwrap();
    let wrong_role = format!("store.url={wrong_role}");
    let (code, said) = doctor(&right, &[]);
    assert_eq!(code, Some(0), "{said}");
    for (flags, expected) in [
        (&["--set", "store.prefix=other"][..], "run `outbox migrate`"),
        (&["--set", "publisher.password=s3cret"], "check the user and password"),
        (&["--set", "publisher.url=amqp://guest@127.0.0.1:1/x"], "unavailable"),
        (
            &["--set", "store.url=postgres://me@127.0.0.1:1/x", "--set", "store.acquire_timeout=1s"],
            "unavailable",
        ),
        (&["--set", &wrong_role], "check the user and password"),
        (&["--set", "publisher.exchange=nowhere"], "exchange: nowhere"),
        (&["--set", "publisher.topics.t.exchange=not-there"], "exchange: not-there"),
        (&["--set", "publisher.topics.t.routing_key=no-queue"], "queue: no-queue"),
    ] {
        let (code, said) = doctor(&right, flags);
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("problem") && said.contains(expected), "{expected} is not in {said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}

/// A relay from SQLite whose one message is in flight to a broker that accepts connections and never answers.
async fn with_a_message_in_flight() -> (Place, Subprocess, tokio::net::TcpListener) {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::new(&format!(
        "\
[[route]]
[route.store]
type = \"sqlite\"
path = \"shop.db\"
[route.publisher]
type = \"amqp\"
url = \"amqp://{}\"
",
        silent.local_addr().unwrap()
    ));
    place.run(&["migrate"]);
    place.run(&["enqueue", "order.paid", "17"]);
    let arguments = [&["relay", "--set=relay.shutdown_timeout=300s"], PATIENT].concat();
    let relay = Subprocess::start("outbox-relay", place.command(&arguments));
    tokio::time::timeout(DEADLINE, silent.accept()).await.expect("a connection").unwrap();
    (place, relay, silent)
}

#[tokio::test]
async fn signals_that_come_together_ask_once() {
    let (_place, mut relay, _silent) = with_a_message_in_flight().await;
    let kill = format!("kill -TERM {pid}; kill -HUP {pid}", pid = relay.pid());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    eventually("the second signal", DEADLINE, || async {
        relay.log().contains("it repeats the request to stop").then_some(())
    })
    .await;
    assert!(relay.status().is_none(), "{}", relay.log());
    // Longer than the time within which signals count as one.
    tokio::time::sleep(Duration::from_secs(3)).await;
    relay.terminate();
    let status = relay.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(3), "{}", relay.log());
    assert!(relay.log().contains("stopping immediately"), "{}", relay.log());
}

#[tokio::test]
async fn a_route_with_wrong_settings_ends_the_relay_with_the_reason() {
    let route = |name: &str, publisher: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\n[route.store]\ntype = \"sqlite\"\npath = \"{name}.db\"\n[route.publisher]\n{publisher}\n"
        )
    };
    let right = route("right", "type = \"terminal\"");
    let wrong = route("wrong", "type = \"pubsub\"\nproject = \"shop\"");
    let place = Place::new(&format!("{right}{wrong}"));
    place.run(&["migrate"]);
    std::fs::write(place.path().join("credentials.json"), "nothing that Google knows").unwrap();
    let mut command = place.command(&["relay"]);
    command.env("GOOGLE_APPLICATION_CREDENTIALS", "credentials.json");
    let mut relay = Subprocess::start("outbox-relay", command);
    let status = relay.wait(DEADLINE).await;
    let log = relay.log();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("the route cannot run") && log.contains("no credentials for Google"), "{log}");
}
