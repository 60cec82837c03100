//! Failures of single messages, and of the broker as a whole, from PostgreSQL to RabbitMQ.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

use std::time::Duration;

use integration_tests::postgres::Database;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{Postgres, RabbitMq, Server, eventually};
use outbox_amqp::AmqpPublisher;
use outbox_core::{
    DeadLetterFilter, Event, Message, Received, Relay, RelayHandle, RetryPolicy, Settings, Store, StoreExt,
};
use outbox_postgres::sqlx::{self, PgPool};
use outbox_postgres::{Config, Outbox, PostgresStore};

const DEADLINE: Duration = Duration::from_secs(300);

struct Setup {
    pool: PgPool,
    outbox: Outbox,
    store: PostgresStore,
    vhost: Vhost,
    _database: Database,
}

impl Setup {
    async fn new(postgres: &Postgres, rabbitmq: &RabbitMq) -> Self {
        let database = postgres.database().await;
        let pool = database.pool(10).await;
        let outbox = Outbox::new(Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        let store = outbox.store(pool.clone());
        Self { pool, outbox, store, vhost: rabbitmq.vhost().await, _database: database }
    }

    fn relay(&self, change: impl FnOnce(&mut Settings)) -> RelayHandle {
        let builder = AmqpPublisher::builder(self.vhost.uri()).max_message_bytes(10_000);
        let publisher = builder.connect_timeout(DEADLINE).confirm_timeout(DEADLINE).heartbeat(DEADLINE);
        let relay = Relay::builder(self.store.clone(), publisher.build().unwrap()).configure(|settings| {
            // The slowness of the machine must not cause a call to be given up, or a message to be repeated.
            settings.publish_timeout = 2 * DEADLINE;
            settings.store_timeout = DEADLINE;
            settings.lease_ttl = 4 * DEADLINE;
            settings.shutdown_timeout = DEADLINE;
            change(settings);
        });
        relay.build().unwrap().spawn()
    }

    async fn enqueue(&self, topic: &str, key: &str, payload: &str) {
        let message = Message::bytes(topic, payload.to_owned()).key(key).build().unwrap();
        self.outbox.enqueue(&self.pool, &message).await.unwrap();
    }

    async fn payloads(&self, queue: &str, count: usize) -> Vec<String> {
        let deliveries = self.vhost.consume(queue, count, DEADLINE).await;
        deliveries.into_iter().map(|delivery| String::from_utf8(delivery.data).unwrap()).collect()
    }

    async fn dead_letters(&self, count: u64) {
        eventually("the dead letters", DEADLINE, || async {
            (self.store.stats(1_000).await.unwrap().dead_letters.value == count).then_some(())
        })
        .await;
    }

    /// The errors of the dead letters, in position order.
    async fn errors(&self) -> Vec<String> {
        let letters = self.store.dead_letters().unwrap();
        let listed = letters.list(&DeadLetterFilter::all(), None, 100).await.unwrap();
        listed.into_iter().map(|letter| letter.error).collect()
    }
}

#[tokio::test]
async fn an_unroutable_message_holds_back_its_key_dies_and_is_redriven() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let setup = Setup::new(postgres, rabbitmq).await;
    setup.vhost.declare_queue("orders").await;
    let relay = setup.relay(|settings| {
        settings.retry =
            RetryPolicy::default().max_attempts(3).initial(Duration::from_millis(200)).jitter(false);
    });
    let mut events = relay.events();

    setup.enqueue("orders", "a", "a1").await;
    setup.enqueue("missing", "a", "a2").await;
    setup.enqueue("orders", "a", "a3").await;
    setup.enqueue("orders", "b", "b1").await;
    setup.dead_letters(1).await;

    let mut waits = Vec::new();
    loop {
        match events.recv().await.unwrap() {
            Received::Event(Event::Retrying { after, .. }) => waits.push(after.as_millis()),
            Received::Event(Event::DeadLettered(delivery)) => {
                assert_eq!((delivery.attempts, delivery.key.as_deref()), (3, Some("a")));
                break;
            }
            _ => {}
        }
    }
    assert_eq!(waits, [200, 400], "the retries follow the backoff");
    let error = &setup.errors().await[0];
    assert!(error.contains("unroutable") && error.contains("missing"), "{error}");

    let mut before = setup.payloads("orders", 2).await;
    before.sort();
    assert_eq!(before, ["a1", "b1"], "the other key went on, and a3 waits");
    assert_eq!(setup.vhost.queue_depth("orders").await, 0);

    setup.vhost.declare_queue("missing").await;
    let letters = setup.store.dead_letters().unwrap();
    assert_eq!(letters.redrive(&DeadLetterFilter::all().topic("missing"), 10).await.unwrap(), 1);
    assert_eq!(setup.payloads("missing", 1).await, ["a2"]);
    assert_eq!(setup.payloads("orders", 1).await, ["a3"]);
    setup.store.drained(Duration::from_millis(20)).await.unwrap();
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_minute_without_the_broker_costs_no_attempt() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::start().await) else {
        return;
    };
    let setup = Setup::new(postgres, &rabbitmq).await;
    setup.vhost.declare_queue("orders").await;
    rabbitmq.sync_declarations().await;
    let relay = setup.relay(|settings| settings.retry = RetryPolicy::default().max_attempts(1));
    setup.enqueue("orders", "a", "before").await;
    assert_eq!(setup.payloads("orders", 1).await, ["before"]);

    rabbitmq.kill().await;
    for number in 0..100 {
        setup.enqueue("orders", "a", &number.to_string()).await;
    }
    relay.status().wait_for(|status| status.circuit_open).await.unwrap();
    // The test is about this minute.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stats = setup.store.stats(1_000).await.unwrap();
    assert_eq!((stats.backlog.value, stats.dead_letters.value), (100, 0));
    let attempts: i64 = sqlx::query_scalar("SELECT sum(attempts)::bigint FROM outbox_message")
        .fetch_one(&setup.pool)
        .await
        .unwrap();
    assert_eq!(attempts, 0);

    rabbitmq.restart().await;
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(setup.payloads("orders", 100).await, expected);
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn rows_that_cannot_be_published_die_with_a_reason_and_the_rest_goes_on() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let setup = Setup::new(postgres, rabbitmq).await;
    setup.vhost.declare_queue("orders").await;

    // A row that another program could have written, and the expected part of the reason.
    let rows = [
        (
            r#"INSERT INTO outbox_message (topic, payload, headers) VALUES ('orders', 'x', '{"a": 1}')"#,
            "headers",
        ),
        (r#"INSERT INTO outbox_message (topic, payload, headers) VALUES ('orders', 'x', '[]')"#, "headers"),
        (r#"INSERT INTO outbox_message (topic, payload, headers) VALUES ('orders', 'x', 'null')"#, "headers"),
        (
            r#"INSERT INTO outbox_message (topic, payload, options) VALUES ('orders', 'x', '"fast"')"#,
            "options",
        ),
        (r#"INSERT INTO outbox_message (topic, payload) VALUES ('', 'x')"#, "topic"),
        (
            r#"INSERT INTO outbox_message (topic, payload, options)
               VALUES ('orders', 'x', '{"amqp": {"prioritty": 3}}')"#,
            "prioritty",
        ),
        (
            r#"INSERT INTO outbox_message (topic, payload) VALUES ('orders', convert_to(repeat('x', 10001), 'UTF8'))"#,
            "10001",
        ),
    ];
    for (statement, _) in rows {
        sqlx::raw_sql(statement).execute(&setup.pool).await.unwrap();
    }
    // An invalid administrative value is refused by the statement, and fails the transaction that wrote it.
    for statement in [
        "INSERT INTO outbox_message (topic, payload) VALUES (NULL, 'x')",
        "INSERT INTO outbox_message (topic, payload) VALUES ('orders', NULL)",
        "INSERT INTO outbox_message (topic, payload, headers) VALUES ('orders', 'x', '{broken')",
    ] {
        sqlx::raw_sql(statement).execute(&setup.pool).await.unwrap_err();
    }
    let nul = Message::bytes("orders", vec![0_u8, 0xff, 0]).header("binary", "yes").build().unwrap();
    setup.outbox.enqueue(&setup.pool, &nul).await.unwrap();

    let relay = setup.relay(|_| {});
    setup.dead_letters(rows.len() as u64).await;
    let delivered = setup.vhost.consume("orders", 1, DEADLINE).await;
    assert_eq!(delivered[0].data, [0, 0xff, 0], "bytes are bytes");
    for (error, (statement, expected)) in setup.errors().await.iter().zip(rows) {
        assert!(error.contains(expected), "{statement}\ndied with: {error}");
    }
    relay.shutdown().await.unwrap();
}
