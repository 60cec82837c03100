//! Wake-ups: given only while somebody sleeps, and never relied upon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::eventually;
use outbox_core::{RelayId, Store};
use sqlx::postgres::PgListener;
use tokio::time::timeout;

use support::{DEADLINE, Scene, message};

/// A lease that does not end during a test.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Listens as the relay does. The trigger knows the channel.
async fn listen(scene: &Scene) -> PgListener {
    let channel: String = scene
        .value("SELECT (regexp_match(prosrc, 'outbox_[0-9a-f]{16}'))[1] FROM pg_proc WHERE proname = 'outbox_message_notify'")
        .await;
    let mut listener = PgListener::connect_with(&scene.pool).await.unwrap();
    listener.listen(&channel).await.unwrap();
    listener.listen("sentinel").await.unwrap();
    listener
}

/// What was notified so far. Notifications come in the order of their commits, so a last one marks the end.
async fn notified(scene: &Scene, listener: &mut PgListener) -> usize {
    scene.run("NOTIFY sentinel").await;
    let mut count = 0;
    while timeout(DEADLINE, listener.recv()).await.unwrap().unwrap().channel() != "sentinel" {
        count += 1;
    }
    count
}

#[tokio::test]
async fn nobody_is_notified_while_no_relay_sleeps() {
    let Some(scene) = Scene::new().await else { return };
    let mut listener = listen(&scene).await;
    let store = scene.store();
    let (busy, asleep) = (RelayId::new(), RelayId::new());
    let enqueue = async || scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap();

    enqueue().await;
    store.heartbeat(busy, TTL).await.unwrap();
    store.heartbeat(asleep, TTL).await.unwrap();
    enqueue().await;
    assert_eq!(notified(&scene, &mut listener).await, 0);

    store.set_idle(asleep, true).await.unwrap();
    enqueue().await;
    scene.outbox.enqueue_batch(&scene.pool, &vec![message("t", None); 100]).await.unwrap();
    assert_eq!(notified(&scene, &mut listener).await, 2, "one for each transaction");
    // A heartbeat changes nothing about it.
    store.heartbeat(asleep, TTL).await.unwrap();
    enqueue().await;
    assert_eq!(notified(&scene, &mut listener).await, 1);

    store.set_idle(asleep, false).await.unwrap();
    enqueue().await;
    store.set_idle(asleep, true).await.unwrap();
    store.leave(asleep).await.unwrap();
    enqueue().await;
    assert_eq!(notified(&scene, &mut listener).await, 0);
}

/// Whether commits ask whether a relay sleeps.
async fn gate_is_open(scene: &Scene) -> bool {
    scene.value("SELECT is_called AND last_value = 1 FROM outbox_sleepers").await
}

#[tokio::test]
async fn commits_ask_who_sleeps_only_while_somebody_may() {
    let Some(scene) = Scene::new().await else { return };
    let store = scene.store();
    let (first, second) = (RelayId::new(), RelayId::new());
    assert!(!gate_is_open(&scene).await);
    for relay in [first, second] {
        store.heartbeat(relay, TTL).await.unwrap();
        store.set_idle(relay, true).await.unwrap();
    }
    store.set_idle(first, false).await.unwrap();
    assert!(gate_is_open(&scene).await, "the second one sleeps");
    store.set_idle(second, false).await.unwrap();
    assert!(!gate_is_open(&scene).await);
    store.set_idle(first, true).await.unwrap();
    store.leave(first).await.unwrap();
    assert!(!gate_is_open(&scene).await);

    // One that dies leaves it open. The next one that wakes closes it.
    store.heartbeat(first, Duration::from_millis(1)).await.unwrap();
    store.set_idle(first, true).await.unwrap();
    let expired = "SELECT expires_at <= now() FROM outbox_relay ORDER BY expires_at LIMIT 1";
    eventually("the relay to expire", DEADLINE, async || scene.value::<bool>(expired).await.then_some(()))
        .await;
    assert!(gate_is_open(&scene).await);
    store.set_idle(second, false).await.unwrap();
    assert!(!gate_is_open(&scene).await);
}

#[tokio::test]
async fn a_relay_that_lies_down_while_another_wakes_finds_the_gate_open() {
    let Some(scene) = Scene::new().await else { return };
    let store = scene.store();
    let (waking, other) = (RelayId::new(), RelayId::new());
    for relay in [waking, other] {
        store.heartbeat(relay, TTL).await.unwrap();
    }
    store.set_idle(waking, true).await.unwrap();

    // It sees nobody sleep, and is held up before it closes the gate.
    let mut holding = scene.pool.begin().await.unwrap();
    sqlx::query("ALTER SEQUENCE outbox_sleepers OWNER TO CURRENT_USER").execute(&mut *holding).await.unwrap();
    let wakes = tokio::spawn({
        let store = scene.store();
        async move { store.set_idle(waking, false).await }
    });
    let held_up = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '%setval%')";
    eventually("the relay to be held up", DEADLINE, async || {
        scene.value::<bool>(held_up).await.then_some(())
    })
    .await;
    // The other one opened it a moment ago, when it was open.
    scene.run(&format!("UPDATE outbox_relay SET idle = true WHERE relay_id = '{}'", other.0)).await;
    holding.rollback().await.unwrap();
    wakes.await.unwrap().unwrap();
    assert!(gate_is_open(&scene).await);
}

#[tokio::test]
async fn a_relay_that_is_gone_sleeps_no_more() {
    let Some(scene) = Scene::new().await else { return };
    let mut listener = listen(&scene).await;
    let (store, relay) = (scene.store(), RelayId::new());
    store.heartbeat(relay, Duration::from_millis(50)).await.unwrap();
    store.set_idle(relay, true).await.unwrap();
    let expired = "SELECT expires_at <= now() FROM outbox_relay";
    eventually("the relay to expire", DEADLINE, async || scene.value::<bool>(expired).await.then_some(()))
        .await;
    scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap();
    assert_eq!(notified(&scene, &mut listener).await, 0);
    // It begins anew, awake.
    store.heartbeat(relay, TTL).await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap();
    assert_eq!(notified(&scene, &mut listener).await, 0);
}

#[tokio::test]
async fn a_lost_connection_counts_as_a_hint_and_is_made_again() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay) = (scene.store(), RelayId::new());
    let mut wakeups = store.wakeups().await.unwrap().unwrap();
    store.heartbeat(relay, TTL).await.unwrap();
    store.set_idle(relay, true).await.unwrap();

    scene
        // With a timeout it waits until the session has ended.
        .run("SELECT pg_terminate_backend(pid, 120000) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")
        .await;
    // What is committed now is notified to nobody.
    scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap();
    // The end of the connection may show as an error first, after which the relay polls and waits again.
    timeout(DEADLINE, async { while wakeups.wait().await.is_err() {} }).await.unwrap();

    assert!(timeout(Duration::from_millis(300), wakeups.wait()).await.is_err(), "nothing happens");
    scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap();
    timeout(DEADLINE, wakeups.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn listening_takes_no_connection_from_the_pool() {
    let Some(scene) = Scene::new().await else { return };
    let pool = scene.database.pool(1).await;
    let store = scene.outbox.store(pool.clone());
    let _wakeups = store.wakeups().await.unwrap().unwrap();
    let _other = store.wakeups().await.unwrap().unwrap();
    let stats = timeout(DEADLINE, store.stats(1)).await.unwrap();
    assert_eq!(stats.unwrap().backlog.value, 0);
}
