//! A peer that is gone without a word: a host that lost its power, a network that forgot its connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::{Mode, Postgres, Proxy, Server, eventually};
use outbox_core::memory::MemoryPublisher;
use outbox_core::{ErrorKind, Relay, RelayId, Settings, Store};
use outbox_postgres::{Config, PostgresStore};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use support::{DEADLINE, Scene, message};

const TTL: Duration = Duration::from_secs(24 * 3600);

/// A database, and a pool that reaches it through a proxy. The pool gives up soon on a connection that has vanished. A call may
/// also fail because a busy machine needs longer for a connection, so calls that must succeed are repeated.
async fn scene() -> Option<(Scene, Proxy, PgPool)> {
    let server = Postgres::shared().await?;
    let scene = Scene::with(Config::new()).await?;
    let proxy = server.proxy().await;
    let options: PgConnectOptions = scene.database.url_through(&proxy).parse().unwrap();
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(1)).connect_lazy_with(options);
    Some((scene, proxy, pool))
}

fn store(scene: &Scene, pool: &PgPool) -> PostgresStore {
    scene.outbox.store(pool.clone())
}

async fn arrived(publisher: &MemoryPublisher, count: u64) {
    let all = tokio::time::timeout(DEADLINE, publisher.wait_for(count)).await;
    all.unwrap_or_else(|_| panic!("only {} of {count} messages arrived", publisher.count()));
}

/// Lets the other relay's calls come as far as a lock of ours, and vanish there.
async fn vanish_in(scene: &Scene, proxy: &Proxy, statement: &str, call: impl Future<Output = ()>) {
    let mut lock = scene.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE outbox_lease IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let waits = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%{statement}%'"
    );
    let vanish = async {
        eventually("the call to wait", DEADLINE, async || scene.value::<bool>(&waits).await.then_some(()))
            .await;
        proxy.set(Mode::Vanish).await;
    };
    tokio::select! {
        () = call => panic!("it cannot have got an answer"),
        () = vanish => {}
    }
    lock.rollback().await.unwrap();
    proxy.set(Mode::Pass).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_vanishes_in_a_heartbeat_does_not_keep_the_group_locked() {
    let Some((scene, proxy, pool)) = scene().await else { return };
    let vanishing = store(&scene, &pool);
    eventually("a connection", DEADLINE, async || vanishing.stats(1).await.ok()).await;
    let heartbeat = async { while vanishing.heartbeat(RelayId::new(), TTL).await.is_err() {} };
    vanish_in(&scene, &proxy, "outbox_lease", heartbeat).await;
    let other = scene.store();
    let beaten = tokio::time::timeout(DEADLINE, other.heartbeat(RelayId::new(), TTL)).await;
    beaten.expect("the lock is free again").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_nobody_waits_for_any_more_does_not_take_effect_later() {
    let Some((scene, proxy, pool)) = scene().await else { return };
    let (vanishing, relay) = (store(&scene, &pool), RelayId::new());
    let beat = async || vanishing.heartbeat(relay, TTL).await.ok();
    let owned = eventually("the first heartbeat", DEADLINE, beat).await.owned;
    let release = async { while vanishing.release(relay, &owned).await.is_err() {} };
    vanish_in(&scene, &proxy, "SET owner = NULL", release).await;
    // The release is undone, or waited for: the leases are what the next heartbeat is told.
    let believed = eventually("a connection that works", DEADLINE, beat).await.owned;
    let idle = "SELECT count(*) = 0 FROM pg_stat_activity
                WHERE datname = current_database() AND state = 'idle in transaction'";
    eventually("the server to notice", DEADLINE, async || scene.value::<bool>(idle).await.then_some(()))
        .await;
    let held: i64 = scene.value("SELECT count(*) FROM outbox_lease WHERE owner IS NOT NULL").await;
    assert_eq!(held, i64::try_from(believed.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_goes_on_after_its_connections_have_vanished() {
    let Some((scene, proxy, pool)) = scene().await else { return };
    let mut settings = Settings::default();
    settings.store_timeout = Duration::from_secs(1);
    settings.shutdown_timeout = DEADLINE;
    let publisher = MemoryPublisher::new();
    let relay = Relay::builder(store(&scene, &pool), publisher.clone()).settings(settings).build().unwrap();
    let relay = relay.spawn();
    for round in 1..=3 {
        scene.outbox.enqueue(&scene.pool, &message(&format!("before {round}"), Some("k"))).await.unwrap();
        arrived(&publisher, 2 * round - 1).await;
        proxy.set(Mode::Vanish).await;
        scene.outbox.enqueue(&scene.pool, &message(&format!("after {round}"), Some("k"))).await.unwrap();
        proxy.set(Mode::Pass).await;
        arrived(&publisher, 2 * round).await;
    }
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_membership_has_ended_is_idle_again_in_the_next_one() {
    let Some(scene) = Scene::with(Config::new()).await else { return };
    let publisher = MemoryPublisher::new();
    let relay = Relay::builder(scene.store(), publisher.clone()).build().unwrap().spawn();
    let is_idle = async || {
        let idle = "SELECT coalesce(bool_and(idle), false) FROM outbox_relay";
        eventually("the relay to be idle", DEADLINE, async || scene.value::<bool>(idle).await.then_some(()))
            .await;
    };
    for round in 1..=2 {
        is_idle().await;
        // As when it had been suspended for longer than its lease.
        scene.run("UPDATE outbox_relay SET expires_at = now() - interval '1 second'").await;
        is_idle().await;
        scene.run("DELETE FROM outbox_relay; UPDATE outbox_lease SET owner = NULL, expires_at = NULL").await;
        is_idle().await;
        scene.outbox.enqueue(&scene.pool, &message(&format!("round {round}"), None)).await.unwrap();
        arrived(&publisher, round).await;
    }
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_notices_that_its_connection_has_vanished() {
    let Some((scene, proxy, pool)) = scene().await else { return };
    let store = store(&scene, &pool);
    let mut wakeups = store.wakeups().await.unwrap().expect("PostgreSQL has wake-ups");
    proxy.set(Mode::Vanish).await;
    proxy.set(Mode::Pass).await;
    let error = tokio::time::timeout(DEADLINE, wakeups.wait()).await.expect("it does not wait for ever");
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Timeout);
    // The next one works.
    let mut wakeups = store.wakeups().await.unwrap().expect("PostgreSQL has wake-ups");
    let relay = RelayId::new();
    scene.store().heartbeat(relay, TTL).await.unwrap();
    scene.store().set_idle(relay, true).await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("hint", None)).await.unwrap();
    tokio::time::timeout(DEADLINE, wakeups.wait()).await.expect("a hint").unwrap();
}
