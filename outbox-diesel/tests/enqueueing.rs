//! Enqueueing in the transactions of diesel and diesel-async.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use diesel::result::Error as DieselError;
use diesel_async::{AsyncConnection as _, SimpleAsyncConnection as _};
use integration_tests::{Mode, Postgres, Server};
use outbox_core::{
    Error, ErrorKind, Message, TRACEPARENT, TRACESTATE, Timestamp, Trace, TraceContext, Verdict,
};
use outbox_diesel::TransactionError;
use support::{DEADLINE, Scene, blocking, connect, message};

#[tokio::test]
async fn an_asynchronous_transaction_takes_its_messages_along() {
    let Some(scene) = Scene::new().await else { return };
    let (mut connection, outbox) = (scene.connection().await, &scene.outbox);
    let failed = connection
        .transaction::<(), TransactionError, _>(async |connection| {
            outbox.enqueue_async(connection, &message("rolled back")).await?;
            outbox.enqueue_batch_async(connection, &[message("rolled back")]).await?;
            Err(DieselError::RollbackTransaction.into())
        })
        .await;
    assert!(matches!(failed, Err(TransactionError::Diesel(DieselError::RollbackTransaction))));

    connection
        .transaction::<(), TransactionError, _>(async |connection| {
            let failed = connection
                .transaction::<(), TransactionError, _>(async |connection| {
                    outbox.enqueue_async(connection, &message("rolled back")).await?;
                    Err(Error::config("changed my mind").into())
                })
                .await;
            assert!(matches!(failed, Err(TransactionError::Outbox(_))));
            Ok(outbox.enqueue_async(connection, &message("in the transaction")).await?)
        })
        .await
        .unwrap();
    outbox.enqueue_async(&mut connection, &message("alone")).await.unwrap();
    outbox.enqueue_batch_async(&mut connection, &[]).await.unwrap();
    assert_eq!(scene.topics().await, ["in the transaction", "alone"]);
}

#[tokio::test]
async fn a_batch_takes_its_positions_in_its_order() {
    let Some(scene) = Scene::new().await else { return };
    let messages: Vec<_> = (0..1000).map(|number| message(&number.to_string())).collect();
    scene.outbox.enqueue_batch_async(&mut scene.connection().await, &messages).await.unwrap();
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
    let outbox = scene.outbox.clone().with_trace_context(Arc::new(Tracer::default()));
    let own = Trace { parent: "00-own".to_owned(), state: None };
    let with_own = Message::bytes("own", "").trace(own).build().unwrap();
    let mut connection = scene.connection().await;
    outbox.enqueue_async(&mut connection, &message("1")).await.unwrap();
    outbox.enqueue_batch_async(&mut connection, &[with_own, message("2")]).await.unwrap();
    blocking(scene.sync_connection().await, move |connection| {
        outbox.enqueue(connection, &message("3")).unwrap();
        outbox.enqueue_batch(connection, &[message("4")]).unwrap();
    })
    .await;

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
    let mut connection = scene.connection().await;
    let at = |micros| Message::bytes("t", "").deliver_at(Timestamp::from_micros(micros)).build().unwrap();
    for impossible in [at(i64::MIN), at(-210_866_803_200_000_001)] {
        let error = scene.outbox.enqueue_async(&mut connection, &impossible).await.unwrap_err();
        assert!(error.to_string().contains("timestamp out of range"), "{error}");
        let error = scene.outbox.enqueue_batch_async(&mut connection, &[impossible]).await.unwrap_err();
        assert!(error.to_string().contains("timestamp out of range"), "{error}");
    }
    for possible in [at(-210_866_803_200_000_000), at(i64::MAX)] {
        scene.outbox.enqueue_async(&mut connection, &possible).await.unwrap();
    }
    assert_eq!(scene.count().await, 2);
}

#[tokio::test]
async fn a_message_that_the_protocol_cannot_carry_is_refused_before_it_is_sent() {
    let Some(scene) = Scene::new().await else { return };
    let mut connection = scene.connection().await;
    // Zeroed memory that nothing writes to costs nothing.
    let huge = Message::bytes("huge", vec![0; 1 << 30]).build().unwrap();
    let half = Message::bytes("half", vec![0; 1 << 29]).build().unwrap();
    let errors = [
        scene.outbox.enqueue_async(&mut connection, &huge).await.unwrap_err(),
        scene.outbox.enqueue_batch_async(&mut connection, &[half.clone(), half]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{}", error.report());
    }
    scene.outbox.enqueue_async(&mut connection, &message("after it")).await.unwrap();
    assert_eq!(scene.topics().await, ["after it"]);
}

#[tokio::test]
async fn a_dropped_call_is_rolled_back_with_its_transaction() {
    let Some(scene) = Scene::new().await else { return };
    let mut connection = scene.connection().await;
    connection.batch_execute("BEGIN").await.unwrap();
    {
        let dropped = message("dropped");
        let mut enqueue = pin!(scene.outbox.enqueue_async(&mut connection, &dropped));
        assert!(futures_util::poll!(&mut enqueue).is_pending());
    }
    connection.batch_execute("ROLLBACK").await.unwrap();
    scene.outbox.enqueue_async(&mut connection, &message("kept")).await.unwrap();
    assert_eq!(scene.topics().await, ["kept"]);
}

#[tokio::test]
async fn a_lost_answer_is_an_interruption_with_an_unknown_effect() {
    let Some(server) = Postgres::shared().await else { return };
    let scene = Scene::on(server).await;
    let proxy = server.proxy().await;
    let mut connection = connect(&scene.database.url_through(&proxy)).await;
    proxy.set(Mode::CutAnswersAfter(0)).await;
    let lost = message("answer lost");
    let enqueue = scene.outbox.enqueue_async(&mut connection, &lost);
    let error = tokio::time::timeout(DEADLINE, enqueue).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.verdict()), (ErrorKind::Interrupted, Verdict::Unknown));
    assert!(error.driver_error::<DieselError>().is_some());
}

#[tokio::test]
async fn the_driver_s_error_is_kept_and_its_details_are_not_printed() {
    let Some(scene) = Scene::new().await else { return };
    let mut connection = scene.connection().await;
    connection
        .batch_execute("ALTER TABLE outbox_message ADD CONSTRAINT small CHECK (length(payload) < 10)")
        .await
        .unwrap();
    let private = Message::bytes("t", "private data").build().unwrap();
    let error = scene.outbox.enqueue_async(&mut connection, &private).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("constraint: small"), "{error}");
    let driver = error.driver_error::<DieselError>().unwrap();
    let DieselError::DatabaseError(_, server) = driver else { panic!("{driver:?}") };
    assert!(server.details().unwrap().contains("Failing row"));
    let printed = format!("{error} {error:?} {}", error.report());
    assert!(!printed.contains("Failing row"), "{printed}");
}

#[tokio::test]
async fn the_documented_right_suffices() {
    let Some(scene) = Scene::new().await else { return };
    let mut connection = scene.connection().await;
    // Roles belong to the server, which other tests use, too.
    let role = format!("{}_diesel", scene.database.name());
    connection
        .batch_execute(&format!(
            "CREATE ROLE {role};
             GRANT INSERT (topic, payload, key, message_id, content_type, headers, options, available_at)
                ON outbox_message TO {role};
             SET ROLE {role};"
        ))
        .await
        .unwrap();
    scene.outbox.enqueue_async(&mut connection, &message("one")).await.unwrap();
    scene.outbox.enqueue_batch_async(&mut connection, &[message("two"), message("three")]).await.unwrap();
    connection.batch_execute(&format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role};")).await.unwrap();
    assert_eq!(scene.topics().await, ["one", "two", "three"]);
}

#[tokio::test]
async fn the_ddl_makes_the_tables_that_the_store_makes() {
    let Some(server) = Postgres::shared().await else { return };
    let scene = Scene::on(server).await;
    let database = server.database().await;
    let mut connection = connect(database.url()).await;
    connection.batch_execute(scene.outbox.ddl()).await.unwrap();
    scene.outbox.enqueue_async(&mut connection, &message("t")).await.unwrap();
    // It refuses tables that it does not know.
    scene.store.migrate(&database.pool(2).await).await.unwrap();
}
