//! A peer that is gone without a word: a host that lost its power, a network that forgot its connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::{MariaDb, Mode, MySql, Proxy, Server, eventually};
use outbox_core::memory::MemoryPublisher;
use outbox_core::{Relay, RelayId, Settings, Store};
use outbox_mysql::MySqlStore;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use support::{DEADLINE, Product, Scene, message, on_both};

const TTL: Duration = Duration::from_secs(24 * 3600);

/// A database, and a pool that reaches it through a proxy. The pool gives up soon on a connection that has vanished. A call may
/// also fail because a busy machine needs longer for a connection, so calls that must succeed are repeated.
async fn scene(product: Product) -> Option<(Scene, Proxy, MySqlPool)> {
    let scene = product.scene().await?;
    let proxy = match product {
        Product::MariaDb => MariaDb::shared().await?.proxy().await,
        Product::MySql => MySql::shared().await?.proxy().await,
    };
    let options: MySqlConnectOptions = scene.database.url_through(&proxy).parse().unwrap();
    let pool = MySqlPoolOptions::new().acquire_timeout(Duration::from_secs(1)).connect_lazy_with(options);
    Some((scene, proxy, pool))
}

fn store(scene: &Scene, pool: &MySqlPool) -> MySqlStore {
    scene.outbox.store(pool.clone())
}

/// Lets the other relay's call come as far as a lock of ours, and vanish there.
async fn vanish_in(scene: &Scene, proxy: &Proxy, call: impl Future<Output = ()>) {
    let mut lock = scene.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM outbox_lease FOR UPDATE").execute(&mut *lock).await.unwrap();
    // Of the whole server, so one at a time. MySQL fails to show a list of transactions where statements have bytes in them.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let waits = async || {
        let status = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'";
        let (_, waits): (String, String) = sqlx::query_as(status).fetch_one(&scene.pool).await.unwrap();
        (waits != "0").then_some(())
    };
    let vanish = async {
        eventually("the call to wait", DEADLINE, waits).await;
        proxy.set(Mode::Vanish).await;
    };
    tokio::select! {
        () = call => panic!("it cannot have got an answer"),
        () = vanish => {}
    }
    lock.rollback().await.unwrap();
    proxy.set(Mode::Pass).await;
}

async fn a_relay_that_vanishes_in_a_heartbeat_does_not_keep_the_group_locked(product: Product) {
    let Some((scene, proxy, pool)) = scene(product).await else { return };
    let vanishing = store(&scene, &pool);
    let relay = RelayId::new();
    let beat = async || vanishing.heartbeat(relay, TTL).await.ok();
    assert!(!eventually("the first heartbeat", DEADLINE, beat).await.owned.is_empty());
    let heartbeat = async { while vanishing.heartbeat(relay, TTL).await.is_err() {} };
    vanish_in(&scene, &proxy, heartbeat).await;
    // Each try waits for a lock for ten seconds at most.
    let other = scene.outbox.store(scene.pool.clone());
    let beaten = tokio::time::timeout(2 * DEADLINE, other.heartbeat(RelayId::new(), TTL)).await;
    beaten.expect("the lock is free again").unwrap();
}

async fn a_release_that_nobody_waits_for_any_more_does_not_take_effect_later(product: Product) {
    let Some((scene, proxy, pool)) = scene(product).await else { return };
    let (vanishing, relay) = (store(&scene, &pool), RelayId::new());
    let beat = async || vanishing.heartbeat(relay, TTL).await.ok();
    let owned = eventually("the first heartbeat", DEADLINE, beat).await.owned;
    let release = async { while vanishing.release(relay, &owned).await.is_err() {} };
    vanish_in(&scene, &proxy, release).await;
    // The release is undone, or waited for: the leases are what the next heartbeat is told.
    let believed = eventually("a connection that works", 2 * DEADLINE, beat).await.owned;
    let free = async || {
        let lock = sqlx::query("SELECT * FROM outbox_lease FOR UPDATE NOWAIT").execute(&scene.pool).await;
        lock.is_ok().then_some(())
    };
    eventually("the server to notice", DEADLINE, free).await;
    let held: i64 = scene.value("SELECT COUNT(*) FROM outbox_lease WHERE owner IS NOT NULL").await;
    assert_eq!(held, i64::try_from(believed.len()).unwrap());
}

async fn a_relay_goes_on_after_its_connections_have_vanished(product: Product) {
    let Some((scene, proxy, pool)) = scene(product).await else { return };
    let mut settings = Settings::default();
    settings.store_timeout = Duration::from_secs(1);
    settings.shutdown_timeout = DEADLINE;
    let publisher = MemoryPublisher::new();
    let relay = Relay::builder(store(&scene, &pool), publisher.clone()).settings(settings).build().unwrap();
    let relay = relay.spawn();
    let arrived = async |count| {
        // A session that vanished in a transaction keeps its locks until the server ends it, after fifteen seconds.
        let all = tokio::time::timeout(2 * DEADLINE, publisher.wait_for(count)).await;
        all.unwrap_or_else(|_| panic!("only {} of {count} messages arrived", publisher.count()));
    };
    for round in 1..=3 {
        scene.outbox.enqueue(&scene.pool, &message(&format!("before {round}"), Some("k"))).await.unwrap();
        arrived(2 * round - 1).await;
        proxy.set(Mode::Vanish).await;
        scene.outbox.enqueue(&scene.pool, &message(&format!("after {round}"), Some("k"))).await.unwrap();
        proxy.set(Mode::Pass).await;
        arrived(2 * round).await;
    }
    // The server may still hold the lock of a vanished session on the row of the last message. A relay that stops gives up
    // the outcome of such a row (ADR 0019).
    if let Err(error) = relay.shutdown().await {
        assert_eq!(error.kind(), outbox_core::ErrorKind::Timeout, "{}", error.report());
    }
}

on_both!(
    a_relay_that_vanishes_in_a_heartbeat_does_not_keep_the_group_locked,
    a_release_that_nobody_waits_for_any_more_does_not_take_effect_later,
    a_relay_goes_on_after_its_connections_have_vanished,
);
