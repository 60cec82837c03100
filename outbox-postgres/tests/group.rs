//! Heartbeats, of which nearly all change nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::eventually;
use outbox_core::{ErrorKind, RelayId, Store};
use tokio::time::timeout;

use support::{DEADLINE, Scene};

const TTL: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn a_heartbeat_that_changes_nothing_waits_for_no_other_relay() {
    let Some(scene) = Scene::new().await else { return };
    let (store, settled, joining) = (scene.store(), RelayId::new(), RelayId::new());
    let all = store.heartbeat(settled, TTL).await.unwrap().owned;
    assert_eq!(store.heartbeat(joining, TTL).await.unwrap().owned, []);
    let share = store.heartbeat(settled, TTL).await.unwrap().share;
    store.release(settled, &all[share..]).await.unwrap();

    // One relay is held up in the middle of a rebalancing, by a lock on what it is going to take.
    let mut obstacle = scene.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM outbox_lease WHERE owner IS NULL FOR UPDATE")
        .execute(&mut *obstacle)
        .await
        .unwrap();
    let rebalancing = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                match store.heartbeat(joining, TTL).await {
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    answer => return answer,
                }
            }
        }
    });
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)
        AND EXISTS (SELECT FROM pg_locks WHERE granted AND locktype = 'advisory')";
    eventually("one to wait", DEADLINE, async || scene.value::<bool>(waiting).await.then_some(())).await;

    let renewed = timeout(DEADLINE, store.heartbeat(settled, TTL)).await.unwrap().unwrap();
    assert_eq!((renewed.owned, renewed.relays), (all[..share].to_vec(), 2));
    assert!(!rebalancing.is_finished());
    obstacle.rollback().await.unwrap();
    assert_eq!(timeout(DEADLINE, rebalancing).await.unwrap().unwrap().unwrap().owned, all[share..]);
}

#[tokio::test]
async fn a_strict_default_isolation_makes_no_difference() {
    let Some(scene) = Scene::new().await else { return };
    scene
        .run(
            "DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database());
END $$",
        )
        .await;
    let store = scene.outbox.store(scene.database.pool(10).await);
    let relays: Vec<RelayId> = (0..4).map(|_| RelayId::new()).collect();
    for round in 0..20 {
        let beats = relays.iter().map(|relay| store.heartbeat(*relay, TTL));
        for answer in futures_util::future::join_all(beats).await {
            let membership = answer.unwrap();
            if round > 0 {
                assert_eq!(membership.relays, relays.len());
            }
        }
    }
}

#[tokio::test]
async fn the_lease_of_a_dead_relay_ends_although_the_clock_was_set_back() {
    let Some(scene) = Scene::new().await else { return };
    let (store, dead, alive) = (scene.store(), RelayId::new(), RelayId::new());
    let ttl = Duration::from_secs(5);
    let all = store.heartbeat(dead, ttl).await.unwrap().owned;
    store.heartbeat(alive, ttl).await.unwrap();
    // As after a heartbeat by a clock that was ten days ahead.
    scene
        .run(
            "UPDATE outbox_relay SET expires_at = expires_at + interval '10 days';
             UPDATE outbox_lease SET expires_at = expires_at + interval '10 days'",
        )
        .await;
    // One heartbeat later the clock is the one that everybody goes by again. Nothing is taken from a relay that is alive.
    assert_eq!(store.heartbeat(alive, ttl).await.unwrap().owned, []);
    assert_eq!(store.heartbeat(dead, ttl).await.unwrap().owned, all);
    scene
        .run(
            "UPDATE outbox_relay SET expires_at = expires_at + interval '10 days'
             WHERE relay_id = (SELECT owner FROM outbox_lease WHERE partition = 0);
             UPDATE outbox_lease SET expires_at = expires_at + interval '10 days'",
        )
        .await;
    let take = async || {
        let membership = store.heartbeat(alive, ttl).await.unwrap();
        (membership.owned == all).then_some(membership.relays)
    };
    assert_eq!(eventually("the leases to be taken", 2 * DEADLINE, take).await, 1);
}
