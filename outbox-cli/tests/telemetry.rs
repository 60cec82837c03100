//! One trace from who enqueues, through the relay, to who consumes; and metrics beside it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

#[path = "support/collector.rs"]
mod collector;
mod support;

use std::time::{Duration, Instant};

use collector::{Collector, text};
use integration_tests::postgres::Database;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{Postgres, RabbitMq, Server, Subprocess, eventually};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use sqlx::PgPool;
use support::{DEADLINE, Place};

struct Setup {
    _database: Database,
    pool: PgPool,
    vhost: Vhost,
    place: Place,
}

impl Setup {
    /// `timeout` is that of a request to the collector.
    async fn new(endpoint: &str, timeout: &str) -> Option<Self> {
        let (postgres, rabbitmq) = (Postgres::shared().await?, RabbitMq::shared().await?);
        let database = postgres.database().await;
        let pool = database.pool(2).await;
        let vhost = rabbitmq.vhost().await;
        vhost.declare_queue("orders").await;
        let place = Place::new(&format!(
            "\
[telemetry]
endpoint = \"{endpoint}\"
headers = \"x-key=s3cret\"
interval = \"200ms\"
timeout = \"{timeout}\"

[telemetry.resource]
\"deployment.environment.name\" = \"test\"

[[route]]
name = \"shop\"

[route.store]
type = \"postgres\"
url = \"{}\"

[route.publisher]
type = \"amqp\"
url = \"{}\"

[route.relay.retry]
max_attempts = 1
",
            database.url(),
            vhost.uri()
        ));
        place.run(&["migrate"]);
        Some(Self { _database: database, pool, vhost, place })
    }

    /// As a service in any other language would, within a request that is traced, or not.
    async fn enqueue(&self, topic: &str, parent: Option<&str>) {
        let headers = parent.map_or("{}".to_owned(), |parent| format!("{{\"traceparent\": \"{parent}\"}}"));
        sqlx::query("INSERT INTO outbox_message (topic, payload, headers) VALUES ($1, 'x', $2::jsonb)")
            .bind(topic)
            .bind(headers)
            .execute(&self.pool)
            .await
            .unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a message comes from: the header, and the ids in it.
fn request(number: u8) -> (String, String, String) {
    let (trace, span) =
        (format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}"), format!("00f067aa0ba902{number:02x}"));
    (format!("00-{trace}-{span}-01"), trace, span)
}

// The collector answers while this thread waits for the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_leads_from_the_request_through_the_relay_to_the_consumer() {
    let (collector, address) = Collector::start().await;
    let Some(setup) = Setup::new(&format!("http://{address}"), "60s").await else { return };
    let requests: Vec<_> = (1..=3).map(request).collect();
    for (parent, ..) in &requests {
        setup.enqueue("orders", Some(parent)).await;
    }
    setup.enqueue("orders", None).await;
    setup.place.run(&["relay", "--until-empty"]);

    // Who consumes goes on where the request was.
    let mut arrived: Vec<_> = setup
        .vhost
        .consume("orders", 4, DEADLINE)
        .await
        .iter()
        .map(|delivery| {
            let headers = delivery.properties.headers().as_ref()?;
            let parent = headers.inner().get("traceparent")?;
            Some(parent.as_long_string()?.to_string())
        })
        .collect();
    arrived.sort();
    let mut sent: Vec<_> = requests.iter().map(|(parent, ..)| Some(parent.clone())).collect();
    sent.insert(0, None);
    assert_eq!(arrived, sent, "a message keeps the context of its request, and gets none if it has none");

    // The program has ended, so everything is here.
    let received = collector.received();
    let named = |name: &str| received.spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let (sends, publishes) = (named("send orders"), named("publish orders"));
    assert_eq!(sends.len(), 4);
    assert_eq!(received.spans.len(), sends.len() + publishes.len());
    for (_, trace, parent) in &requests {
        let own: Vec<_> = sends.iter().filter(|span| hex(&span.trace_id) == *trace).collect();
        let [send] = own[..] else { panic!("{own:?}") };
        assert_eq!((hex(&send.parent_span_id), send.kind), (parent.clone(), SpanKind::Producer.into()));
        for (attribute, value) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "orders"),
            ("messaging.message.body.size", "1"),
            ("outbox.route", "shop"),
        ] {
            assert_eq!(text(&send.attributes, attribute).as_deref(), Some(value), "{attribute}");
        }
        // The call links to the message's context, and the message's span to the call.
        let linked: Vec<&&Span> = publishes
            .iter()
            .filter(|call| {
                call.links.iter().any(|link| hex(&link.span_id) == *parent && hex(&link.trace_id) == *trace)
            })
            .collect();
        let [call] = linked[..] else { panic!("{linked:?}") };
        assert_eq!(send.links.len(), 1);
        assert_eq!((&send.links[0].trace_id, &send.links[0].span_id), (&call.trace_id, &call.span_id));
        assert!(call.start_time_unix_nano <= send.start_time_unix_nano);
        assert!(send.end_time_unix_nano <= call.end_time_unix_nano);
    }
    let messages: u64 = publishes
        .iter()
        .map(|call| text(&call.attributes, "messaging.batch.message_count").unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(messages, 4);
    for span in &received.spans {
        assert_ne!(span.status.as_ref().unwrap().code(), StatusCode::Error, "{span:?}");
    }

    let here = [("route", "shop"), ("store", "postgres"), ("publisher", "amqp")];
    for (name, value) in
        [("outbox_confirmed_total", 4.0), ("outbox_published_total", 4.0), ("outbox_in_flight", 0.0)]
    {
        assert_eq!(received.number(name, &here), Some(value), "{name}");
    }
    let lag =
        received.metrics.iter().find(|metric| metric.name == "outbox_commit_to_confirm_seconds").unwrap();
    assert_eq!(lag.unit, "s");
    assert!(!received.keys.is_empty() && received.keys.iter().all(|key| key == "s3cret"));
    for resource in &received.resources {
        assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("outbox"));
        assert_eq!(text(&resource.attributes, "deployment.environment.name").as_deref(), Some("test"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_told_with_its_error_and_what_was_not_sampled_is_not_told() {
    let (collector, address) = Collector::start().await;
    let Some(setup) = Setup::new(&format!("http://{address}"), "60s").await else { return };
    let (parent, trace, _) = request(9);
    setup.enqueue("no-such-queue", Some(&parent)).await;
    setup.enqueue("orders", Some("00-4bf92f3577b34da6a3ce929d0e0e4709-00f067aa0ba90210-00")).await;
    setup.enqueue("orders", Some("nonsense")).await;
    // What begins here is not sampled, either.
    setup.place.run(&["relay", "--until-empty", "--set", "telemetry.sampling_ratio=0"]);
    let spans = collector.received().spans;
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((span.name.as_str(), hex(&span.trace_id)), ("send no-such-queue", trace));
    assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(text(&span.attributes, "error.type").as_deref(), Some("unroutable"));
    assert_eq!(setup.vhost.queue_depth("orders").await, 2);
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_neither_slows_nor_stops_the_relay() {
    // Nobody accepts here, so that a request gets a connection and no answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for endpoint in ["http://127.0.0.1:1", &silent] {
        let Some(setup) = Setup::new(endpoint, "1s").await else { return };
        sqlx::query(
            "INSERT INTO outbox_message (topic, payload, headers)
            SELECT 'orders', 'x', '{\"traceparent\": \"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\"}'
            FROM generate_series(1, 20000)",
        )
        .execute(&setup.pool)
        .await
        .unwrap();
        let mut relay = Subprocess::start("outbox-relay", setup.place.command(&["relay"]));
        eventually("an empty outbox", DEADLINE, || async {
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox_message")
                .fetch_one(&setup.pool)
                .await
                .unwrap();
            (left == 0).then_some(())
        })
        .await;
        assert_eq!(setup.vhost.queue_depth("orders").await, 20_000);
        let asked = Instant::now();
        relay.terminate();
        let status = relay.wait(DEADLINE).await;
        assert_eq!(status.code(), Some(0), "{}", relay.log());
        // Five seconds are left for what was not sent; the rest is the machine's.
        assert!(asked.elapsed() < Duration::from_secs(120), "{:?}: {}", asked.elapsed(), relay.log());
        assert!(relay.log().contains("telemetry was not sent"), "{}", relay.log());
    }
}
