//! The compose file: a demonstration of the relay with its servers.

use std::cell::RefCell;
use std::collections::BTreeSet;

use integration_tests::docker::{Docker, Project};
use integration_tests::{Environment, RabbitMq, Server, eventually};
use serde_json::Value;

use crate::program::image;
use crate::prometheus::Prometheus;
use crate::support::packaged::{alerts, packaging, text};
use crate::support::{DEADLINE, Place};

const PARTITIONS: u64 = 16;

struct Demonstration {
    project: Project,
    /// Settings for the same outbox as those of the relays, seen from this machine.
    host: Place,
    rabbitmq: RabbitMq,
    prometheus: Prometheus,
}

impl Demonstration {
    async fn start(docker: &Docker, image: &str) -> Option<Self> {
        let mut project = docker.compose(&packaging().join("compose/compose.yaml"))?;
        project.set("OUTBOX_IMAGE", image);
        // Docker chooses free ones, so that several runs do not conflict.
        for port in ["POSTGRES_PORT", "AMQP_PORT", "RABBITMQ_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"] {
            project.set(port, "0");
        }
        project.run(&["up", "--detach", "--no-build", "--quiet-pull", "relay", "rabbitmq", "prometheus"]);

        let (database, prometheus) = (project.port("postgres", 5432), project.port("prometheus", 9090));
        let [amqp, management] = [5672, 15672].map(|port| project.port("rabbitmq", port));
        let [password, broker_password] =
            ["database", "broker"].map(|secret| text(&format!("compose/secrets/{secret}")).trim().to_owned());
        let host = Place::new(&format!(
            "[[route]]\nname = \"orders\"\n[route.store]\ntype = \"postgres\"\n\
             url = \"postgres://outbox@127.0.0.1:{database}/shop\"\npassword = \"{password}\"\n\
             [route.publisher]\ntype = \"terminal\"\n"
        ));
        let environment = Environment::of_process().with(
            "OUTBOX_TEST_RABBITMQ_MANAGEMENT_URL",
            format!("http://outbox:{broker_password}@127.0.0.1:{management}"),
        );
        let uri = format!("amqp://outbox:{broker_password}@127.0.0.1:{amqp}");
        // The broker takes a while to start, and the management interface another.
        let rabbitmq =
            eventually("RabbitMQ", DEADLINE, async || RabbitMq::external(&environment, &uri).await.ok())
                .await;
        let prometheus = Prometheus::at(format!("127.0.0.1:{prometheus}")).await;
        Some(Self { project, host, rabbitmq, prometheus })
    }

    /// Enqueues one message for each key, as a service on this machine would.
    fn enqueue(&self, keys: std::ops::Range<u32>) -> BTreeSet<String> {
        let enqueue = |key: u32| {
            let payload = format!("{{\"order\": {key}}}");
            self.host.run(&["enqueue", "order.paid", &payload, "--key", &format!("order-{key}")]);
            payload
        };
        keys.map(enqueue).collect()
    }

    /// Takes what has arrived out of the queue, until all of `expected` has.
    async fn receive(&self, expected: BTreeSet<String>) {
        let missing = RefCell::new(expected.clone());
        eventually("the messages to arrive in the queue", DEADLINE, async || {
            let body = r#"{"count": 100, "ackmode": "ack_requeue_false", "encoding": "auto"}"#;
            let found = self.rabbitmq.management("POST", "/api/queues/%2F/orders/get", Some(body)).await;
            let found: Value = serde_json::from_str(&found).unwrap();
            for message in found.as_array().unwrap() {
                let payload = message["payload"].as_str().unwrap();
                assert!(expected.contains(payload), "{payload} was not enqueued now");
                missing.borrow_mut().remove(payload);
            }
            missing.borrow().is_empty().then_some(())
        })
        .await;
    }

    /// How many partitions each relay holds.
    fn shares(&self) -> Vec<u64> {
        let status: Value = serde_json::from_str(&self.host.run(&["status", "--json"])).unwrap();
        let relays = status["relays"].as_array().unwrap().iter();
        relays.map(|relay| relay["partitions"].as_u64().unwrap()).collect()
    }

    async fn until_shares_are(&self, what: &str, shares: &[u64]) {
        eventually(what, DEADLINE, async || (self.shares() == shares).then_some(())).await;
    }

    /// Waits until Prometheus counts this many relays, with all partitions between them.
    async fn until_prometheus_sees(&self, relays: f64) {
        for (query, expected) in
            [("sum(up{job=\"outbox\"})", relays), ("sum(outbox_leases)", PARTITIONS as f64)]
        {
            let what = format!("Prometheus to answer {expected} to {query}");
            eventually(&what, DEADLINE, async || {
                (self.prometheus.number(query) == Some(expected)).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn the_compose_file_relays_and_survives_the_death_of_a_relay() {
    let Some(docker) = Docker::find() else { return };
    if docker.images(["postgres", "rabbitmq", "prometheus"]).is_none() {
        return;
    }
    let Some(image) = image(&docker) else { return };
    let Some(demonstration) = Demonstration::start(&docker, image).await else { return };
    let Demonstration { project, prometheus, .. } = &demonstration;
    let relays = project.containers("relay");
    assert_eq!(relays.len(), 2, "{relays:?}");
    for relay in &relays {
        let confined = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.Config.User}}";
        assert_eq!(docker.inspect(relay, confined), "true [ALL] [no-new-privileges:true] 65532:65532");
        assert_eq!(docker.inspect(relay, "{{.RestartCount}}"), "0", "the migration comes first");
    }

    demonstration.until_shares_are("two relays with half each", &[PARTITIONS / 2; 2]).await;
    demonstration.receive(demonstration.enqueue(0..40)).await;
    demonstration.until_prometheus_sees(2.0).await;
    eventually("no alert", DEADLINE, async || {
        let rules = prometheus.rules();
        assert!(
            rules.len() >= alerts().len() && rules.iter().all(|rule| rule["health"] != "err"),
            "{rules:#?}"
        );
        // Each rule has been evaluated while both relays were there, and is not even pending.
        let well =
            rules.iter().all(|rule| rule["health"] == "ok" && rule["state"].as_str() != Some("firing"));
        (well && prometheus.ask("alerts")["alerts"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;

    docker.run(&["kill", &relays[0]]);
    demonstration.until_shares_are("one relay with all", &[PARTITIONS]).await;
    // Of keys of all partitions.
    demonstration.receive(demonstration.enqueue(40..80)).await;
    demonstration.until_prometheus_sees(1.0).await;

    // With the grace period of the file. A relay that needed longer would have been killed, and its code be 137.
    project.run(&["stop"]);
    assert_eq!(docker.inspect(&relays[1], "{{.State.ExitCode}}"), "0");
    assert_eq!(docker.inspect(&relays[0], "{{.State.ExitCode}}"), "137");
}
