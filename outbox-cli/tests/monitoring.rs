//! A real Prometheus scrapes a relay that works, with the rules and the queries that are packaged.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

#[path = "support/prometheus.rs"]
mod prometheus;
mod support;

use integration_tests::{Postgres, RabbitMq, Server, Subprocess, eventually};
use prometheus::Prometheus;
use serde_json::Value;
use support::packaged::{alerts, dashboard_queries, metrics_in, text, yaml};
use support::{DEADLINE, Place, served_at};

/// The packaged rules, which wait for a second where they would wait for minutes.
fn impatient_rules() -> String {
    let mut rules = String::new();
    for line in text("monitoring/alerts.yaml").lines() {
        match line.split_once("for: ") {
            Some((indent, _)) if indent.trim().is_empty() => rules.push_str(&format!("{indent}for: 1s\n")),
            _ => rules.push_str(&format!("{line}\n")),
        }
    }
    assert_eq!(rules.matches("for: 1s\n").count(), alerts().len());
    rules
}

/// The queries of the dashboard, with all that Grafana puts in for its variables.
fn queries() -> Vec<String> {
    let fill = |query: String| {
        let query =
            query.replace("$instance", ".*").replace("$route", ".*").replace("$__rate_interval", "1m");
        assert!(!query.contains('$'), "{query}");
        query
    };
    dashboard_queries().into_iter().map(fill).collect()
}

#[tokio::test]
async fn prometheus_scrapes_a_relay_and_tells_of_its_dead_letters() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let database = postgres.database().await;
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("order.paid").await;
    let place = Place::new(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[[route]]\nname = \"orders\"\n\
         [route.store]\ntype = \"postgres\"\nurl = \"{}\"\npartitions = 7\n\
         [route.publisher]\ntype = \"amqp\"\nurl = \"{}\"\n\
         [route.relay]\nstats_interval = \"100ms\"\n[route.relay.retry]\nmax_attempts = 1\n",
        database.url(),
        vhost.uri()
    ));
    place.run(&["migrate"]);
    let mut relay = Subprocess::start("outbox-relay", place.command(&["relay"]));
    let address = eventually("the address", DEADLINE, || async { served_at(&relay.log()) }).await;
    let job = yaml("compose/prometheus.yml")["scrape_configs"][0]["job_name"].as_str().unwrap().to_owned();
    let Some(prometheus) = Prometheus::watch(&job, &address, &impatient_rules()).await else { return };
    let reads = async |query: &str, right: f64| {
        eventually(query, DEADLINE, || async { (prometheus.number(query) == Some(right)).then_some(()) })
            .await;
    };
    let state = async |alert: &str, right: &str| {
        let what = format!("{alert} to be {right}");
        eventually(&what, DEADLINE, || async { (prometheus.state(alert) == right).then_some(()) }).await;
    };

    reads(&format!("up{{job=\"{job}\"}}"), 1.0).await;
    let confirmed = "sum(outbox_confirmed_total{route=\"orders\", store=\"postgres\", publisher=\"amqp\"})";
    for total in [1.0, 2.0, 3.0] {
        place.run(&["enqueue", "order.paid", "17"]);
        reads(confirmed, total).await;
    }
    reads("sum(outbox_partitions)", 7.0).await;
    reads("sum(outbox_leases)", 7.0).await;

    // Every name that somebody asks for is there.
    let rules = alerts().into_iter().map(|(_, rule)| rule["expr"].as_str().unwrap().to_owned());
    let asked = metrics_in(&rules.chain(queries()).collect::<Vec<_>>());
    eventually("every name that rules and dashboard have", DEADLINE, || async {
        let names = prometheus.ask("label/__name__/values");
        let names: Vec<_> = names.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        asked.iter().all(|name| names.contains(&name.as_str())).then_some(())
    })
    .await;
    for query in queries() {
        // Counters of failures are there from the start, at zero. A late scrape makes a gap.
        let what = format!("the dashboard to show something of {query}");
        eventually(&what, DEADLINE, || async { (!prometheus.query(&query).is_empty()).then_some(()) }).await;
    }

    // A relay that is well is no reason for an alarm.
    for (alert, _) in alerts() {
        state(&alert, "inactive").await;
    }
    for rule in prometheus.rules() {
        assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule}");
    }

    // There is no such queue.
    place.run(&["enqueue", "order.lost", "18"]);
    let summary = eventually("OutboxDeadLetters to be firing", DEADLINE, || async {
        let alerts = prometheus.ask("alerts");
        let mut alerts = alerts["alerts"].as_array().unwrap().iter();
        let firing = alerts
            .find(|alert| alert["labels"]["alertname"] == "OutboxDeadLetters" && alert["state"] == "firing");
        firing.map(|alert| alert["annotations"]["summary"].clone())
    })
    .await;
    assert_eq!(summary, "Messages of orders (postgres to amqp) become dead letters");
    reads("sum(outbox_dead_letters)", 1.0).await;
    state("OutboxPartitionsUnowned", "inactive").await;

    relay.terminate();
    assert_eq!(relay.wait(DEADLINE).await.code(), Some(0), "{}", relay.log());
    state("OutboxRelayDown", "firing").await;
    state("OutboxNoRelay", "firing").await;
}
