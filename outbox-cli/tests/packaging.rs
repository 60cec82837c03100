//! That what is packaged beside the program fits the program: settings, ports, metrics, alerts, times.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use integration_tests::{Subprocess, Tool, eventually};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use support::packaged::{alerts, dashboard_queries, metrics_in, packaging, text, yaml};
use support::{DEADLINE, ON_SQLITE, Place, get, served_at};

const PORT: u16 = 9464;

/// Of the seconds that a text such as `40s` stands for.
fn seconds(text: &str) -> u64 {
    humantime::parse_duration(text).unwrap().as_secs()
}

/// The names that a real relay gives to Prometheus, once it has relayed something.
async fn exported() -> BTreeSet<String> {
    let place = Place::new(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n{ON_SQLITE}[route.relay]\nstats_interval = \"100ms\"\n"
    ));
    place.run(&["migrate"]);
    place.run(&["enqueue", "order.paid", "17"]);
    let relay = Subprocess::start("outbox-relay", place.command(&["relay"]));
    let address = eventually("the address", DEADLINE, || async { served_at(&relay.log()) }).await;
    let names = |rendered: &str| -> BTreeSet<String> {
        let lines = rendered.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
    };
    eventually("a confirm and the first look at the store", DEADLINE, || async {
        let names = names(&get(&address, "/metrics"));
        ["outbox_settle_batch_messages_count", "outbox_backlog", "outbox_commit_to_confirm_seconds_count"]
            .iter()
            .all(|name| names.contains(*name))
            .then_some(names)
    })
    .await
}

#[tokio::test]
async fn alerts_and_dashboard_ask_for_what_a_relay_exports() {
    let exported = exported().await;
    let shown = metrics_in(&dashboard_queries());
    let asked: Vec<_> = alerts().iter().map(|(_, rule)| rule["expr"].as_str().unwrap().to_owned()).collect();
    let asked = metrics_in(&asked);
    assert!(!asked.is_empty(), "no alert asks for anything");
    for name in shown.iter().chain(&asked) {
        assert!(exported.contains(name), "{name} is not among {exported:#?}");
    }
    // Whatever is measured can be seen.
    for name in &exported {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let base = base.unwrap_or(name);
        assert!(shown.iter().any(|shown| shown.starts_with(base)), "the dashboard does not show {base}");
    }
}

#[test]
fn each_alert_has_a_page_that_says_what_to_do() {
    let page = text("../../docs/operations.md");
    for (name, rule) in alerts() {
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(runbook, format!("docs/operations.md#{}", name.to_lowercase()));
        assert!(page.lines().any(|line| line == format!("### {name}")), "{name} is not in the page");
        assert!(rule["for"].is_string() && rule["labels"]["severity"].is_string(), "{name}");
    }
}

#[test]
fn alerts_fire_when_they_should() {
    let Some(promtool) = Tool::Promtool.find() else { return };
    let checks = [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]];
    for arguments in checks {
        let mut command = Command::new(&promtool);
        command.args(arguments).current_dir(packaging().join("monitoring"));
        let output = assert_cmd::Command::from_std(command).timeout(DEADLINE).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let tests = text("monitoring/alerts.test.yaml");
    for (name, _) in alerts() {
        assert!(
            tests.contains(&format!("\"{name}\"")) || tests.contains(&format!("alertname: {name}")),
            "{name} is not tested"
        );
    }
}

#[test]
fn the_packaged_settings_are_right() {
    for (file, secrets) in [
        ("outbox.toml", "/run/credentials/outbox.service/"),
        ("compose/outbox.toml", "/run/secrets/"),
        ("kubernetes/outbox.toml", "/run/secrets/outbox/"),
    ] {
        let settings = text(file);
        assert!(settings.contains(secrets), "{file} takes its secrets from elsewhere");
        let place = Place::new("");
        let folder = format!("{}/", place.path().display());
        for secret in ["database", "broker"] {
            std::fs::write(place.path().join(secret), "s3cret-of-a-test").unwrap();
        }
        std::fs::write(place.path().join("outbox.toml"), settings.replace(secrets, &folder)).unwrap();
        let said = place.run(&["--config", "outbox.toml", "config", "check"]);
        assert!(said.contains("route orders: "), "{file}: {said}");
        assert!(!said.contains("s3cret-of-a-test"), "{file}: {said}");
        assert!(settings.contains(&format!(":{PORT}\"")), "{file} does not listen at {PORT}");
    }
}

#[test]
fn the_unit_runs_the_program_and_waits_for_its_drain() {
    let unit = text("outbox.service");
    let field = |name: &str| {
        let found = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    let command: Vec<_> = field("ExecStart").split(' ').collect();
    let [program, rest @ ..] = &command[..] else { panic!("{command:?}") };
    assert_eq!(*program, "/usr/local/bin/outbox");
    // The line as it is, with settings of ours where its own would be, and until there is nothing to do.
    let place = Place::new(ON_SQLITE);
    place.run(&["migrate"]);
    let ours = place.path().join("outbox.toml");
    let mut arguments: Vec<_> = rest
        .iter()
        .map(|argument| argument.replace("/etc/outbox/outbox.toml", ours.to_str().unwrap()))
        .collect();
    arguments.push("--until-empty".to_owned());
    place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let patience = field("TimeoutStopSec").parse::<u64>().unwrap();
    assert!(patience > outbox_core::Settings::default().shutdown_timeout.as_secs());
    // The code of wrong settings, after which nothing is tried again.
    let wrong = Place::new("nonsense = 1").command(&["relay"]).output().unwrap();
    assert_eq!(field("RestartPreventExitStatus"), wrong.status.code().unwrap().to_string());
    for secret in ["database", "broker"] {
        assert!(unit.contains(&format!("LoadCredential={secret}:")), "no {secret}");
    }
}

#[test]
fn the_image_is_built_of_features_that_there_are() {
    let file = text("Dockerfile");
    let features = file.lines().find_map(|line| line.strip_prefix("ARG FEATURES=")).unwrap();
    let build = file.lines().find_map(|line| line.strip_prefix("RUN cargo build ")).unwrap();
    let build =
        build.trim_end_matches(" \\").replace("\"$FEATURES\"", features).replace(" --profile dist", "");
    // Resolves the same packages and features, and compiles nothing.
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--depth", "0", "--edges", "normal"]).args(build.split(' '));
    tree.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{build}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("outbox-cli "));
    assert!(file.contains("USER 65532"), "the image runs as root");
}

#[test]
fn manifests_of_kubernetes_fit_each_other_and_the_program() {
    let deployment = yaml("kubernetes/deployment.yaml");
    let spec = &deployment["spec"];
    let pod = &spec["template"]["spec"];
    let relay = &pod["containers"][0];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let settings = text("kubernetes/outbox.toml");
    let drain = settings.lines().find_map(|line| line.strip_prefix("shutdown_timeout = ")).unwrap();
    let drain = seconds(drain.trim_matches('"'));
    assert!(grace > drain, "{grace} s of grace for a drain of {drain} s");
    assert!(spec["replicas"].as_u64().unwrap() > 1);
    assert_eq!(relay["ports"][0]["containerPort"], PORT);
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(relay[probe]["httpGet"]["path"], path);
        assert_eq!(relay[probe]["httpGet"]["port"], relay["ports"][0]["name"]);
    }
    let annotations = &spec["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], PORT.to_string());

    // What the profile `restricted` asks for.
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in [relay, &pod["initContainers"][0]] {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        let mounted: Vec<_> =
            container["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["mountPath"]).collect();
        assert_eq!(mounted, ["/etc/outbox", "/run/secrets/outbox"]);
    }

    let labels = &spec["template"]["metadata"]["labels"];
    let budget = yaml("kubernetes/poddisruptionbudget.yaml");
    let service = yaml("kubernetes/service.yaml");
    for selector in [
        &spec["selector"]["matchLabels"],
        &budget["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
        &yaml("kubernetes/networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    assert_eq!(
        yaml("kubernetes/servicemonitor.yaml")["spec"]["selector"]["matchLabels"],
        service["metadata"]["labels"]
    );
    let kustomization = yaml("kubernetes/kustomization.yaml");
    for file in kustomization["resources"].as_array().unwrap() {
        let resource = yaml(&format!("kubernetes/{}", file.as_str().unwrap()));
        assert!(resource["kind"].is_string() && resource["apiVersion"].is_string(), "{file}");
    }
    assert_eq!(kustomization["configMapGenerator"][0]["name"], pod["volumes"][0]["configMap"]["name"]);
}

/// A manifest as Kubernetes would read it. An error if a field is missing, unknown, or of the wrong kind.
fn manifest<T>(written: &Value) -> Result<T, String>
where
    T: k8s_openapi::Resource + DeserializeOwned + Serialize,
{
    let read = T::deserialize(written).map_err(|error| error.to_string())?;
    // What it does not know, it leaves out when it writes it again.
    let again = serde_json::to_value(&read).unwrap();
    if again == *written { Ok(read) } else { Err(format!("{written} comes back as {again}")) }
}

#[test]
fn manifests_of_kubernetes_have_the_fields_that_there_are() {
    let read = |file: &str| yaml(&format!("kubernetes/{file}"));
    let deployment: Deployment = manifest(&read("deployment.yaml")).unwrap();
    manifest::<PodDisruptionBudget>(&read("poddisruptionbudget.yaml")).unwrap();
    manifest::<NetworkPolicy>(&read("networkpolicy.yaml")).unwrap();
    manifest::<Service>(&read("service.yaml")).unwrap();
    manifest::<Namespace>(&read("namespace.yaml")).unwrap();
    let checked = [
        "deployment.yaml",
        "poddisruptionbudget.yaml",
        "networkpolicy.yaml",
        "service.yaml",
        "namespace.yaml",
    ];
    let kustomization = read("kustomization.yaml");
    for file in kustomization["resources"].as_array().unwrap() {
        assert!(checked.contains(&file.as_str().unwrap()), "{file} is of a type that nobody checks");
    }

    let pod = deployment.spec.unwrap().template.spec.unwrap();
    let volumes = pod.volumes.unwrap();
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        for mount in container.volume_mounts.iter().flatten() {
            assert!(volumes.iter().any(|volume| volume.name == mount.name), "no volume {}", mount.name);
        }
    }
    let secret = volumes.iter().find_map(|volume| volume.secret.as_ref()).unwrap();
    assert_eq!(secret.default_mode, Some(0o440));
}

#[test]
fn a_slip_in_a_manifest_is_noticed() {
    let right = text("kubernetes/deployment.yaml");
    let slips = [
        ("terminationGracePeriodSeconds: 40", "terminationGracePeriodSecond: 40"),
        ("{path: /readyz, port: http}", "{route: /readyz, port: http}"),
        ("{name: http, containerPort: 9464}", "{name: http, containerPort: \"9464\"}"),
        ("runAsNonRoot: true", "runAsNonRoot: yes, please"),
        ("  selector:\n    matchLabels: {app.kubernetes.io/name: outbox}\n", ""),
        ("apiVersion: apps/v1", "apiVersion: apps/v1beta1"),
        ("kind: Deployment", "kind: DaemonSet"),
    ];
    for (there, slip) in slips {
        assert!(right.contains(there), "{there}");
        let wrong: Value = serde_saphyr::from_str(&right.replacen(there, slip, 1)).unwrap();
        assert!(manifest::<Deployment>(&wrong).is_err(), "{slip}");
    }
}

#[test]
fn the_compose_file_mounts_what_there_is() {
    let compose = yaml("compose/compose.yaml");
    let services = compose["services"].as_object().unwrap();
    let mut mounted = 0;
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let (source, _) = volume.as_str().unwrap().split_once(':').unwrap();
            if source.starts_with('.') {
                assert!(packaging().join("compose").join(source).is_file(), "{name} mounts {source}");
                mounted += 1;
            }
        }
    }
    assert_eq!(mounted, 7, "files are mounted that this test does not see");
    let relay = &services["relay"];
    let patience = seconds(relay["stop_grace_period"].as_str().unwrap());
    assert!(patience > outbox_core::Settings::default().shutdown_timeout.as_secs());
    let context = packaging().join("compose").join(relay["build"]["context"].as_str().unwrap());
    assert!(context.join(relay["build"]["dockerfile"].as_str().unwrap()).is_file());
    // The alerts go by the name of the job.
    let scraped = &yaml("compose/prometheus.yml")["scrape_configs"][0];
    assert_eq!(scraped["job_name"], "outbox");
    assert_eq!(scraped["dns_sd_configs"][0]["port"], PORT);
    assert!(services.contains_key(scraped["dns_sd_configs"][0]["names"][0].as_str().unwrap()));
    for file in ["compose/grafana/datasource.yaml", "compose/grafana/dashboards.yaml"] {
        assert_eq!(yaml(file)["apiVersion"], 1);
    }
}
