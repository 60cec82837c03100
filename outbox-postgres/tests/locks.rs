//! Locks of other sessions, and calls that a relay has given up.

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
use outbox_core::{ErrorKind, FetchLimit, Fetched, RelayId, Settle, Settlement, Store};
use outbox_postgres::PostgresStore;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use support::{DEADLINE, LIMIT, Scene, all_delivered, message};

const TTL: Duration = Duration::from_secs(600);

fn retry(row: &Fetched) -> Settle {
    let settlement = Settlement::Retry {
        after: Duration::from_secs(60),
        attempts: 1,
        error: "no".to_owned(),
        block_key: true,
    };
    Settle::of(row, settlement)
}

async fn in_time<T>(what: &str, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, call).await.unwrap_or_else(|_| panic!("{what} waits without end"))
}

async fn enqueue(scene: &Scene, count: usize) {
    let messages: Vec<_> = (0..count).map(|number| message(&number.to_string(), None)).collect();
    scene.outbox.enqueue_batch(&scene.pool, &messages).await.unwrap();
}

/// A store whose sessions can be told from those of the test, at most `most` of them besides the one for heartbeats.
fn marked(scene: &Scene, most: u32) -> PostgresStore {
    let options: PgConnectOptions = scene.database.url().parse().unwrap();
    let options = options.application_name("relay");
    scene.outbox.store(PgPoolOptions::new().max_connections(most).connect_lazy_with(options))
}

async fn sessions(scene: &Scene, condition: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'relay' AND {condition}"
    );
    scene.value(&sql).await
}

/// Makes `action` on the table of messages wait until [`open`] is called.
async fn gate(scene: &Scene, action: &str) {
    scene
        .run(&format!(
            "CREATE SEQUENCE gate;
             CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 WHILE NOT (SELECT is_called FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
                 RETURN coalesce(NEW, OLD);
             END $$;
             CREATE TRIGGER wait BEFORE {action} ON outbox_message FOR EACH ROW EXECUTE FUNCTION wait()"
        ))
        .await;
}

async fn open(scene: &Scene) {
    scene.run("SELECT nextval('gate')").await;
}

async fn at_the_gate(scene: &Scene) {
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually("the call to wait", DEADLINE, async || scene.value::<bool>(waits).await.then_some(())).await;
}

#[tokio::test]
async fn a_lock_on_one_delivered_row_costs_that_row() {
    for keep in [false, true] {
        let Some(scene) = Scene::new().await else { return };
        let (store, relay, mut reader) = scene.relay().await;
        enqueue(&scene, 100).await;
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        assert_eq!(batch.rows.len(), 100);
        let mut other = scene.pool.begin().await.unwrap();
        sqlx::query("SELECT FROM outbox_message WHERE topic = '50' FOR UPDATE")
            .execute(&mut *other)
            .await
            .unwrap();
        for attempt in 1..=2 {
            let settled = in_time("settling", store.settle(relay, &all_delivered(&batch), keep)).await;
            assert_eq!(settled.unwrap_err().kind(), ErrorKind::Conflict, "attempt {attempt}");
            let left: Vec<String> =
                sqlx::query_scalar("SELECT topic FROM outbox_message").fetch_all(&scene.pool).await.unwrap();
            assert_eq!(left, ["50"], "attempt {attempt}");
        }
        other.rollback().await.unwrap();
        store.settle(relay, &all_delivered(&batch), keep).await.unwrap();
        assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message").await, 0);
        let kept: i64 = scene.value("SELECT count(*) FROM outbox_delivered").await;
        assert_eq!(kept, if keep { 100 } else { 0 });
    }
}

#[tokio::test]
async fn a_settle_that_meets_a_lock_fails_as_a_whole_and_can_be_repeated() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    enqueue(&scene, 10).await;
    let rows = reader.fetch(LIMIT, &[]).await.unwrap().rows;
    let mut batch: Vec<_> = rows.iter().map(retry).collect();
    batch[9].settlement = Settlement::Delivered;
    let mut other = scene.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM outbox_message WHERE topic = '5' FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    for _ in 0..2 {
        let settled = in_time("settling", store.settle(relay, &batch, false)).await;
        assert_eq!(settled.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message WHERE attempts = 0").await, 10);
    }
    // The rows that nobody has locked are not in the way of each other.
    for (settle, row) in batch.iter().zip(&rows).filter(|(_, row)| row.position != rows[5].position) {
        in_time("settling", store.settle(relay, std::slice::from_ref(settle), false))
            .await
            .unwrap_or_else(|error| panic!("{error}: {row:?}"));
    }
    other.rollback().await.unwrap();
    store.settle(relay, &batch, false).await.unwrap();
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message WHERE attempts = 1").await, 9);
}

#[tokio::test]
async fn a_heartbeat_does_not_wait_for_a_settle() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    scene.run("UPDATE outbox_relay SET expires_at = now(); UPDATE outbox_lease SET expires_at = now()").await;
    // One session in all besides the reserved one, which the settle call has.
    let (store, relay) = (marked(&scene, 1), RelayId::new());
    let owned = store.heartbeat(relay, TTL).await.unwrap().owned;
    assert_eq!(owned.len(), 16);
    enqueue(&scene, 1).await;
    let row = reader.fetch(LIMIT, &[]).await.unwrap().rows.remove(0);
    gate(&scene, "UPDATE").await;
    let settling = {
        let (store, batch) = (store.clone(), [retry(&row)]);
        tokio::spawn(async move { store.settle(relay, &batch, false).await })
    };
    at_the_gate(&scene).await;
    for _ in 0..3 {
        let membership = in_time("the heartbeat", store.heartbeat(relay, TTL)).await.unwrap();
        assert_eq!(membership.owned, owned);
    }
    open(&scene).await;
    settling.await.unwrap().unwrap();
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message WHERE attempts = 1").await, 1);
}

#[tokio::test]
async fn a_settle_writes_nothing_for_a_partition_that_was_lost_meanwhile() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    let messages = [message("lost", Some("a")), message("kept", Some("b")), message("delivered", None)];
    scene.outbox.enqueue_batch(&scene.pool, &messages).await.unwrap();
    let mut rows = reader.fetch(LIMIT, &[]).await.unwrap().rows;
    rows.sort_by_key(|row| row.position);
    assert_ne!(rows[0].partition, rows[1].partition, "the keys are of different partitions");
    gate(&scene, "UPDATE").await;
    let settling = {
        let delivered = Settle::of(&rows[2], Settlement::Delivered);
        let batch = [retry(&rows[0]), retry(&rows[1]), delivered];
        tokio::spawn(async move { store.settle(relay, &batch, false).await })
    };
    at_the_gate(&scene).await;
    let lose = format!("UPDATE outbox_lease SET owner = NULL WHERE partition = {}", rows[0].partition);
    in_time("losing a lease", scene.run(&lose)).await;
    open(&scene).await;
    settling.await.unwrap().unwrap();
    let written: Vec<(String, i32)> = sqlx::query_as("SELECT topic, attempts FROM outbox_message ORDER BY 1")
        .fetch_all(&scene.pool)
        .await
        .unwrap();
    assert_eq!(written, [("kept".to_owned(), 1), ("lost".to_owned(), 0)]);
}

/// Gives up `count` calls of each kind while the table of messages is locked, and waits until none of them waits in the server.
async fn give_up(scene: &Scene, store: &PostgresStore, count: usize, waiting: &str) {
    let relay = RelayId::new();
    let owned = store.heartbeat(relay, TTL).await.unwrap().owned;
    let row = Settle {
        position: outbox_core::Position(1),
        identity: outbox_core::Identity::new([0; 16], 0),
        partition: owned[0],
        settlement: Settlement::Delivered,
    };
    let mut lock = scene.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE outbox_message IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    for _ in 0..count {
        let mut reader = store.reader();
        owned.iter().for_each(|partition| reader.assign(*partition));
        let limit = FetchLimit { messages: 10, bytes: 1 << 20 };
        // Long enough for most of them to come as far as the lock, and shorter than any limit on waiting for it.
        let patience = Duration::from_millis(200);
        let given_up = tokio::join!(
            tokio::time::timeout(patience, reader.fetch(limit, &[])),
            tokio::time::timeout(patience, store.settle(relay, std::slice::from_ref(&row), false)),
            tokio::time::timeout(patience, store.repair(relay, &owned, 10)),
        );
        drop(given_up);
    }
    let none = async || (scene.value::<i64>(waiting).await == 0).then_some(());
    eventually("every given-up call to leave the server", DEADLINE, none).await;
    // Heartbeats go on.
    in_time("the heartbeat", store.heartbeat(relay, TTL)).await.unwrap();
    lock.rollback().await.unwrap();
    let settle = async || store.settle(relay, std::slice::from_ref(&row), false).await.ok();
    eventually("settling to work again", DEADLINE, settle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_up_calls_do_not_pile_up_behind_a_locked_table() {
    let Some(scene) = Scene::new().await else { return };
    let waiting = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'relay' AND wait_event_type = 'Lock'";
    give_up(&scene, &marked(&scene, 5), 10, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_up_calls_do_not_pile_up_through_a_pooler() {
    let Some(scene) = Scene::new().await else { return };
    let Some(pooler) = PgBouncer::before(&scene.database, &[]) else { return };
    let pool: PgPool = PgPoolOptions::new().max_connections(5).connect(pooler.url()).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'";
    give_up(&scene, &scene.outbox.store(pool), 3, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_stops_working_for_a_call_that_was_given_up() {
    let Some(scene) = Scene::new().await else { return };
    if scene.value::<i32>("SELECT current_setting('server_version_num')::integer").await < 140_000 {
        // Where the server cannot notice, it is left to the limit on statements.
        return;
    }
    let (store, relay) = (marked(&scene, 5), RelayId::new());
    let mut reader = store.reader();
    for partition in store.heartbeat(relay, TTL).await.unwrap().owned {
        reader.assign(partition);
    }
    enqueue(&scene, 1).await;
    let row = Settle::of(&reader.fetch(LIMIT, &[]).await.unwrap().rows[0], Settlement::Delivered);
    gate(&scene, "DELETE").await;
    let settling = tokio::spawn(async move { store.settle(relay, &[row], false).await });
    at_the_gate(&scene).await;
    settling.abort();
    // Far sooner than the limit on statements.
    let gone = async || (sessions(&scene, "state = 'active'").await == 0).then_some(());
    eventually("the server to notice", Duration::from_secs(20), gone).await;
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_message").await, 1);
}

#[tokio::test]
async fn sessions_limit_statements_unless_the_pool_does() {
    let Some(scene) = Scene::new().await else { return };
    scene
        .run(
            "CREATE TABLE seen (lock text, statement text);
             CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO seen VALUES (current_setting('lock_timeout'), current_setting('statement_timeout'));
                 RETURN OLD;
             END $$;
             CREATE TRIGGER look BEFORE DELETE ON outbox_message FOR EACH ROW EXECUTE FUNCTION look()",
        )
        .await;
    for (setting, expected) in [(None, "25s"), (Some("90s"), "90s")] {
        let mut options: PgConnectOptions = scene.database.url().parse().unwrap();
        if let Some(setting) = setting {
            options = options.options([("statement_timeout", setting)]);
        }
        let store = scene.outbox.store(PgPoolOptions::new().connect_lazy_with(options));
        enqueue(&scene, 1).await;
        let mut reader = store.reader();
        support::partitions(16).for_each(|partition| reader.assign(partition));
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        store.settle(RelayId::new(), &all_delivered(&batch), false).await.unwrap();
        let seen: (String, String) = sqlx::query_as("DELETE FROM seen RETURNING lock, statement")
            .fetch_one(&scene.pool)
            .await
            .unwrap();
        assert_eq!(seen, ("1s".to_owned(), expected.to_owned()));
    }
}

#[tokio::test]
async fn an_error_that_the_server_answers_keeps_the_sessions() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay) = (marked(&scene, 5), RelayId::new());
    let owned = store.heartbeat(relay, TTL).await.unwrap().owned;
    enqueue(&scene, 1).await;
    let mut reader = store.reader();
    owned.iter().for_each(|partition| reader.assign(*partition));
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    let pids = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'relay'";
    let before: Vec<i32> = scene.value(pids).await;
    scene
        .run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
             CREATE TRIGGER refuse BEFORE DELETE OR UPDATE ON outbox_message EXECUTE FUNCTION refuse()",
        )
        .await;
    // Alone, and within a transaction.
    for batch in [all_delivered(&batch), vec![retry(&batch.rows[0])]] {
        store.settle(relay, &batch, false).await.unwrap_err();
        assert_eq!(scene.value::<Vec<i32>>(pids).await, before);
        assert_eq!(sessions(&scene, "state <> 'idle'").await, 0, "nothing is left open");
    }
    scene.run("DROP TRIGGER refuse ON outbox_message").await;
    store.settle(relay, &all_delivered(&batch), false).await.unwrap();
    assert_eq!(scene.value::<Vec<i32>>(pids).await, before);
}
