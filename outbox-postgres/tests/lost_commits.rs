//! A server that loses its latest commits and assigns their positions again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use std::time::{Duration, Instant};

use integration_tests::{Postgres, Server, eventually};
use outbox_core::{Fetched, Reader, RelayId, Settle, Settlement, Store};
use outbox_postgres::{Config, Outbox, PostgresStore};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use support::{DEADLINE, LIMIT, Scene, message};

const TTL: Duration = Duration::from_secs(24 * 3600);

async fn reader(store: &PostgresStore, relay: RelayId) -> Box<dyn Reader> {
    let mut reader = store.reader();
    let beat = async || store.heartbeat(relay, TTL).await.ok();
    for partition in eventually("the server to answer", DEADLINE, beat).await.owned {
        reader.assign(partition);
    }
    reader
}

/// Fetches the only message that is ready.
async fn only(reader: &mut Box<dyn Reader>) -> Fetched {
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "no row has come");
        match reader.fetch(LIMIT, &[]).await {
            Ok(batch) if batch.rows.is_empty() => tokio::time::sleep(Duration::from_millis(10)).await,
            Ok(mut batch) => {
                assert_eq!(batch.rows.len(), 1);
                return batch.rows.remove(0);
            }
            Err(_) => {}
        }
    }
}

async fn undelivered(pool: &PgPool) -> Vec<String> {
    let list = async || {
        sqlx::query_scalar::<_, String>("SELECT topic FROM outbox_message ORDER BY 1")
            .fetch_all(pool)
            .await
            .ok()
    };
    eventually("the server to answer", DEADLINE, list).await
}

/// Every way to settle the message that was lost, after another one was enqueued at its position.
#[tokio::test]
async fn positions_that_start_again_are_those_of_other_messages() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay) = (scene.outbox.store(scene.pool.clone()), RelayId::new());
    let failed = |block_key| {
        let (after, error) = (Duration::from_secs(3600), "no".to_owned());
        [
            Settlement::Retry { after, attempts: 1, error: error.clone(), block_key },
            Settlement::Dead { attempts: 1, error, block_key },
        ]
    };
    let settlements =
        [Settlement::Delivered, Settlement::Held].into_iter().chain(failed(true)).chain(failed(false));
    for settlement in settlements {
        sqlx::raw_sql("TRUNCATE outbox_message RESTART IDENTITY").execute(&scene.pool).await.unwrap();
        scene.outbox.enqueue(&scene.pool, &message("first", Some("k"))).await.unwrap();
        let first = only(&mut reader(&store, relay).await).await;
        sqlx::raw_sql("TRUNCATE outbox_message RESTART IDENTITY").execute(&scene.pool).await.unwrap();
        scene.outbox.enqueue(&scene.pool, &message("second", Some("k"))).await.unwrap();
        for keep in [false, true] {
            store.settle(relay, &[Settle::of(&first, settlement.clone())], keep).await.unwrap();
        }
        assert_eq!(undelivered(&scene.pool).await, ["second"], "after the first was {settlement:?}");
        let second = only(&mut reader(&store, relay).await).await;
        assert_eq!((second.position, second.due, second.attempts), (first.position, false, 0));
        store.settle(relay, &[Settle::of(&second, Settlement::Delivered)], false).await.unwrap();
        assert!(undelivered(&scene.pool).await.is_empty());
        assert_eq!(store.stats(10).await.unwrap().dead_letters.value, 0);
    }
}

/// With asynchronous commits, a crash loses what was committed last, and the sequence goes back with it.
#[tokio::test]
async fn a_crash_that_loses_a_commit_loses_no_message_that_was_committed_after_it() {
    let Some(server) = Postgres::start().await else { return };
    let database = server.database().await;
    let options: PgConnectOptions = database.url().parse().unwrap();
    let pool = PgPoolOptions::new().acquire_timeout(DEADLINE).connect_with(options).await.unwrap();
    let run = async |sql: &str| {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&pool).await.unwrap();
    };
    let outbox = Outbox::new(Config::new()).unwrap();
    outbox.migrate(&pool).await.unwrap();
    // Commits reach the disk when the writer of the log runs, which is as seldom as the server allows.
    run("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    run("ALTER SYSTEM SET synchronous_commit = off").await;
    run("SELECT pg_reload_conf()").await;
    let store = outbox.store(pool.clone());
    let relay = RelayId::new();
    let deadline = Instant::now() + DEADLINE * 3;
    loop {
        let mut reader = reader(&store, relay).await;
        // A checkpoint makes the next position a part of the log, which is lost as well.
        run("CHECKPOINT").await;
        outbox.enqueue(&pool, &message("first", Some("k"))).await.unwrap();
        let first = only(&mut reader).await;
        server.kill().await;
        server.restart().await;
        let left = undelivered(&pool).await;
        let again = async || outbox.enqueue(&pool, &message("second", Some("k"))).await.ok();
        eventually("the server to answer", DEADLINE, again).await;
        let position: i64 =
            sqlx::query_scalar("SELECT max(position) FROM outbox_message").fetch_one(&pool).await.unwrap();
        let is_lost = left.is_empty() && position == first.position.0;
        let settle =
            async || store.settle(relay, &[Settle::of(&first, Settlement::Delivered)], false).await.ok();
        eventually("the server to answer", DEADLINE, settle).await;
        assert_eq!(undelivered(&pool).await, ["second"], "the confirm of the first was that of the second");
        let second = only(&mut self::reader(&store, relay).await).await;
        store.settle(relay, &[Settle::of(&second, Settlement::Delivered)], false).await.unwrap();
        assert!(undelivered(&pool).await.is_empty());
        if is_lost {
            return;
        }
        // The log was written before the crash after all.
        assert!(Instant::now() < deadline, "the server has lost no commit");
    }
}
