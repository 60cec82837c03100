//! What is packaged beside the program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

pub(crate) fn text(path: &str) -> String {
    let path = packaging().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every alert: its name, and its rule.
pub(crate) fn alerts() -> Vec<(String, Value)> {
    let rules = yaml("monitoring/alerts.yaml");
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule.clone())).collect()
}

/// What the dashboard for Grafana asks, with Grafana's variables in it.
pub(crate) fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text("monitoring/dashboard.json")).unwrap();
    let mut found = Vec::new();
    collect(&dashboard, &mut found);
    assert!(!found.is_empty(), "the dashboard asks for nothing");
    found
}

/// All that is called `expr`.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let ("expr", Some(text)) = (name.as_str(), value.as_str()) {
                    found.push(text.to_owned());
                }
                collect(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// Every name of a metric of ours in these queries.
pub(crate) fn metrics_in(queries: &[String]) -> BTreeSet<String> {
    let words = queries
        .iter()
        .flat_map(|query| query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')))
        .filter(|word| word.starts_with("outbox_"));
    words.map(str::to_owned).collect()
}
