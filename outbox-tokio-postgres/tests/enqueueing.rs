//! Enqueueing with what the users of tokio-postgres pass around.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use integration_tests::{Mode, Postgres, Server};
use outbox_core::{
    Error, ErrorKind, Message, TRACEPARENT, TRACESTATE, Timestamp, Trace, TraceContext, Verdict,
};
use support::{DEADLINE, Scene, connect, message};
use tokio_postgres::NoTls;

#[tokio::test]
async fn every_client_takes_part_in_its_own_transaction() {
    let Some(scene) = Scene::new().await else { return };
    let mut client = scene.client().await;

    let transaction = client.transaction().await.unwrap();
    scene.outbox.enqueue(&transaction, &message("rolled back")).await.unwrap();
    scene.outbox.enqueue_batch(&transaction, &[message("rolled back")]).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(scene.count().await, 0);

    let mut transaction = client.transaction().await.unwrap();
    let savepoint = transaction.savepoint("here").await.unwrap();
    scene.outbox.enqueue(&savepoint, &message("rolled back")).await.unwrap();
    savepoint.rollback().await.unwrap();
    let savepoint = transaction.transaction().await.unwrap();
    scene.outbox.enqueue(&savepoint, &message("in a savepoint")).await.unwrap();
    savepoint.commit().await.unwrap();
    scene.outbox.enqueue(&transaction, &message("in the transaction")).await.unwrap();
    assert_eq!(scene.count().await, 0);
    transaction.commit().await.unwrap();

    scene.outbox.enqueue(&client, &message("alone")).await.unwrap();
    scene.outbox.enqueue_batch(&client, &[]).await.unwrap();
    assert_eq!(scene.topics().await, ["in a savepoint", "in the transaction", "alone"]);
}

#[tokio::test]
async fn deadpool_s_transactions_are_accepted() {
    let Some(scene) = Scene::new().await else { return };
    let config = scene.database.url().parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
    for round in ["first", "second"] {
        let mut client = pool.get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let statement = transaction.prepare_cached(scene.outbox.insert_sql()).await.unwrap();
        scene.outbox.enqueue_prepared(&*transaction, &statement, &message(round)).await.unwrap();
        scene.outbox.enqueue(&*transaction, &message(round)).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(client.statement_cache.size(), 1);
    }
    assert_eq!(scene.topics().await, ["first", "first", "second", "second"]);
}

#[tokio::test]
async fn bb8_s_transactions_are_accepted() {
    let Some(scene) = Scene::new().await else { return };
    let config = scene.database.url().parse().unwrap();
    let manager = bb8_postgres::PostgresConnectionManager::new(config, NoTls);
    let pool = bb8_postgres::bb8::Pool::builder().max_size(1).build(manager).await.unwrap();
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    scene.outbox.enqueue(&transaction, &message("in a transaction")).await.unwrap();
    transaction.commit().await.unwrap();
    scene.outbox.enqueue(&*client, &message("alone")).await.unwrap();
    assert_eq!(scene.topics().await, ["in a transaction", "alone"]);
}

#[tokio::test]
async fn a_batch_takes_its_positions_in_its_order() {
    let Some(scene) = Scene::new().await else { return };
    let messages: Vec<_> = (0..1000).map(|number| message(&number.to_string())).collect();
    scene.outbox.enqueue_batch(&scene.client().await, &messages).await.unwrap();
    let topics: Vec<usize> = scene.topics().await.iter().map(|topic| topic.parse().unwrap()).collect();
    assert_eq!(topics, (0..1000).collect::<Vec<_>>());
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
    let client = scene.client().await;
    let outbox = scene.outbox.clone().with_trace_context(Arc::new(Tracer::default()));
    let own = Trace { parent: "00-own".to_owned(), state: None };
    let with_own = Message::bytes("own", "").trace(own).build().unwrap();
    let insert = client.prepare(outbox.insert_sql()).await.unwrap();
    let insert_batch = client.prepare(outbox.insert_batch_sql()).await.unwrap();
    outbox.enqueue(&client, &message("1")).await.unwrap();
    outbox.enqueue_batch(&client, &[with_own, message("2")]).await.unwrap();
    outbox.enqueue_prepared(&client, &insert, &message("3")).await.unwrap();
    outbox.enqueue_batch_prepared(&client, &insert_batch, &[message("4")]).await.unwrap();

    let messages = scene.messages().await;
    let traces: Vec<_> = messages
        .iter()
        .map(|message| (&*message.headers()[TRACEPARENT], message.headers().contains_key(TRACESTATE)))
        .collect();
    let expected = [
        ("00-parent-0", true),
        ("00-own", false),
        ("00-parent-2", true),
        ("00-parent-3", true),
        ("00-parent-4", true),
    ];
    assert_eq!(traces, expected);
}

#[tokio::test]
async fn an_impossible_time_is_refused() {
    let Some(scene) = Scene::new().await else { return };
    let client = scene.client().await;
    let at = |micros| Message::bytes("t", "").deliver_at(Timestamp::from_micros(micros)).build().unwrap();
    // Before 4713 BC.
    for impossible in [at(i64::MIN), at(-210_866_803_200_000_001)] {
        let errors = [
            scene.outbox.enqueue(&client, &impossible).await.unwrap_err(),
            scene.outbox.enqueue_batch(&client, &[impossible]).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Malformed, "{}", error.report());
        }
    }
    // Whatever comes later is possible.
    for possible in [at(-210_866_803_200_000_000), at(i64::MAX)] {
        scene.outbox.enqueue(&client, &possible).await.unwrap();
    }
    assert_eq!(scene.count().await, 2);
}

#[tokio::test]
async fn a_message_that_the_protocol_cannot_carry_is_refused_before_it_is_sent() {
    let Some(scene) = Scene::new().await else { return };
    let client = scene.client().await;
    // Zeroed memory that nothing writes to costs nothing.
    let huge = Message::bytes("huge", vec![0; 1 << 30]).build().unwrap();
    let half = Message::bytes("half", vec![0; 1 << 29]).build().unwrap();
    let errors = [
        scene.outbox.enqueue(&client, &huge).await.unwrap_err(),
        scene.outbox.enqueue_batch(&client, &[half.clone(), half]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{}", error.report());
        assert_eq!(error.verdict(), Verdict::Permanent);
    }
    scene.outbox.enqueue(&client, &message("after it")).await.unwrap();
    assert_eq!(scene.topics().await, ["after it"]);
}

#[tokio::test]
async fn a_dropped_call_is_rolled_back_with_its_transaction() {
    let Some(scene) = Scene::new().await else { return };
    let mut client = scene.client().await;
    let transaction = client.transaction().await.unwrap();
    {
        let dropped = message("dropped");
        let mut enqueue = pin!(scene.outbox.enqueue(&transaction, &dropped));
        // The statement is with the task of the connection now.
        assert!(futures_util::poll!(&mut enqueue).is_pending());
    }
    transaction.rollback().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    scene.outbox.enqueue(&transaction, &message("kept")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(scene.topics().await, ["kept"]);
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back() {
    let Some(scene) = Scene::new().await else { return };
    let mut client = scene.client().await;
    let transaction = client.transaction().await.unwrap();
    scene.outbox.enqueue(&transaction, &message("dropped")).await.unwrap();
    drop(transaction);
    scene.outbox.enqueue(&client, &message("kept")).await.unwrap();
    assert_eq!(scene.topics().await, ["kept"]);
}

#[tokio::test]
async fn a_lost_answer_is_an_interruption_with_an_unknown_effect() {
    let Some(server) = Postgres::shared().await else { return };
    let scene = Scene::on(server).await;
    let proxy = server.proxy().await;
    let client = connect(&scene.database.url_through(&proxy)).await;
    proxy.set(Mode::CutAnswersAfter(0)).await;
    let lost = message("answer lost");
    let enqueue = scene.outbox.enqueue(&client, &lost);
    let error = tokio::time::timeout(DEADLINE, enqueue).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.verdict()), (ErrorKind::Interrupted, Verdict::Unknown));
    // The same client is of no use any more, and says so.
    let error = scene.outbox.enqueue(&client, &message("later")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{}", error.report());
    assert!(error.driver_error::<tokio_postgres::Error>().unwrap().is_closed());
    // What the server has done is done.
    integration_tests::eventually("the statement to take effect", DEADLINE, async || {
        (scene.topics().await == ["answer lost"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_driver_s_error_is_kept_and_its_details_are_not_printed() {
    let Some(scene) = Scene::new().await else { return };
    let client = scene.client().await;
    client
        .batch_execute("ALTER TABLE outbox_message ADD CONSTRAINT small CHECK (length(payload) < 10)")
        .await
        .unwrap();
    let private = Message::bytes("t", "private data").build().unwrap();
    let error: Error = scene.outbox.enqueue(&client, &private).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("constraint: small"), "{error}");
    let driver = error.driver_error::<tokio_postgres::Error>().unwrap();
    let detail = driver.as_db_error().unwrap().detail().unwrap();
    assert!(detail.contains("Failing row"), "{detail}");
    let printed = format!("{error} {error:?} {}", error.report());
    assert!(!printed.contains("Failing row"), "{printed}");
}

#[tokio::test]
async fn a_statement_of_another_connection_is_refused() {
    let Some(scene) = Scene::new().await else { return };
    let (one, other) = (scene.client().await, scene.client().await);
    let statement = one.prepare(scene.outbox.insert_sql()).await.unwrap();
    let error = scene.outbox.enqueue_prepared(&other, &statement, &message("t")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    // A statement with other parameters does not reach the server.
    let statement = other.prepare("SELECT 1").await.unwrap();
    let error = scene.outbox.enqueue_prepared(&other, &statement, &message("t")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{}", error.report());
    assert_eq!(scene.count().await, 0);
}

#[tokio::test]
async fn the_ddl_makes_the_tables_that_the_store_makes() {
    let Some(server) = Postgres::shared().await else { return };
    let scene = Scene::on(server).await;
    let database = server.database().await;
    let client = connect(database.url()).await;
    client.batch_execute(scene.outbox.ddl()).await.unwrap();
    scene.outbox.enqueue(&client, &message("t")).await.unwrap();
    // It refuses tables that it does not know.
    let pool = database.pool(2).await;
    scene.store.migrate(&pool).await.unwrap();
}

#[tokio::test]
async fn the_documented_right_suffices() {
    let Some(scene) = Scene::new().await else { return };
    let client = scene.client().await;
    // Roles belong to the server, which other tests use, too.
    let role = format!("{}_app", scene.database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role};
             GRANT INSERT (topic, payload, key, message_id, content_type, headers, options, available_at)
                ON outbox_message TO {role};
             SET ROLE {role};"
        ))
        .await
        .unwrap();
    scene.outbox.enqueue(&client, &message("one")).await.unwrap();
    scene.outbox.enqueue_batch(&client, &[message("two"), message("three")]).await.unwrap();
    let denied = client.execute("SELECT * FROM outbox_message", &[]).await.unwrap_err();
    assert_eq!(outbox_tokio_postgres::map_error(denied).kind(), ErrorKind::Permission);
    client.batch_execute(&format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role};")).await.unwrap();
    assert_eq!(scene.topics().await, ["one", "two", "three"]);
}
