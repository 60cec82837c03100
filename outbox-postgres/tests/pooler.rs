//! PgBouncer between a relay and the server, in the mode that hands a session to somebody else after each transaction.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::eventually;
use integration_tests::postgres::PgBouncer;
use outbox_core::memory::MemoryPublisher;
use outbox_core::{ErrorKind, Finding, Health, Relay, RelayId, Store};
use outbox_postgres::PostgresStore;
use sqlx::postgres::{PgPool, PgPoolOptions};
use support::{DEADLINE, Scene, message};

const KEYS: usize = 7;

/// A database, and a pool that reaches it through a pooler with these settings.
async fn scene(settings: &[&str]) -> Option<(Scene, PgBouncer, PgPool)> {
    let scene = Scene::new().await?;
    let pooler = PgBouncer::before(&scene.database, settings)?;
    let pool = PgPoolOptions::new().max_connections(10).connect(pooler.url()).await.unwrap();
    Some((scene, pooler, pool))
}

fn store(scene: &Scene, pool: &PgPool) -> PostgresStore {
    scene.outbox.store(pool.clone())
}

/// Two relays, one pool: what each leaves behind in a session the other one meets.
async fn relays_work(settings: &[&str]) {
    let Some((scene, _pooler, pool)) = scene(settings).await else { return };
    let publisher = MemoryPublisher::new();
    let relay = || {
        let relay = Relay::builder(store(&scene, &pool), publisher.clone());
        // Nothing is repeated as long as no lease ends because the machine is slow.
        relay
            .configure(|settings| settings.lease_ttl = Duration::from_secs(24 * 3600))
            .build()
            .unwrap()
            .spawn()
    };
    let relays = [relay(), relay()];
    for relay in &relays {
        relay.status().wait_for(|status| status.owned.len() == 8).await.unwrap();
    }
    // A notification would come to whoever has that session next, as this pool.
    assert!(store(&scene, &pool).wakeups().await.unwrap().is_none(), "nobody listens");
    for round in 1..=2 {
        for number in 0..100 {
            let key = format!("key-{}", number % KEYS);
            let message = message(&format!("{round}-{number:03}"), Some(&key));
            let mut transaction = pool.begin().await.unwrap();
            scene.outbox.enqueue(&mut *transaction, &message).await.unwrap();
            transaction.commit().await.unwrap();
        }
        let all = tokio::time::timeout(DEADLINE, publisher.wait_for(round * 100)).await;
        all.unwrap_or_else(|_| panic!("only {} messages arrived in round {round}", publisher.count()));
    }
    for relay in relays {
        relay.shutdown().await.unwrap();
    }
    assert_eq!(publisher.count(), 200, "nothing failed, so nothing is repeated");
    for key in 0..KEYS {
        let payloads = publisher.payloads_of(&format!("key-{key}"));
        assert!(payloads.is_sorted(), "{payloads:?}");
    }
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message").await, 0);
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_relay").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_work_through_a_pooler_that_refuses_their_settings() {
    relays_work(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_work_through_a_pooler_that_ignores_their_settings() {
    relays_work(&["ignore_startup_parameters = extra_float_digits, options"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_keeps_no_prepared_statements_is_named() {
    let Some((scene, _pooler, pool)) = scene(&["max_prepared_statements = 0"]).await else { return };
    let stores = [store(&scene, &pool), store(&scene, &pool)];
    // Two clients prepare statements of the same names, and sooner or later in the same session.
    let error = eventually("statements to be mixed up", DEADLINE, async || {
        for store in &stores {
            if let Err(error) = store.heartbeat(RelayId::new(), DEADLINE).await {
                return Some(error);
            }
        }
        None
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("a pooler does not keep prepared statements"), "{error}");
}

/// What the diagnosis says of the pooler.
async fn seen_by(store: &PostgresStore) -> Finding {
    let findings = store.inspection().expect("PostgreSQL can be looked into").diagnose().await.unwrap();
    findings.into_iter().find(|finding| finding.check == "pooler").expect("it is asked for")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_diagnosis_sees_a_pooler_that_is_quiet() {
    for settings in [&[][..], &["ignore_startup_parameters = extra_float_digits, options"]] {
        let Some((scene, _pooler, pool)) = scene(settings).await else { return };
        let finding = seen_by(&store(&scene, &pool)).await;
        assert_eq!(finding.health, Health::Warning, "{finding:?}");
        assert!(
            finding.advice.as_ref().is_some_and(|advice| advice.contains("server itself")),
            "{finding:?}"
        );
        assert_eq!(seen_by(&scene.store()).await.health, Health::Good);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_diagnosis_sees_that_the_session_changes() {
    let Some((scene, _pooler, pool)) = scene(&[]).await else { return };
    // Somebody else has to be at work for a session to be taken away.
    let others: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                while sqlx::query("SELECT pg_sleep(0.001)").execute(&pool).await.is_ok() {}
            })
        })
        .collect();
    let finding = eventually("a session to change", DEADLINE, async || {
        let pooler = seen_by(&store(&scene, &pool)).await;
        pooler.seen.contains("changes the session").then_some(pooler)
    })
    .await;
    assert_eq!(finding.health, Health::Warning);
    others.iter().for_each(tokio::task::JoinHandle::abort);
}
