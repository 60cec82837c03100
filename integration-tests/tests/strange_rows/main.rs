//! Rows that other programs could have written. The files next to this one contain them, one per line:
//!
//! ```text
//! name | what becomes of it | columns | values
//! ```
//!
//! Each is written by a plain INSERT between other messages while a relay runs. It is `delivered`, or it is
//! `dead` with a reason that contains the given text, or it `waits` for a distant time, or the database has
//! `refused` it. In each case the messages around it arrive, and the relay continues. `$name` stands for the
//! name, as a string; if it is the payload of a delivered row, the test searches for it among the arrived
//! messages. The broker refuses messages to the topic `refuses`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration_tests::{MariaDb, MySql, Postgres, PostgresNext, Server, eventually, mysql, postgres};
use outbox_core::memory::MemoryPublisher;
use outbox_core::{
    DeadLetterFilter, Error, ErrorKind, Message, Outcome, Publisher, PublisherCapabilities, Relay, Result,
    RetryPolicy, Store,
};
use sqlx::AssertSqlSafe;

const DEADLINE: Duration = Duration::from_secs(300);
const COUNT: u64 = 10_000;

/// The result for a row.
#[derive(Debug, PartialEq, Eq)]
enum Fate<'t> {
    Delivered,
    Dead(&'t str),
    Waits,
    Refused,
}

#[derive(Debug)]
struct Row<'t> {
    name: &'t str,
    fate: Fate<'t>,
    columns: &'t str,
    values: String,
}

fn parse(corpus: &str) -> Vec<Row<'_>> {
    let lines = corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<_> = line.splitn(4, " | ").collect();
            let [name, fate, columns, values] = fields[..] else { panic!("not four fields: {line}") };
            let fate = match fate.split_once(' ').unwrap_or((fate, "")) {
                ("delivered", "") => Fate::Delivered,
                ("dead", mentions) if !mentions.is_empty() => Fate::Dead(mentions),
                ("waits", "") => Fate::Waits,
                ("refused", "") => Fate::Refused,
                _ => panic!("no such fate: {line}"),
            };
            Row { name, fate, columns, values: values.replace("$name", &format!("'{name}'")) }
        })
        .collect()
}

/// A database of rows.
#[async_trait]
trait Rows: Send + Sync {
    async fn run(&self, sql: String) -> std::result::Result<(), String>;
    async fn enqueue(&self, message: &Message) -> Result<()>;
    fn store(&self) -> Arc<dyn Store>;
}

/// A broker that refuses one topic.
#[derive(Clone)]
struct Picky(MemoryPublisher);

#[async_trait]
impl Publisher for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.0.capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for message in batch {
            outcomes.push(match message.topic() {
                "refuses" => Err(Error::new(ErrorKind::Rejected, "refused by the broker")),
                _ => self.0.publish(std::slice::from_ref(message)).await.remove(0),
            });
        }
        outcomes
    }
}

impl Row<'_> {
    fn insert(&self) -> String {
        format!("INSERT INTO outbox_message ({}) VALUES ({})", self.columns, self.values)
    }
}

/// Each row alone, so that a statement about the oldest row is about this row.
async fn none_stops_who_looks(rows: &dyn Rows, store: &dyn Store, corpus: &[Row<'_>]) {
    let inspection = store.inspection().unwrap();
    for row in corpus.iter().filter(|row| row.fate != Fate::Refused) {
        rows.run(row.insert()).await.unwrap();
        let stats = store.stats(COUNT).await.unwrap_or_else(|error| panic!("{row:?}: {}", error.report()));
        assert_eq!(stats.backlog.value, 1, "{row:?}");
        let waiting =
            inspection.peek(None, 10).await.unwrap_or_else(|error| panic!("{row:?}: {}", error.report()));
        assert_eq!(waiting.unwrap().len(), 1, "{row:?}");
        rows.run("DELETE FROM outbox_message".to_owned()).await.unwrap();
    }
}

async fn none_stops_the_relay(rows: &dyn Rows, corpus: &str) {
    let corpus = parse(corpus);
    let store = rows.store();
    none_stops_who_looks(rows, &*store, &corpus).await;
    let broker = MemoryPublisher::new();
    let relay = Relay::builder(rows.store(), Picky(broker.clone()))
        .configure(|settings| {
            settings.poll_interval = Duration::from_millis(50);
            settings.retry = RetryPolicy::default().max_attempts(3).initial(Duration::from_millis(5));
        })
        .build()
        .unwrap()
        .spawn();

    let mut wanted = BTreeSet::new();
    let neighbour = async |name: String| {
        let key = format!("neighbour {}", name.len() % 5);
        rows.enqueue(&Message::bytes("orders", name.clone()).key(key).build().unwrap()).await.unwrap();
        name
    };
    let (mut delivered, mut reasons, mut waiting) = (0, Vec::new(), 0);
    for row in &corpus {
        wanted.insert(neighbour(format!("before {}", row.name)).await);
        let written = rows.run(row.insert()).await;
        match (&row.fate, written) {
            (Fate::Refused, Err(_)) => {}
            (Fate::Refused, Ok(())) => panic!("{row:?} should have been refused"),
            (_, Err(error)) => panic!("{row:?} was refused: {error}"),
            (Fate::Delivered, Ok(())) => {
                delivered += 1;
                if row.values.contains(&format!("'{}'", row.name)) {
                    wanted.insert(row.name.to_owned());
                }
            }
            (Fate::Dead(mentions), Ok(())) => reasons.push((row.name, *mentions)),
            (Fate::Waits, Ok(())) => waiting += 1,
        }
        wanted.insert(neighbour(format!("after {}", row.name)).await);
    }

    let counts = async || {
        let stats = store.stats(COUNT).await.unwrap();
        (stats.backlog.value, stats.dead_letters.value)
    };
    let expected = (waiting, reasons.len() as u64);
    let mut last = (0, 0);
    let told = tokio::time::timeout(DEADLINE, async {
        while last != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = counts().await;
        }
    });
    let told = told.await;
    let letters = store.dead_letters().unwrap();
    let listed = letters.list(&DeadLetterFilter::all(), None, COUNT as usize).await.unwrap();
    let errors: Vec<_> = listed.iter().map(|letter| letter.error.as_str()).collect();
    assert!(told.is_ok(), "undelivered and dead are {last:?} and not {expected:?}; dead of: {errors:#?}");
    for ((name, mentions), error) in reasons.iter().zip(&errors) {
        assert!(error.contains(mentions), "{name} died of: {error}");
    }
    let published = broker.published();
    assert_eq!(published.len(), 2 * corpus.len() + delivered, "how many were delivered");
    let arrived: BTreeSet<_> =
        published.iter().map(|one| String::from_utf8_lossy(one.message.payload()).into_owned()).collect();
    let missing: Vec<_> = wanted.difference(&arrived).collect();
    assert!(missing.is_empty(), "not delivered: {missing:?}");

    // They can be redriven, and become dead letters again; and they can be discarded.
    let all = DeadLetterFilter::all();
    assert_eq!(letters.redrive(&all, COUNT as usize).await.unwrap(), expected.1);
    eventually("the redriven messages to become dead letters again", DEADLINE, async || {
        (counts().await == expected).then_some(())
    })
    .await;
    assert_eq!(letters.discard(&all, COUNT as usize).await.unwrap(), expected.1);
    eventually("the dead letters to be discarded", DEADLINE, async || {
        (counts().await == (waiting, 0)).then_some(())
    })
    .await;
    relay.shutdown().await.unwrap();
}

struct OnPostgres(sqlx::PgPool, outbox_postgres::Outbox);

#[async_trait]
impl Rows for OnPostgres {
    async fn run(&self, sql: String) -> std::result::Result<(), String> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.0).await.map(drop).map_err(|error| error.to_string())
    }

    async fn enqueue(&self, message: &Message) -> Result<()> {
        self.1.enqueue(&self.0, message).await
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.1.store(self.0.clone()))
    }
}

async fn on_postgres(database: postgres::Database) {
    let outbox = outbox_postgres::Outbox::new(outbox_postgres::Config::new()).unwrap();
    let pool = database.pool(10).await;
    outbox.migrate(&pool).await.unwrap();
    none_stops_the_relay(&OnPostgres(pool, outbox), include_str!("postgres.rows")).await;
}

struct OnMySql(sqlx::MySqlPool, outbox_mysql::Outbox);

#[async_trait]
impl Rows for OnMySql {
    async fn run(&self, sql: String) -> std::result::Result<(), String> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.0).await.map(drop).map_err(|error| error.to_string())
    }

    async fn enqueue(&self, message: &Message) -> Result<()> {
        self.1.enqueue(&self.0, message).await
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.1.store(self.0.clone()))
    }
}

async fn on_mysql(database: mysql::Database) {
    let outbox = outbox_mysql::Outbox::new(outbox_mysql::Config::new()).unwrap();
    let pool = database.pool(10).await;
    outbox.migrate(&pool).await.unwrap();
    none_stops_the_relay(&OnMySql(pool, outbox), include_str!("mysql.rows")).await;
}

struct OnSqlite(sqlx::SqlitePool, outbox_sqlite::Outbox);

#[async_trait]
impl Rows for OnSqlite {
    async fn run(&self, sql: String) -> std::result::Result<(), String> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.0).await.map(drop).map_err(|error| error.to_string())
    }

    async fn enqueue(&self, message: &Message) -> Result<()> {
        self.1.enqueue(&self.0, message).await
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.1.store(self.0.clone()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_stops_the_relay_on_postgres() {
    let Some(server) = Postgres::shared().await else { return };
    on_postgres(server.database().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_stops_the_relay_on_a_newer_postgres() {
    let Some(server) = PostgresNext::shared().await else { return };
    on_postgres(server.database().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_stops_the_relay_on_mariadb() {
    let Some(server) = MariaDb::shared().await else { return };
    on_mysql(server.database().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_stops_the_relay_on_mysql() {
    let Some(server) = MySql::shared().await else { return };
    on_mysql(server.database().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_stops_the_relay_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let options = outbox_sqlite::OpenOptions::new(folder.path().join("rows.db"));
    let pool = options.durability(outbox_sqlite::Durability::Normal).open().await.unwrap();
    let outbox = outbox_sqlite::Outbox::new(outbox_sqlite::Config::new()).unwrap();
    outbox.migrate(&pool).await.unwrap();
    none_stops_the_relay(&OnSqlite(pool, outbox), include_str!("sqlite.rows")).await;
}
