//! Enqueueing, from Rust and from elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use integration_tests::eventually;
use outbox_core::{Content, Message, TRACEPARENT, TRACESTATE, Timestamp, Trace, TraceContext};
use sqlx::{Connection, PgConnection};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use support::{DEADLINE, LIMIT, Scene, message, topics};

#[tokio::test]
async fn every_executor_takes_part_in_its_own_transaction() {
    let Some(scene) = Scene::new().await else { return };
    let count = "SELECT count(*) FROM outbox_message";

    let mut tx = scene.pool.begin().await.unwrap();
    scene.outbox.enqueue(&mut *tx, &message("rolled back", None)).await.unwrap();
    scene.outbox.enqueue_batch(&mut *tx, &[message("rolled back", None)]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(scene.value::<i64>(count).await, 0);

    let mut tx = scene.pool.begin().await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    scene.outbox.enqueue(&mut *savepoint, &message("rolled back", None)).await.unwrap();
    savepoint.rollback().await.unwrap();
    scene.outbox.enqueue(&mut *tx, &message("kept", None)).await.unwrap();
    assert_eq!(scene.value::<i64>(count).await, 0);
    tx.commit().await.unwrap();

    scene.outbox.enqueue(&scene.pool, &message("kept", None)).await.unwrap();
    let mut connection = PgConnection::connect(scene.database.url()).await.unwrap();
    scene.outbox.enqueue(&mut connection, &message("kept", None)).await.unwrap();
    scene.outbox.enqueue_batch(&mut connection, &[]).await.unwrap();
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message WHERE topic = 'kept'").await, 3);
    assert_eq!(scene.value::<i64>(count).await, 3);
}

#[tokio::test]
async fn a_batch_takes_its_positions_in_its_order() {
    let Some(scene) = Scene::new().await else { return };
    let messages: Vec<_> = (0..1000).map(|number| message(&format!("{number}"), None)).collect();
    scene.outbox.enqueue_batch(&scene.pool, &messages).await.unwrap();
    let wrong = "SELECT count(*) FROM (SELECT topic, row_number() OVER (ORDER BY position) - 1 AS number
         FROM outbox_message) m WHERE topic <> number::text";
    assert_eq!(scene.value::<i64>(wrong).await, 0);
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message").await, 1000);
}

#[tokio::test]
async fn the_helper_commits_or_leaves_nothing() {
    let Some(scene) = Scene::new().await else { return };
    scene.run("CREATE TABLE orders (id bigint)").await;
    let (outbox, pool) = (&scene.outbox, &scene.pool);
    let write = async |tx: &mut PgConnection, id: i64| {
        sqlx::query("INSERT INTO orders VALUES ($1)").bind(id).execute(&mut *tx).await?;
        outbox.enqueue(&mut *tx, &message("order", Some("k"))).await?;
        anyhow::Ok(id)
    };

    assert_eq!(outbox.transaction(pool, async |tx| write(tx, 1).await).await.unwrap(), 1);
    let failed = outbox.transaction(pool, async |tx| {
        write(tx, 2).await?;
        anyhow::bail!("changed my mind");
        #[allow(unreachable_code, reason = "it gives the closure its type")]
        Ok(())
    });
    assert_eq!(failed.await.unwrap_err().to_string(), "changed my mind");

    // From a task, as a service would, which also needs the future to be Send.
    let (task_outbox, task_pool) = (scene.outbox.clone(), scene.pool.clone());
    let panicked = tokio::spawn(async move {
        task_outbox
            .transaction(&task_pool, async |tx| {
                sqlx::query("INSERT INTO orders VALUES (3)").execute(&mut *tx).await?;
                task_outbox.enqueue(&mut *tx, &message("order", None)).await?;
                if task_pool.size() > 0 {
                    panic!("in the middle of it");
                }
                anyhow::Ok(())
            })
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());

    let dropped = outbox.transaction(pool, async |tx| {
        write(tx, 4).await?;
        std::future::pending::<anyhow::Result<()>>().await
    });
    let dropped = tokio::time::timeout(Duration::from_millis(200), dropped).await;
    assert!(dropped.is_err());

    let open = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
        (scene.value::<i64>(sql).await == 0).then_some(())
    };
    eventually("all transactions to end", DEADLINE, open).await;
    assert_eq!(scene.value::<Vec<i64>>("SELECT array_agg(id) FROM orders").await, [1]);
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message").await, 1);
}

#[tokio::test]
async fn a_helper_dropped_while_it_begins_leaves_no_transaction_open() {
    let Some(scene) = Scene::new().await else { return };
    let pool = scene.database.pool(1).await;
    for patience in 0..200 {
        let work = scene.outbox.transaction(&pool, async |_| anyhow::Ok(()));
        // Often somewhere within the round trip of BEGIN.
        let _ = tokio::time::timeout(Duration::from_micros(patience * 10), work).await;
        let mut connection = pool.acquire().await.unwrap();
        // Within a transaction time stands still.
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..2 {
            let now = sqlx::query_scalar("SELECT extract(epoch FROM now())::double precision");
            times.push(now.fetch_one(&mut *connection).await.unwrap());
        }
        assert!(times[0] < times[1], "{times:?}");
    }
}

#[derive(Debug, Default)]
struct Tracer(AtomicU32);

impl TraceContext for Tracer {
    fn current(&self) -> Option<Trace> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Some(Trace { parent: format!("00-parent-{number}"), state: Some("vendor=1".to_owned()) })
    }
}

#[tokio::test]
async fn messages_carry_the_active_trace() {
    let Some(scene) = Scene::new().await else { return };
    let outbox = scene.outbox.clone().with_trace_context(Arc::new(Tracer::default()));
    let own = Trace { parent: "00-own".to_owned(), state: None };
    let with_own = Message::bytes("own", "").key("k").trace(own).build().unwrap();
    outbox.enqueue(&scene.pool, &message("first", Some("k"))).await.unwrap();
    outbox.enqueue_batch(&scene.pool, &[with_own, message("second", Some("k"))]).await.unwrap();

    let (_, _, mut reader) = scene.relay().await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    let headers: Vec<_> = batch
        .rows
        .iter()
        .map(|row| match &row.content {
            Content::Message(message) => {
                (message.headers()[TRACEPARENT].as_str(), message.headers().contains_key(TRACESTATE))
            }
            Content::Malformed { reason, .. } => panic!("{reason}"),
        })
        .collect();
    assert_eq!(headers, [("00-parent-0", true), ("00-own", false), ("00-parent-2", true)]);
}

#[tokio::test]
async fn an_impossible_time_is_refused_and_says_why() {
    let Some(scene) = Scene::new().await else { return };
    let message = Message::bytes("t", "").deliver_at(Timestamp::from_micros(i64::MIN)).build().unwrap();
    let error = scene.outbox.enqueue(&scene.pool, &message).await.unwrap_err();
    assert_eq!(error.kind(), outbox_core::ErrorKind::Malformed, "{error}");
}

/// Runs statements with the real `psql`, as a person or a script would.
async fn psql(scene: &Scene, script: &str) {
    let mut child = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", scene.database.url()])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect(
            "psql, which comes with PostgreSQL or the package postgresql-client, is needed for this test",
        );
    child.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
    assert!(child.wait().await.unwrap().success(), "psql failed at:\n{script}");
}

#[tokio::test]
async fn a_plain_insert_from_psql_is_enough() {
    let Some(scene) = Scene::new().await else { return };
    psql(
        &scene,
        r#"
        INSERT INTO outbox_message (topic, payload) VALUES ('smallest', 'hello');
        BEGIN;
        INSERT INTO outbox_message (topic, payload) VALUES ('rolled back', '');
        ROLLBACK;
        INSERT INTO outbox_message (topic, key, payload, content_type, headers, options, message_id) VALUES (
            'largest', 'customer-4', convert_to('{"order": 17}', 'UTF8'), 'application/json',
            '{"tenant": "acme"}', '{"amqp": {"priority": 5}}', '018f4d2e-7b1a-7c3d-9e5f-0123456789ab');
        INSERT INTO outbox_message (topic, payload, available_at) VALUES ('later', '', now() + interval '1 hour');
        "#,
    )
    .await;
    let (_, _, mut reader) = scene.relay().await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&batch), ["smallest", "largest"]);
    let [Content::Message(smallest), Content::Message(largest)] =
        [&batch.rows[0].content, &batch.rows[1].content]
    else {
        panic!("{batch:?}")
    };
    assert_eq!((&smallest.payload()[..], smallest.key(), smallest.headers().len()), (&b"hello"[..], None, 0));
    assert_eq!(largest.id().to_string(), "018f4d2e-7b1a-7c3d-9e5f-0123456789ab");
    assert_eq!((largest.key(), largest.content_type()), (Some("customer-4"), Some("application/json")));
    assert_eq!(largest.headers()["tenant"], "acme");
    assert_eq!(largest.options().as_json()["amqp"]["priority"], 5);
    let next_due = batch.next_due.unwrap();
    assert!(next_due > Duration::from_secs(1800) && next_due <= Duration::from_secs(3600), "{next_due:?}");
}

#[tokio::test]
async fn the_statement_for_other_drivers_works_elsewhere() {
    let Some(scene) = Scene::new().await else { return };
    let statement = scene.outbox.insert_sql();
    let types = "uuid, text, text, bytea, text, jsonb, jsonb, timestamptz";
    let values =
        "'018f4d2e-7b1a-7c3d-9e5f-0123456789ab', 't', 'k', '\\x00ff', NULL, '{\"a\": \"b\"}', '{}', NULL";
    psql(&scene, &format!("PREPARE enqueue ({types}) AS {statement};\nEXECUTE enqueue ({values});")).await;
    let (_, _, mut reader) = scene.relay().await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&batch), ["t"]);
}
