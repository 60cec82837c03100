//! What was aimed at, and whether it was met.

use serde_json::{Value, json};

use crate::line::{Line, short};

/// Which side of the bound is the good one.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal, and the figure that decides it.
#[derive(Clone, Copy, Debug)]
struct Goal {
    text: &'static str,
    bound: Bound,
    figure: fn(&[Line]) -> Option<f64>,
}

/// The lines of our relay that have all of these circumstances.
fn find<'a>(lines: &'a [Line], scenario: &str, metric: &str, case: &[(&str, Value)]) -> Option<&'a Line> {
    lines.iter().find(|line| {
        line.scenario == scenario
            && line.metric == metric
            && line.contender.starts_with("ours")
            && case.iter().all(|(name, value)| line.case.get(*name) == Some(value))
    })
}

fn ratio(lines: &[Line], scenario: &str, metric: &str, to: &str, case: &[(&str, Value)]) -> Option<f64> {
    let line = find(lines, scenario, metric, case)?;
    line.against.iter().find(|against| against.contender == to).map(|against| against.ratio.median)
}

/// Drains of small payloads, with data in memory.
fn drain(lines: &[Line], store: &str, publisher: &str, to: &str) -> Option<f64> {
    let case = [
        ("store", json!(store)),
        ("publisher", json!(publisher)),
        ("payload", json!(200)),
        ("data", json!("tmpfs")),
    ];
    ratio(lines, "drain", "rate", to, &case)
}

fn steady(lines: &[Line], metric: &str) -> Option<f64> {
    ratio(lines, "steady", metric, "floor", &[("store", json!("postgres")), ("percent", json!(10))])
}

fn median(lines: &[Line], scenario: &str, metric: &str, case: &[(&str, Value)]) -> Option<f64> {
    find(lines, scenario, metric, case).map(|line| line.summary.median)
}

/// The most that a relay takes with this payload over the least, among all backlogs.
fn growth(lines: &[Line]) -> Option<f64> {
    let peaks = || {
        lines
            .iter()
            .filter(|line| line.scenario == "memory" && line.case.get("payload") == Some(&json!(1024)))
    };
    let most = peaks().map(|line| line.summary.median).reduce(f64::max)?;
    let least = peaks().map(|line| line.summary.median).reduce(f64::min)?;
    Some(most / least)
}

fn most_memory(lines: &[Line]) -> Option<f64> {
    let peaks = lines
        .iter()
        .filter(|line| line.scenario == "memory" && line.case.get("payload") == Some(&json!(1024)));
    peaks.map(|line| line.summary.max).reduce(f64::max)
}

fn large_backlog(lines: &[Line]) -> Option<f64> {
    lines
        .iter()
        .filter(|line| line.scenario == "backlog")
        .find_map(|line| Some(line.against.first()?.ratio.median))
}

const GOALS: [Goal; 23] = [
    Goal {
        text: "drain PostgreSQL to nothing, of its floor",
        bound: Bound::AtLeast(0.6),
        figure: |l| drain(l, "postgres", "noop", "floor"),
    },
    Goal {
        text: "… of naive",
        bound: Bound::AtLeast(30.0),
        figure: |l| drain(l, "postgres", "noop", "naive"),
    },
    Goal {
        text: "… of claim",
        bound: Bound::AtLeast(2.0),
        figure: |l| drain(l, "postgres", "noop", "claim"),
    },
    Goal {
        text: "drain MariaDB to nothing, of its floor",
        bound: Bound::AtLeast(0.6),
        figure: |l| drain(l, "mariadb", "noop", "floor"),
    },
    Goal {
        text: "drain SQLite to nothing, of its floor",
        bound: Bound::AtLeast(0.6),
        figure: |l| drain(l, "sqlite", "noop", "floor"),
    },
    Goal {
        text: "drain PostgreSQL to a classic queue of RabbitMQ, of the driver from memory",
        bound: Bound::AtLeast(0.8),
        figure: |l| drain(l, "postgres", "amqp-classic", "memory"),
    },
    Goal {
        text: "… to a quorum queue",
        bound: Bound::AtLeast(0.8),
        figure: |l| drain(l, "postgres", "amqp-quorum", "memory"),
    },
    Goal {
        text: "… to a classic queue, of naive",
        bound: Bound::AtLeast(15.0),
        figure: |l| drain(l, "postgres", "amqp-classic", "naive"),
    },
    Goal {
        text: "… to a quorum queue, of naive",
        bound: Bound::AtLeast(15.0),
        figure: |l| drain(l, "postgres", "amqp-quorum", "naive"),
    },
    Goal {
        text: "drain to SQS (emulator), of the client from memory",
        bound: Bound::AtLeast(0.8),
        figure: |l| drain(l, "postgres", "sqs", "memory"),
    },
    Goal {
        text: "drain to Kinesis (emulator), of the client from memory",
        bound: Bound::AtLeast(0.8),
        figure: |l| drain(l, "postgres", "kinesis", "memory"),
    },
    Goal {
        text: "drain while a snapshot is held, of the same without",
        bound: Bound::AtLeast(0.9),
        figure: |l| {
            ratio(
                l,
                "held-snapshot",
                "rate",
                "ours without",
                &[("store", json!("postgres")), ("held", json!(true))],
            )
        },
    },
    Goal { text: "the large backlog, of the small one", bound: Bound::AtLeast(0.9), figure: large_backlog },
    Goal {
        text: "steady at 10 %: p50, of committing and publishing directly",
        bound: Bound::AtMost(2.0),
        figure: |l| steady(l, "p50"),
    },
    Goal { text: "… p99", bound: Bound::AtMost(3.0), figure: |l| steady(l, "p99") },
    Goal {
        text: "from commit to publisher after a pause, p50 in ms, PostgreSQL",
        bound: Bound::AtMost(1.5),
        figure: |l| median(l, "wakeup", "p50", &[("store", json!("postgres"))]),
    },
    Goal {
        text: "enqueue at 16 clients on PostgreSQL, of the bare insert",
        bound: Bound::AtLeast(0.9),
        figure: |l| {
            ratio(
                l,
                "enqueue",
                "rate",
                "bare",
                &[("store", json!("postgres")), ("clients", json!(16)), ("batch", json!(1))],
            )
        },
    },
    Goal {
        text: "idle on PostgreSQL: statements a minute",
        bound: Bound::AtMost(120.0),
        figure: |l| median(l, "idle", "statements", &[("store", json!("postgres"))]),
    },
    Goal {
        text: "idle on PostgreSQL: server's time, % of a core",
        bound: Bound::AtMost(0.3),
        figure: |l| median(l, "idle", "server's time", &[("store", json!("postgres"))]),
    },
    Goal {
        text: "memory: most over least, from the smallest backlog to the largest",
        bound: Bound::AtMost(1.1),
        figure: growth,
    },
    Goal {
        text: "memory: peak in MiB with payloads of 1 KiB",
        bound: Bound::AtMost(64.0),
        figure: most_memory,
    },
    Goal {
        text: "4 relays with a publisher of 10 ms, of one",
        bound: Bound::AtLeast(3.5),
        figure: |l| {
            ratio(
                l,
                "relays",
                "rate",
                "one relay",
                &[("relays", json!(4)), ("publisher", json!("10 ms a call of 10"))],
            )
        },
    },
    Goal {
        text: "16 idle relays: server's time, % of a core",
        bound: Bound::AtMost(2.0),
        figure: |l| median(l, "relays", "idle cost", &[("relays", json!(16))]),
    },
];

/// A table in Markdown, of those that were measured.
pub(super) fn table(lines: &[Line]) -> String {
    let mut text = "| goal | aimed at | measured | |\n| --- | --- | --- | --- |\n".to_owned();
    for Goal { text: goal, bound, figure } in GOALS {
        let Some(measured) = figure(lines) else { continue };
        let (aim, met) = match bound {
            Bound::AtLeast(least) => (format!("at least {least}"), measured >= least),
            Bound::AtMost(most) => (format!("at most {most}"), measured <= most),
        };
        let verdict = if met { "met" } else { "**missed**" };
        text.push_str(&format!("| {goal} | {aim} | {} | {verdict} |\n", short(measured)));
    }
    text
}
