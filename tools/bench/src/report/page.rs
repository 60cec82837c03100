//! The page.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::goals;
use super::svg::{self, Bar};
use crate::line::{Line, short};

const INTRODUCTION: &str = "# Benchmarks

Written by `outbox-bench report`; [CONTRIBUTING.md](../CONTRIBUTING.md#measure) describes how to repeat it. Permanent remarks
belong in [benchmarks-remarks.md](benchmarks-remarks.md), which is included below.

Clients, relay, database and broker share one machine, so absolute figures mean little. Contenders alternate for several
rounds, and **ratios** compare figures of the same round: median, and in parentheses minimum and maximum. A run in which
a message was lost, repeated or reordered has no figure.

| contender | meaning |
| --- | --- |
| ours | the relay of `outbox-core` with its default settings, on the real store |
| floor | the smallest amount of work that could be correct: read past a cursor, publish, and delete by id, all three concurrently, on a table without further columns and indexes. For latencies: commit, then publish directly |
| memory | the broker's driver alone, publishing from memory with the same number of messages in flight, and waiting for all confirms |
| naive | poll 100, publish one by one, update each row |
| claim | claim 1 000 by `FOR UPDATE SKIP LOCKED` with a lease in each row, publish them as one batch, delete them |
| bare | the same transaction with a bare insert of the same size into a plain table |

*tmpfs*: the servers' data is in memory, so the comparison is about processor time. *disk, synced*: the data is on the disk, and each
commit waits for it.

";

/// The description of each scenario, in the order of the page.
const SCENARIOS: [(&str, &str, &str); 10] = [
    (
        "drain",
        "Draining a backlog",
        "Messages per second, from the start of the relay until all messages are confirmed and recorded.",
    ),
    (
        "steady",
        "Latency at a steady rate",
        "From the moment at which a client sends the commit to the broker's confirmation. The offered load is a percentage of the relay's drain rate, whether or not earlier messages have been delivered.",
    ),
    (
        "wakeup",
        "The first message after a pause",
        "From the moment at which a client sends the commit to the call to the publisher, for a sleeping relay.",
    ),
    (
        "held-snapshot",
        "While another session holds an old snapshot",
        "Meanwhile the database cannot remove deleted rows.",
    ),
    ("backlog", "Small and large backlogs", "Messages per second, from the first call to the publisher."),
    (
        "enqueue",
        "Enqueueing",
        "Transactions per second, each with one business row of 200 bytes and one message or a batch of 100. *ours+relay*: with a concurrent relay that delivers the messages.",
    ),
    ("relays", "Several relays", ""),
    ("idle", "A relay with nothing to do", ""),
    ("memory", "Memory", "Peak resident memory of a process that contains only a relay."),
    (
        "instructions",
        "Instructions",
        "Instructions of the engine alone, with store and publisher in memory, counted by callgrind.",
    ),
];

/// Scenarios whose figures are described once for the plot instead of individually.
const PLOTTED: [&str; 3] = ["drain", "relays", "held-snapshot"];

pub(super) fn write(page: &Path, machine: &str, lines: &[Line], failures: &[(String, String)]) -> Result<()> {
    let folder = page.parent().unwrap_or(Path::new("."));
    let plots = folder.join("benchmarks");
    fs::create_dir_all(&plots).with_context(|| plots.display().to_string())?;
    let mut text = format!("{INTRODUCTION}## Machine\n\n{machine}\n## Goals\n\n{}\n", goals::table(lines));
    if let Ok(remarks) = fs::read_to_string(folder.join("benchmarks-remarks.md")) {
        text.push_str(&remarks);
        text.push('\n');
    }
    for (step, error) in failures {
        text.push_str(&format!("**{step} could not be measured:** {error}\n\n"));
    }
    for (scenario, title, about) in SCENARIOS {
        let of_scenario: Vec<&Line> = lines.iter().filter(|line| line.scenario == scenario).collect();
        if of_scenario.is_empty() {
            continue;
        }
        text.push_str(&format!("## {title}\n\n"));
        if !about.is_empty() {
            text.push_str(&format!("{about}\n\n"));
        }
        if PLOTTED.contains(&scenario) {
            for (name, picture) in pictures(scenario, &of_scenario) {
                fs::write(plots.join(format!("{name}.svg")), picture)?;
                text.push_str(&format!("![{name}](benchmarks/{name}.svg)\n\n"));
            }
        }
        text.push_str(&table(&of_scenario));
        text.push('\n');
    }
    fs::write(page, text).with_context(|| page.display().to_string())
}

/// One plot for each store, publisher and kind of data, if there are several bars to compare.
fn pictures(scenario: &str, lines: &[&Line]) -> Vec<(String, String)> {
    let mut groups: BTreeMap<String, Vec<&Line>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.metric == "rate") {
        let parts = ["store", "publisher", "payload", "data"]
            .map(|name| line.case.get(name).map_or(String::new(), plain));
        let name = [vec![scenario.to_owned()], parts.to_vec()].concat().join("-");
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let name: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
        groups.entry(name.join("-")).or_default().push(line);
    }
    groups.retain(|_, lines| lines.len() > 1);
    let picture = |(name, lines): (String, Vec<&Line>)| {
        let bar = |line: &&Line| {
            let apart = ["relays", "held"]
                .into_iter()
                .filter_map(|name| line.case.get(name).map(|value| format!(", {name} {}", plain(value))));
            Bar {
                label: format!("{}{}", line.contender, apart.collect::<String>()),
                median: line.summary.median,
                min: line.summary.min,
                max: line.summary.max,
            }
        };
        let mut bars: Vec<Bar> = lines.iter().map(bar).collect();
        bars.sort_by(|a, b| b.median.total_cmp(&a.median));
        let svg = svg::bars(&name.replace('-', " "), "messages/s", &bars);
        (name, svg)
    };
    groups.into_iter().map(picture).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One row per line, with a column for each circumstance that any of them has.
fn table(lines: &[&Line]) -> String {
    let mut names: Vec<&String> = lines.iter().flat_map(|line| line.case.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let heads: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let mut text = format!(
        "| {} | contender | metric | median | least – greatest | unit | in relation to others |\n|{}\n",
        heads.join(" | "),
        " --- |".repeat(heads.len() + 6)
    );
    for line in lines {
        let case: Vec<String> =
            names.iter().map(|name| line.case.get(*name).map_or(String::new(), plain)).collect();
        let against: Vec<String> = line
            .against
            .iter()
            .map(|against| {
                let ratio = &against.ratio;
                let (least, most) = (short(ratio.min), short(ratio.max));
                format!("**{}** of {} ({least} – {most})", short(ratio.median), against.contender)
            })
            .collect();
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} – {} | {} | {} |\n",
            case.join(" | "),
            line.contender,
            line.metric,
            short(line.summary.median),
            short(line.summary.min),
            short(line.summary.max),
            line.unit,
            against.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::Arguments;

    #[test]
    fn a_page_has_figures_goals_and_plots() {
        let common = Arguments::parse_from(["outbox-bench", "drain"]).common;
        let line = |contender: &str, rate: f64| {
            let line = Line::new("drain", "rate", "messages/s", contender, &common, &[rate, rate * 1.1]);
            line.with("store", "postgres").with("publisher", "noop")
        };
        let floor = [100_000.0, 120_000.0];
        let lines = [line("ours", 70_000.0).against("floor", &floor), line("floor", 100_000.0)];
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("benchmarks.md");
        let failures = [("drain-x".to_owned(), "no server".to_owned())];
        write(&page, "- Processor: one\n", &lines, &failures).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        for part in [
            "- Processor: one",
            "| drain PostgreSQL to nothing, of its floor | at least 0.6 | 0.671 | met |",
            "drain-x could not be measured:** no server",
            "(benchmarks/drain-postgres-noop-200-tmpfs.svg)",
            "| tmpfs | 200 | noop | postgres | ours | rate | 73500 | 70000 – 77000 | messages/s |",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(folder.path().join("benchmarks/drain-postgres-noop-200-tmpfs.svg").exists());
    }
}
