//! Connections that somebody has left in the middle of something.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use integration_tests::{Mode, Proxy, eventually};
use outbox_core::{Error, ErrorKind, RelayId, Store};
use outbox_mssql::{Config, Pool, tiberius};
use support::{DEADLINE, LIMIT, Scene, message, topics};
use tokio::time::timeout;

async fn scene() -> Option<Scene> {
    Scene::with(Config::new()).await
}

/// How many messages there are, without a look at open transactions.
async fn messages(scene: &Scene) -> i32 {
    scene.count("dbo.outbox_message").await
}

/// A pool of one connection, so that the next user gets what the former one has left.
fn single(scene: &Scene) -> Pool {
    support::pool(&scene.database, 1)
}

#[tokio::test]
async fn a_closure_commits_or_leaves_nothing() {
    let Some(scene) = scene().await else { return };
    let pool = single(&scene);
    let outbox = &scene.outbox;
    let number: i32 = outbox
        .transaction(&pool, async |client| {
            outbox.enqueue(client, &message("kept", None)).await?;
            Ok::<_, Error>(7)
        })
        .await
        .unwrap();
    assert_eq!(number, 7);
    let failed: Result<(), Error> = outbox
        .transaction(&pool, async |client| {
            outbox.enqueue(client, &message("lost", None)).await?;
            Err(Error::malformed("no"))
        })
        .await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Malformed);
    assert_eq!(messages(&scene).await, 1);
}

#[tokio::test]
async fn a_closure_that_is_dropped_leaves_nothing_and_no_open_transaction() {
    let Some(scene) = scene().await else { return };
    let pool = single(&scene);
    let outbox = &scene.outbox;
    let (reached, mut here) = tokio::sync::mpsc::channel::<()>(1);
    let work = outbox.transaction(&pool, async |client| {
        outbox.enqueue(client, &message("lost", None)).await?;
        reached.send(()).await.unwrap();
        std::future::pending::<Result<(), Error>>().await
    });
    tokio::select! {
        _ = work => panic!("it never ends"),
        _ = here.recv() => {}
    }
    // The one place in the pool is free again, and nobody's transaction is on it.
    outbox
        .transaction(&pool, async |client| outbox.enqueue(client, &message("kept", None)).await)
        .await
        .unwrap();
    let gone =
        eventually("the server to roll back", DEADLINE, async || (messages(&scene).await == 1).then_some(()));
    gone.await;
}

#[tokio::test]
async fn a_transaction_that_a_user_forgets_is_not_handed_to_the_next_one() {
    let Some(scene) = scene().await else { return };
    let pool = single(&scene);
    for _ in 0..5 {
        let mut client = pool.get().await.unwrap();
        client.begin_transaction().await.unwrap();
        scene.outbox.enqueue(&mut client, &message("forgotten", None)).await.unwrap();
        drop(client);
        let mut client = pool.get().await.unwrap();
        let row = client.simple_query("SELECT @@TRANCOUNT").await.unwrap().into_row().await.unwrap();
        assert_eq!(row.unwrap().get::<i32, _>(0), Some(0));
    }
    let gone =
        eventually("the server to roll back", DEADLINE, async || (messages(&scene).await == 0).then_some(()));
    gone.await;
}

/// A store whose way to the server can be broken.
async fn behind_a_proxy(scene: &Scene) -> (Proxy, Pool) {
    let address = scene.database.config().get_addr();
    let proxy = Proxy::start(tokio::net::lookup_host(address).await.unwrap().next().unwrap()).await;
    let pool = Pool::new(scene.database.config_through(&proxy), 4).unwrap();
    (proxy, pool)
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_no_answer_for_the_next_one() {
    let Some(scene) = scene().await else { return };
    let (proxy, pool) = behind_a_proxy(&scene).await;
    let store = scene.outbox.store(pool.clone());
    let relay = RelayId::new();
    let owned = store.heartbeat(relay, Duration::from_secs(24 * 3600)).await.unwrap().owned;
    let mut reader = store.reader();
    owned.iter().for_each(|partition| reader.assign(*partition));
    for round in 0..3 {
        proxy.set(Mode::Blackhole).await;
        let topic = format!("round {round}");
        scene.enqueue(&message(&topic, Some("k"))).await;
        assert!(timeout(Duration::from_millis(100), reader.fetch(LIMIT, &[])).await.is_err());
        assert!(timeout(Duration::from_millis(100), store.stats(10)).await.is_err());
        proxy.set(Mode::Pass).await;
        let rows = timeout(DEADLINE, async {
            loop {
                match reader.fetch(LIMIT, &[]).await {
                    Ok(batch) if !batch.rows.is_empty() => return topics(&batch),
                    _ => tokio::task::yield_now().await,
                }
            }
        });
        assert_eq!(rows.await.expect("the message comes"), [topic]);
        assert_eq!(store.stats(10).await.unwrap().backlog.value, round + 1);
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_unknown_and_the_pool_recovers() {
    let Some(scene) = scene().await else { return };
    let (proxy, pool) = behind_a_proxy(&scene).await;
    let outbox = &scene.outbox;
    let cut = outbox
        .transaction(&pool, async |client| {
            outbox.enqueue(client, &message("perhaps", None)).await?;
            proxy.set(Mode::CutAnswersAfter(0)).await;
            Ok::<_, Error>(())
        })
        .await;
    assert_eq!(cut.unwrap_err().verdict(), outbox_core::Verdict::Unknown);
    proxy.set(Mode::Pass).await;
    outbox
        .transaction(&pool, async |client| outbox.enqueue(client, &message("surely", None)).await)
        .await
        .unwrap();
    assert_eq!(messages(&scene).await, 2, "this server has done what it was asked to");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told_from_one_that_says_no() {
    let Some(scene) = scene().await else { return };
    let mut stranger = scene.database.config();
    stranger.authentication(tiberius::AuthMethod::sql_server("nobody", "s3cr3t"));
    let error = scene.outbox.store(Pool::new(stranger, 1).unwrap()).stats(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(!format!("{error:?}{}", error.report()).contains("s3cr3t"));

    let (proxy, pool) = behind_a_proxy(&scene).await;
    proxy.set(Mode::Refuse).await;
    let error = scene.outbox.store(pool).stats(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
