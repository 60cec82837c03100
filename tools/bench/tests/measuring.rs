//! The program measures, and refuses a run that is not correct.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Parser;
use integration_tests::{Postgres, Server};
use outbox_bench::contenders::{Contender, Floor};
use outbox_bench::databases::{Database, OnSqlite, Table};
use outbox_bench::options::Arguments;
use outbox_bench::scenarios::drain;
use outbox_bench::verify::Watched;
use outbox_core::{Message, Publisher};
use serde_json::Value;

const MESSAGES: usize = 2_000;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-bench"));
    command.args(arguments).args(["--json", "--rounds", "2", "--keys", "100"]);
    command.args(["--messages", &MESSAGES.to_string()]);
    command.output().unwrap()
}

/// The lines that a run printed.
fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check_drain(lines: &[Value], store: &str) {
    let mut contenders: Vec<&str> = lines.iter().map(|line| line["contender"].as_str().unwrap()).collect();
    contenders.sort_unstable();
    assert_eq!(contenders, ["claim", "floor", "naive", "ours"]);
    for line in lines {
        assert_eq!((line["scenario"].as_str(), line["metric"].as_str()), (Some("drain"), Some("rate")));
        assert_eq!(line["case"]["store"], store);
        assert_eq!(line["case"]["data"], "tmpfs");
        let number = |name: &str| line[name].as_f64().unwrap();
        let (min, median, max) = (number("min"), number("median"), number("max"));
        assert!(0.0 < min && min <= median && median <= max && max < 1e7, "{line}");
        assert_eq!(line["rounds"].as_array().unwrap().len(), 2);
        if line["contender"] == "ours" {
            assert_eq!(line["against"].as_array().unwrap().len(), 3);
        }
    }
}

#[test]
fn sqlite_is_drained_and_measured() {
    check_drain(&lines(&bench(&["drain", "--store", "sqlite"])), "sqlite");
}

#[tokio::test]
async fn postgres_is_drained_and_measured() {
    // Is skipped, or fails, as everywhere if there is no server.
    let Some(_) = Postgres::shared().await else { return };
    let output = tokio::task::spawn_blocking(|| bench(&["drain", "--store", "postgres"])).await.unwrap();
    check_drain(&lines(&output), "postgres");
}

/// The defect of a broken contender: its change to a batch before publishing.
#[derive(Clone, Copy)]
struct Broken(fn(&mut Vec<Message>));

#[async_trait]
impl Contender for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn table(&self) -> Table {
        Table::Plain
    }

    async fn drain(&self, database: Arc<dyn Database>, publisher: Arc<Watched>) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let (mut cursor, mut first) = (0, true);
        loop {
            let rows = database.read_after(cursor, 100).await?;
            let Some((last, _)) = rows.last() else { return Ok(started.elapsed()) };
            cursor = *last;
            let (ids, mut messages): (Vec<i64>, Vec<Message>) = rows.into_iter().unzip();
            if std::mem::take(&mut first) {
                self.0(&mut messages);
            }
            publisher.publish(&messages).await;
            database.delete(Table::Plain, ids).await?;
        }
    }
}

async fn outcome(contender: Arc<dyn Contender>) -> anyhow::Result<()> {
    let database = OnSqlite::start(Path::new("/dev/shm")).await.unwrap();
    let arguments = ["outbox-bench", "drain", "--json", "--rounds", "1", "--messages", "500", "--keys", "10"];
    let common = Arguments::parse_from(arguments).common;
    drain::compare(&common, &[contender], Arc::new(database), None).await
}

#[tokio::test]
async fn a_run_that_loses_repeats_or_reorders_gives_no_figure() {
    outcome(Arc::new(Floor)).await.expect("the floor is right");
    type Spoil = fn(&mut Vec<Message>);
    let cases: [(&str, Spoil); 3] = [
        ("lost", |batch| drop(batch.remove(7))),
        ("duplicates", |batch| batch.push(batch[99].clone())),
        ("overtaken", |batch| batch.swap(5, 15)),
    ];
    for (word, breaks) in cases {
        let error = outcome(Arc::new(Broken(breaks))).await.expect_err("a broken run gives no figure");
        let text = format!("{error:#}");
        assert!(text.contains("no figure") && text.contains(word), "{word}: {text}");
    }
}
