//! The diagnosis: no alarm where all is well, and one for each thing that keeps an outbox from working.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::{Postgres, PostgresNext, Server};
use outbox_core::{Finding, Health, RelayId, Store};
use outbox_postgres::{Config, PostgresStore};
use sqlx::postgres::PgPoolOptions;
use support::{LIMIT, Scene, all_delivered, message};

async fn finding(store: &PostgresStore, check: &str) -> Finding {
    let findings = store.inspection().expect("PostgreSQL has an inspection").diagnose().await.unwrap();
    let found = findings.iter().find(|finding| finding.check == check).cloned();
    found.unwrap_or_else(|| panic!("{check} is not checked: {findings:?}"))
}

fn grants(role: &str) -> String {
    let readme = include_str!("../README.md");
    let blocks = readme.split("```sql\n").skip(1).filter_map(|block| block.split("```").next());
    let mut granting = blocks.filter(|block| block.contains("GRANT") && block.contains(" TO relay;"));
    granting.next().expect("the README grants rights to relay").replace(" relay;", &format!(" {role};"))
}

#[tokio::test]
async fn a_role_with_the_documented_rights_lacks_nothing() {
    let Some(scene) = Scene::new().await else { return };
    let role = format!("{}_relay", scene.database.name());
    scene.run(&format!("CREATE ROLE {role} LOGIN")).await;
    scene.run(&grants(&role)).await;
    let options = (*scene.pool.connect_options()).clone().username(&role);
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let store = scene.outbox.store(pool);
    assert_eq!(finding(&store, "rights").await.health, Health::Good);
    assert_eq!(finding(&store, "enqueueing").await.health, Health::Good);
    for (right, object) in
        [("DELETE", "outbox_message"), ("UPDATE", "outbox_lease"), ("UPDATE", "SEQUENCE outbox_sleepers")]
    {
        scene.run(&format!("REVOKE {right} ON {object} FROM {role}")).await;
        let lacking = finding(&store, "rights").await;
        assert_eq!(lacking.health, Health::Problem);
        let name = object.trim_start_matches("SEQUENCE ");
        assert!(lacking.seen.contains(&format!(r#"{right} on "public"."{name}""#)), "{lacking:?}");
        scene.run(&format!("GRANT {right} ON {object} TO {role}")).await;
    }
}

#[tokio::test]
async fn a_role_that_cannot_enqueue_any_more_is_named() {
    let Some(scene) = Scene::new().await else { return };
    let role = format!("{}_app", scene.database.name());
    scene
        .run(&format!("CREATE ROLE {role}; GRANT INSERT (topic, payload) ON outbox_message TO {role}"))
        .await;
    let store = scene.store();
    assert_eq!(finding(&store, "enqueueing").await.health, Health::Good);
    // As after pg_dump --no-privileges and a restore.
    scene.run("REVOKE SELECT ON SEQUENCE outbox_sleepers FROM PUBLIC").await;
    let failing = finding(&store, "enqueueing").await;
    assert_eq!(failing.health, Health::Problem);
    assert!(failing.seen.contains(&role), "{failing:?}");
    scene.run(failing.advice.as_deref().unwrap()).await;
    assert_eq!(finding(&store, "enqueueing").await.health, Health::Good);
}

#[tokio::test]
async fn positions_that_are_drawn_in_advance_are_a_problem() {
    let Some(scene) = Scene::new().await else { return };
    let store = scene.store();
    assert_eq!(finding(&store, "positions").await.health, Health::Good);
    for change in ["SET CACHE 20", "SET CYCLE", "SET INCREMENT -1"] {
        scene.run(&format!("ALTER TABLE outbox_message ALTER COLUMN position {change}")).await;
        let wrong = finding(&store, "positions").await;
        assert_eq!(wrong.health, Health::Problem, "{change}");
        let advice = wrong.advice.unwrap();
        scene.run(advice.split(": ").next().unwrap()).await;
        assert_eq!(finding(&store, "positions").await.health, Health::Good, "{change}");
    }
}

#[tokio::test]
async fn a_publication_that_stops_settling_is_a_problem() {
    let Some(scene) = Scene::new().await else { return };
    let store = scene.store();
    assert_eq!(finding(&store, "publications").await.health, Health::Good);
    scene
        .run("CREATE PUBLICATION part FOR TABLE outbox_dead_letter; ALTER TABLE outbox_dead_letter REPLICA IDENTITY NOTHING")
        .await;
    let wrong = finding(&store, "publications").await;
    assert_eq!(wrong.health, Health::Problem);
    assert!(wrong.seen.contains("outbox_dead_letter"), "{wrong:?}");
    assert!(wrong.advice.unwrap().contains("REPLICA IDENTITY DEFAULT"));
    scene.run("ALTER TABLE outbox_dead_letter REPLICA IDENTITY DEFAULT").await;
    assert_eq!(finding(&store, "publications").await.health, Health::Good);
}

/// PostgreSQL 18 refuses to delete rows of a published table whose key has a generated column that is not published.
#[tokio::test]
async fn the_advice_for_a_publication_on_a_newer_server_is_right() {
    let Some(server) = PostgresNext::shared().await else { return };
    let scene = Scene::empty_in(server.database().await, Config::new()).await;
    scene.outbox.migrate(&scene.pool).await.unwrap();
    if scene.value::<i32>("SELECT current_setting('server_version_num')::integer").await < 180_000 {
        return;
    }
    let (store, relay, mut reader) = scene.relay().await;
    scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap();
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    scene.run("CREATE PUBLICATION everything FOR ALL TABLES").await;
    let settled = store.settle(relay, &all_delivered(&batch), false).await;
    let wrong = finding(&store, "publications").await;
    if settled.is_ok() {
        assert_eq!(wrong.health, Health::Good);
        return;
    }
    assert_eq!(wrong.health, Health::Problem);
    assert!(wrong.seen.contains("everything"), "{wrong:?}");
    assert!(wrong.advice.unwrap().contains("publish_generated_columns = stored"));
    scene.run("ALTER PUBLICATION everything SET (publish_generated_columns = stored)").await;
    assert_eq!(finding(&store, "publications").await.health, Health::Good);
    store.settle(relay, &all_delivered(&batch), false).await.unwrap();
}

#[tokio::test]
async fn prepared_transactions_can_enqueue_without_wake_ups() {
    let Some(server) = Postgres::start().await else { return };
    let database = server.database().await;
    let pool = database.pool(1).await;
    sqlx::query("ALTER SYSTEM SET max_prepared_transactions = 5").execute(&pool).await.unwrap();
    pool.close().await;
    server.kill().await;
    server.restart().await;
    let scene = Scene::empty_in(database, Config::new().wakeups(false)).await;
    scene.outbox.migrate(&scene.pool).await.unwrap();
    let (store, relay, mut reader) = scene.relay().await;
    assert!(store.wakeups().await.unwrap().is_none());
    store.set_idle(relay, true).await.unwrap();
    let prepare = async |id: &str| {
        let mut connection = scene.pool.acquire().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "BEGIN; INSERT INTO outbox_message (topic, payload) VALUES ('{id}', ''); PREPARE TRANSACTION '{id}'"
        )))
        .execute(&mut *connection)
        .await
        .map(|_| ())
    };
    prepare("first").await.unwrap();
    // It is found although a later message was read before it was committed.
    scene.outbox.enqueue(&scene.pool, &message("second", None)).await.unwrap();
    assert_eq!(support::topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["second"]);
    scene.run("COMMIT PREPARED 'first'").await;
    assert_eq!(support::topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["first"]);
    assert_eq!(finding(&store, "two-phase commit").await.health, Health::Good);

    // With wake-ups it fails, and the diagnosis warns.
    let notified = outbox_postgres::Outbox::new(Config::new()).unwrap().store(scene.pool.clone());
    assert_eq!(finding(&notified, "two-phase commit").await.health, Health::Warning);
    let other = RelayId::new();
    notified.heartbeat(other, Duration::from_secs(600)).await.unwrap();
    notified.set_idle(other, true).await.unwrap();
    prepare("third").await.unwrap_err();
}
