//! Writing messages: atomic with the caller's work, in order, from any language.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{ALL, DEADLINE, Database, fetch, message, reader_of, relay, topics};
use outbox_core::{Content, Error, ErrorKind, Message, Options, Timestamp, Trace, TraceContext};
use outbox_sqlite::{Config, Outbox, SqliteStore};
use proptest::prelude::*;
use sqlx::Row;

#[tokio::test]
async fn a_message_shares_the_fate_of_its_transaction() {
    let database = Database::new().await;
    database.execute("CREATE TABLE orders (id INTEGER)").await;
    let (_, mut reader) = relay(&database.store()).await;

    let mut transaction = database.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO orders VALUES (1)").execute(&mut *transaction).await.unwrap();
    database.outbox.enqueue(&mut *transaction, &message("rolled-back", None)).await.unwrap();
    assert!(fetch(&mut reader).await.rows.is_empty(), "seen before the commit");
    transaction.rollback().await.unwrap();

    let mut transaction = database.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO orders VALUES (2)").execute(&mut *transaction).await.unwrap();
    database.outbox.enqueue(&mut *transaction, &message("committed", None)).await.unwrap();
    transaction.commit().await.unwrap();

    assert_eq!(topics(&fetch(&mut reader).await.rows), ["committed"]);
    assert_eq!(database.number("SELECT sum(id) FROM orders").await, 2);
}

#[tokio::test]
async fn every_executor_will_do() {
    let database = Database::new().await;
    let mut connection = database.pool.acquire().await.unwrap();
    database.outbox.enqueue(&mut *connection, &message("connection", None)).await.unwrap();
    drop(connection);
    database.outbox.enqueue(&database.pool, &message("pool", None)).await.unwrap();
    database.outbox.enqueue_batch(&database.pool, &[]).await.unwrap();
    database.outbox.enqueue_batch(&database.pool, &[message("batch", None)]).await.unwrap();
    let (_, mut reader) = relay(&database.store()).await;
    assert_eq!(topics(&fetch(&mut reader).await.rows), ["connection", "pool", "batch"]);
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_its_bytes() {
    let database = Database::new().await;
    let messages: Vec<Message> = (0..20_000_u32)
        .map(|n| {
            let payload: Vec<u8> = n.to_le_bytes().repeat(n as usize % 5);
            Message::bytes("t", payload).key(format!("k{}", n % 7)).build().unwrap()
        })
        .collect();
    database.outbox.enqueue_batch(&database.pool, &messages).await.unwrap();
    let rows =
        sqlx::query("SELECT message_id, payload, typeof(payload) FROM outbox_message ORDER BY position")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    assert_eq!(rows.len(), messages.len());
    for (row, message) in rows.iter().zip(&messages) {
        assert_eq!(row.get::<String, _>(0), message.id().to_string());
        assert_eq!(row.get::<Vec<u8>, _>(1), message.payload().as_ref());
        assert_eq!(row.get::<String, _>(2), "blob");
    }
}

#[tokio::test]
async fn a_batch_of_empty_payloads_is_no_special_case() {
    let database = Database::new().await;
    let empty = [(); 3].map(|()| Message::bytes("t", "").build().unwrap());
    database.outbox.enqueue_batch(&database.pool, &empty).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM outbox_message WHERE payload = x''").await, 3);
}

#[tokio::test]
async fn a_batch_on_a_pool_is_written_as_a_whole_or_not_at_all() {
    let database = Database::new().await;
    // The third message makes the statement fail.
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON outbox_message WHEN new.topic = 'bad' \
             BEGIN SELECT raise(ABORT, 'refused'); END",
        )
        .await;
    let batch = ["a", "b", "bad", "c"].map(|topic| message(topic, None));
    let error = database.outbox.enqueue_batch(&database.pool, &batch).await.unwrap_err();
    assert!(error.report().contains("refused"), "{}", error.report());
    assert_eq!(database.number("SELECT count(*) FROM outbox_message").await, 0);
}

#[tokio::test]
async fn a_transaction_commits_or_rolls_back_with_its_closure() {
    let database = Arc::new(Database::new().await);
    // On another task, so that the future has to be `Send`.
    let shared = Arc::clone(&database);
    let task = tokio::spawn(async move {
        let outbox = &shared.outbox;
        outbox
            .transaction(&shared.pool, async |connection| {
                outbox.enqueue(&mut *connection, &message("kept", None)).await?;
                outbox.enqueue(connection, &message("kept too", None)).await
            })
            .await
    });
    task.await.unwrap().unwrap();

    let outbox = &database.outbox;
    let failed: Result<(), Error> = outbox
        .transaction(&database.pool, async |connection| {
            outbox.enqueue(connection, &message("lost", None)).await?;
            Err(Error::new(ErrorKind::Internal, "changed my mind"))
        })
        .await;
    assert!(failed.unwrap_err().to_string().contains("changed my mind"));

    let shared = Arc::clone(&database);
    let panicked = tokio::spawn(async move {
        let outbox = &shared.outbox;
        let work: Result<(), Error> = outbox
            .transaction(&shared.pool, async |connection| {
                outbox.enqueue(connection, &message("lost", None)).await?;
                panic!("in the middle");
            })
            .await;
        work
    });
    assert!(panicked.await.unwrap_err().is_panic());

    // Nobody holds the write lock, and nothing of the others is there.
    outbox.enqueue(&database.pool, &message("after", None)).await.unwrap();
    let (_, mut reader) = relay(&database.store()).await;
    assert_eq!(topics(&fetch(&mut reader).await.rows), ["kept", "kept too", "after"]);
}

#[tokio::test]
async fn a_cancelled_transaction_leaves_no_trace_at_any_point() {
    let database = Database::new().await;
    let outbox = &database.outbox;
    // Somebody holds the write lock, so that BEGIN IMMEDIATE waits and is dropped while it does.
    let blocker = database.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    {
        let waiting = outbox.transaction(&database.pool, async |connection| {
            outbox.enqueue(connection, &message("cancelled", None)).await
        });
        assert!(tokio::time::timeout(Duration::from_millis(30), waiting).await.is_err());
    }
    blocker.rollback().await.unwrap();
    // Dropped in the middle of its work.
    {
        let stuck = outbox.transaction(&database.pool, async |connection| {
            outbox.enqueue(connection, &message("cancelled", None)).await?;
            std::future::pending::<Result<(), Error>>().await
        });
        assert!(tokio::time::timeout(Duration::from_millis(100), stuck).await.is_err());
    }
    // More often than the pool has connections, so that each of them is seen.
    for _ in 0..20 {
        outbox
            .transaction(&database.pool, async |connection| {
                outbox.enqueue(connection, &message("fine", None)).await
            })
            .await
            .unwrap();
    }
    assert_eq!(database.number("SELECT count(*) FROM outbox_message WHERE topic = 'cancelled'").await, 0);
    assert_eq!(database.number("SELECT count(*) FROM outbox_message").await, 20);
}

#[tokio::test]
async fn a_transaction_that_sqlite_itself_rolls_back_spoils_no_connection() {
    let database = Database::new().await;
    let outbox = &database.outbox;
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON outbox_message WHEN new.topic = 'bad' \
             BEGIN SELECT raise(ROLLBACK, 'rolled back'); END",
        )
        .await;
    for _ in 0..20 {
        let refused = outbox
            .transaction(&database.pool, async |connection| {
                outbox.enqueue(connection, &message("bad", None)).await
            })
            .await;
        assert!(refused.unwrap_err().report().contains("rolled back"));
    }
    outbox
        .transaction(&database.pool, async |connection| {
            outbox.enqueue(connection, &message("good", None)).await
        })
        .await
        .unwrap();
    let (_, mut reader) = relay(&database.store()).await;
    assert_eq!(topics(&fetch(&mut reader).await.rows), ["good"]);
}

struct Tracer;

impl TraceContext for Tracer {
    fn current(&self) -> Option<Trace> {
        Some(Trace { parent: "00-aa-bb-01".to_owned(), state: Some("v=1".to_owned()) })
    }
}

#[tokio::test]
async fn the_active_trace_travels_along() {
    let database = Database::new().await;
    let outbox = database.outbox.clone().with_trace_context(Arc::new(Tracer));
    outbox.enqueue(&database.pool, &message("one", None)).await.unwrap();
    outbox.enqueue_batch(&database.pool, &[message("two", None)]).await.unwrap();
    let (_, mut reader) = relay(&database.store()).await;
    for row in fetch(&mut reader).await.rows {
        let Content::Message(message) = row.content else { panic!("{row:?}") };
        assert_eq!(message.headers()["traceparent"], "00-aa-bb-01");
        assert_eq!(message.headers()["tracestate"], "v=1");
    }
}

#[tokio::test]
async fn the_insert_statement_works_for_other_drivers() {
    let database = Database::new().await;
    sqlx::query(sqlx::AssertSqlSafe(database.outbox.insert_sql().to_owned()))
        .bind("018f4d2e-7b1a-7c3d-9e5f-0123456789ab")
        .bind("t")
        .bind(None::<String>)
        .bind(vec![0_u8, 255])
        .bind("text/plain")
        .bind(r#"{"a":"b"}"#)
        .bind("{}")
        .bind(None::<i64>)
        .execute(&database.pool)
        .await
        .unwrap();
    let (_, mut reader) = relay(&database.store()).await;
    let rows = fetch(&mut reader).await.rows;
    let Content::Message(message) = &rows[0].content else { panic!("{rows:?}") };
    assert_eq!(message.id().to_string(), "018f4d2e-7b1a-7c3d-9e5f-0123456789ab");
    assert_eq!((message.content_type(), message.headers()["a"].as_str()), (Some("text/plain"), "b"));
}

/// Runs another program on the database file; says whether the program is there.
fn foreign(database: &Database, program: &str, arguments: &[&str], input: &str) -> bool {
    use std::io::Write;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(database.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: {program} is not installed; on Debian, apt-get install {program}");
            assert!(
                !std::env::var("OUTBOX_TEST_REQUIRE")
                    .unwrap_or_default()
                    .split(',')
                    .any(|name| name == program),
                "OUTBOX_TEST_REQUIRE names {program}, which is not installed"
            );
            return false;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

#[tokio::test]
async fn a_plain_insert_with_the_command_line_is_enough() {
    let database = Database::new().await;
    let sql = "INSERT INTO outbox_message (topic, payload) VALUES ('from-the-shell', x'00ff');";
    if !foreign(&database, "sqlite3", &["-bail"], sql) {
        return;
    }
    let (_, mut reader) = relay(&database.store()).await;
    let rows = fetch(&mut reader).await.rows;
    let Content::Message(message) = &rows[0].content else { panic!("{rows:?}") };
    assert_eq!(message.topic(), "from-the-shell");
    assert_eq!(message.payload().as_ref(), b"\x00\xff");
    assert_eq!(message.id().as_uuid().get_version_num(), 4);
    assert!(rows[0].age < DEADLINE);
}

#[tokio::test]
async fn a_plain_insert_from_python_is_enough() {
    let database = Database::new().await;
    let script = r#"
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60)
with connection:
    for n in range(100):
        connection.execute(
            "INSERT INTO outbox_message (topic, key, payload, content_type, headers) VALUES (?, ?, ?, ?, ?)",
            ("orders", f"order-{n % 10}", json.dumps({"n": n}).encode(), "application/json", json.dumps({"h": "é"})),
        )
"#;
    if !foreign(&database, "python3", &["-c", script], "") {
        return;
    }
    let (_, mut reader) = relay(&database.store()).await;
    let rows = fetch(&mut reader).await.rows;
    assert_eq!(rows.len(), 100);
    for (n, row) in rows.iter().enumerate() {
        let Content::Message(message) = &row.content else { panic!("{row:?}") };
        assert_eq!(message.payload().as_ref(), format!(r#"{{"n": {n}}}"#).as_bytes());
        assert_eq!(message.headers()["h"], "é");
        assert_eq!(message.key(), Some(format!("order-{}", n % 10).as_str()));
    }
}

#[tokio::test]
async fn the_ddl_can_be_run_by_the_command_line_and_run_again() {
    let database = Database::new().await;
    let other = Outbox::new(Config::new().prefix("other").partitions(4)).unwrap();
    if !foreign(&database, "sqlite3", &["-bail"], &format!("BEGIN;{0}{0}COMMIT;", other.ddl())) {
        return;
    }
    other.migrate(&database.pool).await.unwrap();
    other.enqueue(&database.pool, &message("t", None)).await.unwrap();
    let store = SqliteStore::new(database.pool.clone(), Config::new().prefix("other")).unwrap();
    let (_, mut reader) = relay(&store).await;
    assert_eq!(fetch(&mut reader).await.rows.len(), 1);
    assert_eq!(database.number("SELECT count(*) FROM outbox_message").await, 0);
}

fn any_message() -> impl Strategy<Value = Message> {
    let text = || "[^\u{0}]{1,20}";
    (
        text(),
        prop::option::of("[^\u{0}]{0,20}"),
        prop::collection::vec(any::<u8>(), 0..200),
        prop::option::of("[^\u{0}]{0,20}"),
        prop::collection::btree_map(text(), "[^\u{0}]{0,20}", 0..4),
        prop::collection::vec(("[ -~]{1,8}", any::<String>()), 0..3),
    )
        .prop_map(|(topic, key, payload, content_type, headers, options)| {
            let options = options.into_iter().map(|(name, value)| (name, value.into())).collect();
            let mut builder =
                Message::bytes(topic, payload).headers(headers).raw_options(Options::from_json(options));
            if let Some(key) = key {
                builder = builder.key(key);
            }
            if let Some(content_type) = content_type {
                builder = builder.content_type(content_type);
            }
            builder.build().unwrap()
        })
}

#[test]
fn whatever_a_message_holds_comes_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Database::new());
    let strategy = prop::collection::vec(any_message(), 1..8);
    proptest!(ProptestConfig::with_cases(64), |(messages in strategy)| {
        let found = runtime.block_on(async {
            database.execute("DELETE FROM outbox_message").await;
            database.outbox.enqueue(&database.pool, &messages[0]).await.unwrap();
            database.outbox.enqueue_batch(&database.pool, &messages[1..]).await.unwrap();
            let store = database.store();
            let mut reader = reader_of(&store, (0..16).map(outbox_core::Partition));
            reader.fetch(ALL, &[]).await.unwrap()
        });
        let found: Vec<_> = found.rows.into_iter().map(|row| row.content).collect();
        prop_assert_eq!(found.len(), messages.len());
        for (found, message) in found.iter().zip(&messages) {
            match found {
                Content::Message(found) => prop_assert_eq!(found, message),
                Content::Malformed { reason, .. } => prop_assert!(false, "{}", reason),
            }
        }
    });
}

#[tokio::test]
async fn the_end_of_time_is_a_time_like_others() {
    let database = Database::new().await;
    let message = Message::bytes("t", "x").deliver_at(Timestamp::from_micros(i64::MAX)).build().unwrap();
    database.outbox.enqueue(&database.pool, &message).await.unwrap();
    let store = database.store();
    let (_, mut reader) = relay(&store).await;
    let batch = fetch(&mut reader).await;
    assert!(batch.rows.is_empty() && batch.next_due.is_some(), "scheduled, not held: {batch:?}");
}
