//! A real Prometheus, and what somebody asks of it.

#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::process::Command;

use integration_tests::{Subprocess, Tool, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{DEADLINE, get, try_get};

/// A Prometheus, which ends with the test.
pub(crate) struct Prometheus {
    address: String,
    // The folder goes when the process is gone. `None` if it runs in a container.
    _process: Option<(Subprocess, TempDir)>,
}

impl Prometheus {
    /// Uses the one at this address, which runs already. Waits until it is ready.
    pub(crate) async fn at(address: String) -> Self {
        eventually("Prometheus", DEADLINE, || async {
            try_get(&address, "/-/ready").is_ok_and(|answer| answer.contains("Ready")).then_some(())
        })
        .await;
        Self { address, _process: None }
    }

    /// Starts one that watches over one relay. Has it scrape what is at `target`, as the job `job`, and watch by these rules. `None` if there is no Prometheus
    /// here, and nobody requires one.
    pub(crate) async fn watch(job: &str, target: &str, rules: &str) -> Option<Self> {
        let program = Tool::Prometheus.find()?;
        let folder = tempfile::tempdir().unwrap();
        // Often, since the test waits for it; and not so often that a busy machine is late each time.
        let settings = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms }}\n\
             rule_files: [rules.yaml]\n\
             scrape_configs: [{{ job_name: \"{job}\", static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), settings).unwrap();
        std::fs::write(folder.path().join("rules.yaml"), rules).unwrap();
        let mut command = Command::new(program);
        // A port of its own choice.
        command.args(["--config.file=prometheus.yml", "--web.listen-address=127.0.0.1:0"]);
        command.arg("--storage.tsdb.path=data").current_dir(folder.path());
        let process = Subprocess::start("prometheus", command);
        let address = eventually("Prometheus", DEADLINE, || async {
            let log = process.log();
            let address = listens_at(&log)?;
            log.contains("ready to receive web requests").then_some(address)
        })
        .await;
        Some(Self { address, _process: Some((process, folder)) })
    }

    /// What its interface says at this path below `/api/v1/`.
    pub(crate) fn ask(&self, path: &str) -> Value {
        let body = get(&self.address, &format!("/api/v1/{path}"));
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}"));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The samples that a query gives now.
    pub(crate) fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let result = self.ask(&format!("query?query={encoded}"))["result"].clone();
        result.as_array().unwrap_or_else(|| panic!("{query}: {result}")).clone()
    }

    /// The number that a query gives now, if it gives one.
    pub(crate) fn number(&self, query: &str) -> Option<f64> {
        let samples = self.query(query);
        assert!(samples.len() < 2, "{query}: {samples:?}");
        samples.first()?["value"][1].as_str()?.parse().ok()
    }

    /// What it makes of the rule for this alert: `inactive`, `pending` or `firing`.
    pub(crate) fn state(&self, alert: &str) -> String {
        let rules = self.rules();
        let rule = rules.iter().find(|rule| rule["name"] == alert);
        rule.unwrap_or_else(|| panic!("no {alert} in {rules:?}"))["state"].as_str().unwrap().to_owned()
    }

    /// All rules, with what came of their last evaluation.
    pub(crate) fn rules(&self) -> Vec<Value> {
        let told = self.ask("rules");
        let groups = told["groups"].as_array().unwrap();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }
}

/// Where it listens, once its log says so.
fn listens_at(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("Listening on"))?;
    Some(line.split_once("address=")?.1.split(' ').next()?.to_owned())
}
