//! The compose file: everything in it is started, used, and stopped.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use integration_tests::{Docker, Tool, eventually};
use outbox_conformance::{Ledger, Rules};

use crate::arrivals::{Arrivals, payload};
use crate::prometheus::Prometheus;
use crate::support::packaged::{alerts, packaging, text, yaml};
use crate::support::try_get;
use crate::{PATIENCE, POSTGRES, RABBITMQ, image};

const PROMETHEUS: &str = "prom/prometheus:v3.5.0";
const GRAFANA: &str = "grafana/grafana:12.1.0";
const KEYS: u64 = 40;

/// The packaged project, under a name of the test's own and on free ports.
struct Project<'a> {
    docker: &'a Docker,
    compose: PathBuf,
    image: &'a str,
}

impl Project<'_> {
    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.compose);
        command.args(["--project-name", self.docker.project(), "--file"]);
        command.arg(packaging().join("compose/compose.yaml")).args(arguments);
        command.env("OUTBOX_IMAGE", self.image);
        for port in ["POSTGRES_PORT", "AMQP_PORT", "RABBITMQ_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"] {
            command.env(port, "0");
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} ended with {}: {said}", output.status);
    }

    /// The containers of a service.
    fn containers(&self, service: &str) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.docker.project());
        let service = format!("label=com.docker.compose.service={service}");
        let filters = ["--filter", &project, "--filter", &service];
        let found = self.docker.run(&[&["ps", "--all", "--format", "{{.Names}}"][..], &filters].concat());
        found.lines().map(str::to_owned).collect()
    }

    fn address(&self, service: &str, port: u16) -> String {
        let containers = self.containers(service);
        self.docker.address(containers.first().unwrap_or_else(|| panic!("no {service}")), port)
    }

    fn inspect(&self, container: &str, format: &str) -> String {
        self.docker.run(&["inspect", "--format", format, container])
    }
}

/// Enqueues a message of each key, from the host, with the packaged settings.
fn enqueue(database: &str, broker: &str, number: u64) {
    let compose = packaging().join("compose");
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_outbox"));
    command.env("OUTBOX__STORE__URL", format!("postgres://outbox@{database}/shop"));
    command.env("OUTBOX__STORE__PASSWORD_FILE", compose.join("secrets/database"));
    command.env("OUTBOX__PUBLISHER__URL", format!("amqp://outbox@{broker}"));
    command.env("OUTBOX__PUBLISHER__PASSWORD_FILE", compose.join("secrets/broker"));
    command.arg("--config").arg(compose.join("outbox.toml")).arg("enqueue");
    let lines = (0..KEYS).map(|key| {
        let key = format!("order-{key}");
        let payload = payload(&key, number);
        format!("{}\n", serde_json::json!({ "topic": "order.paid", "key": key, "payload": payload }))
    });
    command.write_stdin(lines.collect::<String>()).timeout(PATIENCE).assert().success();
}

/// Waits until a message of each key has arrived for each of the numbers up to this one, in order.
async fn arrive(arrivals: &Arrivals, last: u64) {
    let mut ledger = Ledger::new();
    for key in 0..KEYS {
        (1..=last).for_each(|number| ledger.committed(Some(&format!("order-{key}")), number));
    }
    let verdict = eventually("the messages", PATIENCE, || async {
        let mut ledger = ledger.clone();
        for arrival in arrivals.all() {
            ledger.arrived(Some(&arrival.key), arrival.number);
        }
        let verdict = ledger.verdict(&Rules::new());
        (verdict.arrived - verdict.duplicates == verdict.committed).then_some(verdict)
    })
    .await;
    assert!(verdict.is_clean(), "{verdict}");
}

#[test]
fn servers_and_relays_have_the_same_passwords() {
    let variables = text("compose/.env");
    for (variable, file) in [("DATABASE_PASSWORD", "database"), ("BROKER_PASSWORD", "broker")] {
        let secret = text(&format!("compose/secrets/{file}"));
        let line = format!("{variable}={}", secret.trim_end());
        assert!(variables.lines().any(|found| found == line), "{variable} differs from secrets/{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_file_delivers_messages_though_a_relay_is_killed() {
    let images = [&image::BASES[..], &[POSTGRES, RABBITMQ, PROMETHEUS]].concat();
    let Some(docker) = Docker::with_images(&images) else { return };
    let Some(compose) = Tool::Compose.find() else { return };
    let project = Project { docker: &docker, compose, image: image::built(&docker) };

    let started = Instant::now();
    let mut up = vec!["up", "--detach", "--no-build", "--quiet-pull", "relay", "rabbitmq", "prometheus"];
    // Grafana is not needed for anything but to be seen, so it is started only where its image is there.
    let grafana = docker.try_run(&["image", "inspect", GRAFANA]).is_ok();
    if grafana {
        up.push("grafana");
    }
    project.run(&up);
    let (database, broker) = (project.address("postgres", 5432), project.address("rabbitmq", 5672));
    let arrivals = Arrivals::of(&format!("amqp://outbox:outbox@{broker}"), "orders").await;
    println!("up after {:.1} s", started.elapsed().as_secs_f64());
    enqueue(&database, &broker, 1);
    arrive(&arrivals, 1).await;
    println!("the first messages arrived after {:.1} s", started.elapsed().as_secs_f64());

    let relays = project.containers("relay");
    assert_eq!(relays.len(), 2, "{relays:?}");
    for relay in &relays {
        let rights = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}";
        assert_eq!(project.inspect(relay, rights), "true [ALL] [no-new-privileges:true]");
        let users = docker.run(&["top", relay, "-eo", "pid,uid,gid,args"]);
        let users: Vec<_> = users.lines().skip(1).collect();
        assert!(!users.is_empty());
        for user in users {
            let fields: Vec<_> = user.split_whitespace().collect();
            assert_eq!(fields[1..3], ["65532", "65532"], "{user}");
        }
        let written =
            docker.try_run(&["cp", env!("CARGO_BIN_EXE_outbox"), &format!("{relay}:/usr/local/bin")]);
        assert!(written.is_err_and(|error| error.contains("read-only")), "{relay} can be written to");
    }

    let prometheus = Prometheus::at(project.address("prometheus", 9090)).await;
    let reads = async |query: &str, right: f64| {
        eventually(query, PATIENCE, || async { (prometheus.number(query) == Some(right)).then_some(()) })
            .await;
    };
    let quiet = async || {
        for (alert, _) in alerts() {
            let what = format!("{alert} to be inactive");
            eventually(&what, PATIENCE, || async { (prometheus.state(&alert) == "inactive").then_some(()) })
                .await;
        }
    };
    reads("count(up{job=\"outbox\"} == 1)", 2.0).await;
    reads("sum(outbox_leases)", 16.0).await;
    reads("count(outbox_leases > 0)", 2.0).await;
    quiet().await;
    if grafana {
        let grafana = project.address("grafana", 3000);
        let uid =
            serde_json::from_str::<serde_json::Value>(&text("monitoring/dashboard.json")).unwrap()["uid"]
                .clone();
        let dashboard = format!("/api/dashboards/uid/{}", uid.as_str().unwrap());
        eventually("the dashboard in Grafana", PATIENCE, || async {
            try_get(&grafana, &dashboard).is_ok_and(|body| body.contains("outbox_backlog")).then_some(())
        })
        .await;
    }

    let [killed, left] = &relays[..] else { unreachable!() };
    let death = Instant::now();
    docker.run(&["kill", killed]);
    enqueue(&database, &broker, 2);
    arrive(&arrivals, 2).await;
    println!("all keys went on {:.1} s after the death of a relay", death.elapsed().as_secs_f64());
    reads("sum(outbox_leases)", 16.0).await;
    reads("count(up{job=\"outbox\"} == 1)", 1.0).await;
    quiet().await;
    eventually("the relay to be healthy", PATIENCE, || async {
        (project.inspect(left, "{{.State.Health.Status}}") == "healthy").then_some(())
    })
    .await;

    let stopped = Instant::now();
    project.run(&["stop", "relay"]);
    println!("a relay stopped in {:.1} s", stopped.elapsed().as_secs_f64());
    // After the grace period Docker kills, and the code is 137.
    assert_eq!(project.inspect(left, "{{.State.ExitCode}}"), "0", "{}", docker.log(left));
    let grace = yaml("compose/compose.yaml")["services"]["relay"]["stop_grace_period"].clone();
    assert_eq!(
        project.inspect(left, "{{.Config.StopTimeout}}"),
        grace.as_str().unwrap().trim_end_matches('s')
    );
    project.run(&["down", "--volumes"]);
}
