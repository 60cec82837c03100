//! Several processes on one file. The others are this test binary, started again to run one "test" that does
//! nothing unless it is told to by the environment.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Database, eventually, message, options, reader_of, settle, topics};
use outbox_core::{Content, Message, Partition, RelayId, Settlement, Store};
use outbox_sqlite::{Config, Outbox, SqliteStore};

const ROLE: &str = "OUTBOX_SQLITE_TEST_ROLE";
const FILE: &str = "OUTBOX_SQLITE_TEST_FILE";
const NUMBER: &str = "OUTBOX_SQLITE_TEST_NUMBER";

/// A lease that does not end during a test by itself.
const LEASE: Duration = Duration::from_secs(3600);

/// Messages per writing process, in transactions of ten of which every fourth is rolled back.
const MESSAGES: usize = 1_000;

fn start(role: &str, database: &Database, number: usize) -> Killed {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process", "--nocapture"])
        .env(ROLE, role)
        .env(FILE, database.path())
        .env(NUMBER, number.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Killed(child)
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Killed {
    fn succeeded(&mut self) -> Option<bool> {
        self.0.try_wait().unwrap().map(|status| status.success())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other process.
#[tokio::test]
async fn another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var_os(FILE).unwrap());
    let number: usize = std::env::var(NUMBER).unwrap().parse().unwrap();
    let pool = options(path).open().await.unwrap();
    let outbox = Outbox::new(Config::new()).unwrap();
    outbox.migrate(&pool).await.unwrap();
    match role.as_str() {
        "write" => {
            for first in (0..MESSAGES).step_by(10) {
                let keep = (first / 10) % 4 != 3;
                let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
                for n in first..first + 10 {
                    let topic = if keep { "kept" } else { "rolled back" };
                    let message =
                        Message::bytes(topic, n.to_string()).key(format!("writer {number}")).build().unwrap();
                    outbox.enqueue(&mut *transaction, &message).await.unwrap();
                }
                if keep {
                    transaction.commit().await.unwrap();
                } else {
                    transaction.rollback().await.unwrap();
                }
            }
        }
        "die" => {
            outbox.enqueue(&pool, &message("committed", None)).await.unwrap();
            let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
            outbox.enqueue(&mut *transaction, &message("uncommitted", None)).await.unwrap();
            // Until it is killed, with the write lock in its hands.
            std::future::pending::<()>().await;
        }
        "relay" => {
            let store = SqliteStore::new(pool, Config::new()).unwrap();
            let relay = RelayId::new();
            loop {
                store.heartbeat(relay, LEASE).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        role => panic!("no such role: {role}"),
    }
}

#[tokio::test]
async fn what_other_processes_enqueue_arrives_once_and_in_order() {
    let database = Database::new().await;
    let store = database.store();
    let (relay, mut reader) = common::relay(&store).await;
    let mut writers: Vec<_> = (0..3).map(|number| start("write", &database, number)).collect();

    let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut running = true;
    eventually("all writers have ended and all is read", async || {
        let before = running;
        running = writers.iter_mut().any(|writer| {
            let ended = writer.succeeded();
            assert_ne!(ended, Some(false), "a writer failed");
            ended.is_none()
        });
        let rows = reader.fetch(common::ALL, &[]).await.unwrap().rows;
        for row in &rows {
            let Content::Message(message) = &row.content else { panic!("{row:?}") };
            assert_eq!(message.topic(), "kept");
            let number = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
            seen.entry(message.key().unwrap().to_owned()).or_default().push(number);
        }
        let batch: Vec<_> = rows.iter().map(|row| settle(row, Settlement::Delivered)).collect();
        store.settle(relay, &batch, false).await.unwrap();
        // One more fetch after the last writer has ended.
        !running && !before && rows.is_empty()
    })
    .await;

    let kept: Vec<usize> = (0..MESSAGES).filter(|n| (n / 10) % 4 != 3).collect();
    assert_eq!(seen.len(), 3);
    for (writer, numbers) in seen {
        assert_eq!(numbers, kept, "{writer}");
    }
    assert_eq!(database.number("SELECT count(*) FROM outbox_message").await, 0);
}

#[tokio::test]
async fn a_process_killed_inside_a_transaction_leaves_nothing_of_it() {
    let database = Database::new().await;
    let store = database.store();
    let mut reader = reader_of(&store, (0..16).map(Partition));
    let child = start("die", &database, 0);
    // Once it holds the write lock, a writer without patience is refused.
    let hasty = options(database.path()).busy_timeout(Duration::from_millis(1)).open().await.unwrap();
    eventually("the other process holds the lock", async || {
        database.number("SELECT count(*) FROM outbox_message").await == 1
            && hasty.begin_with("BEGIN IMMEDIATE").await.is_err()
    })
    .await;
    drop(child);

    database.enqueue("after", None).await;
    assert_eq!(topics(&common::fetch(&mut reader).await.rows), ["committed", "after"]);
}

#[tokio::test]
async fn partitions_of_a_killed_relay_are_taken_over() {
    let database = Database::new().await;
    let store = database.store();
    let child = start("relay", &database, 0);
    eventually("the other relay owns everything", async || {
        database.number("SELECT count(*) FROM outbox_lease WHERE owner IS NOT NULL").await == 16
    })
    .await;
    let relay = RelayId::new();
    let membership = store.heartbeat(relay, LEASE).await.unwrap();
    assert_eq!((membership.relays, membership.share, membership.owned.len()), (2, 8, 0));

    drop(child);
    let membership = store.heartbeat(relay, LEASE).await.unwrap();
    assert_eq!(membership.owned.len(), 0, "its leases outlive it");
    // As if the lease had passed since its last heartbeat.
    let passed = LEASE.as_micros();
    for table in ["outbox_lease", "outbox_relay"] {
        database.execute(&format!("UPDATE {table} SET expires_at = expires_at - {passed}")).await;
    }
    let membership = store.heartbeat(relay, LEASE).await.unwrap();
    assert_eq!((membership.relays, membership.share, membership.owned.len()), (1, 16, 16));
}

#[tokio::test]
async fn several_processes_may_make_the_tables() {
    let directory = tempfile::tempdir().unwrap();
    let pool = options(directory.path().join("unused.db")).open().await.unwrap();
    // The file of `path()` does not exist yet.
    let database = Database { directory, pool, outbox: Outbox::new(Config::new()).unwrap() };
    let mut children: Vec<_> = (0..6).map(|number| start("write", &database, number)).collect();
    eventually("all have ended", async || {
        let ended: Vec<_> = children.iter_mut().map(Killed::succeeded).collect();
        assert!(!ended.contains(&Some(false)), "one of them failed");
        ended.iter().all(Option::is_some)
    })
    .await;
    let store = database.outbox.store(database.open().await);
    assert_eq!(store.stats(10_000).await.unwrap().backlog.value, 6 * 750);
}
