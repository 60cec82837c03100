//! The ground the reader stands on: a transaction has its id before it draws a position.
//!
//! It rests on PostgreSQL evaluating the defaults of a row in the order of the columns. If a version of it ever did
//! otherwise, these tests would tell.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use integration_tests::eventually;
use outbox_postgres::Outbox;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, PgPool};

use support::{DEADLINE, Scene, message};

/// The ways to insert of which a plan can be seen.
const INSERTS: [&str; 6] = [
    "INSERT INTO outbox_message (topic, payload) VALUES ('t', '')",
    "INSERT INTO outbox_message (topic, payload) VALUES ('t', ''), ('u', '')",
    "INSERT INTO outbox_message (payload, topic) SELECT '', 't' FROM generate_series(1, 3)",
    "INSERT INTO outbox_message (payload, topic) SELECT '', i::text FROM generate_series(1, 3) i ORDER BY i DESC",
    "WITH new AS (INSERT INTO outbox_message (topic, payload) VALUES ('t', '') RETURNING position) TABLE new",
    "INSERT INTO outbox_message (position, topic, payload) VALUES (DEFAULT, 't', '')",
];

#[tokio::test]
async fn plans_compute_the_id_before_the_position() {
    let Some(scene) = Scene::new().await else { return };
    let batch = "INSERT INTO outbox_message (message_id, topic, payload)
         SELECT * FROM unnest('{}'::uuid[], '{}'::text[], '{}'::bytea[]) WITH ORDINALITY AS new (a, b, c, number) ";
    let batch = batch.replace("SELECT *", "SELECT a, b, c") + "ORDER BY number";
    for insert in INSERTS.into_iter().chain([batch.as_str()]) {
        let plan = scene.explain(&format!("EXPLAIN (VERBOSE) {insert}")).await;
        let output =
            plan.lines().find(|line| line.contains("Output:") && line.contains("pg_current_xact_id()"));
        let output = output.unwrap_or_else(|| panic!("{insert}: no output with an id in\n{plan}"));
        let id = output.find("pg_current_xact_id()").unwrap();
        let position = output.find("nextval(").unwrap_or_else(|| panic!("{insert}: no position in\n{plan}"));
        assert!(id < position, "{insert}:\n{plan}");
    }
}

/// While the sequence is locked, whoever wants a position stands still right there, and one can see whether it has an
/// id already.
async fn waits_for_a_position_with_an_id(scene: &Scene, pid: i32) {
    let look = async || {
        let sql = "SELECT pid FROM pg_locks
             WHERE pid = $1 AND NOT granted AND relation = 'outbox_message_position_seq'::regclass";
        sqlx::query_scalar::<_, i32>(sql).bind(pid).fetch_optional(&scene.pool).await.unwrap()
    };
    eventually("a writer to wait for the sequence", DEADLINE, look).await;
    // Asked only now: one statement reads activities and locks one after the other, and so could see the writer as it
    // was before it had an id, and the lock that it waits for since.
    let sql = "SELECT backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = $1";
    let has_id: bool = sqlx::query_scalar(sql).bind(pid).fetch_one(&scene.pool).await.unwrap();
    assert!(has_id, "a position is drawn before the transaction has an id");
}

async fn lock_sequence(pool: &PgPool) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = pool.begin().await.unwrap();
    // Takes a lock that excludes nextval, and changes nothing.
    sqlx::query("ALTER SEQUENCE outbox_message_position_seq CACHE 1").execute(&mut *tx).await.unwrap();
    tx
}

async fn copy(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut copy = connection.copy_in_raw("COPY outbox_message (topic, payload) FROM STDIN").await?;
    copy.send(&b"t\t\nu\t\n"[..]).await?;
    copy.finish().await.map(|_| ())
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Sql(&'static str),
    Copy,
    Enqueue,
    EnqueueBatch,
}

async fn insert(way: Way, outbox: &Outbox, connection: &mut PgConnection) {
    match way {
        Way::Sql(sql) => {
            sqlx::query(AssertSqlSafe(sql)).execute(connection).await.unwrap();
        }
        Way::Copy => copy(connection).await.unwrap(),
        Way::Enqueue => outbox.enqueue(connection, &message("t", None)).await.unwrap(),
        Way::EnqueueBatch => {
            let messages = [message("t", None), message("u", None)];
            outbox.enqueue_batch(connection, &messages).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_transaction_that_waits_for_its_first_position_has_an_id() {
    let Some(scene) = Scene::new().await else { return };
    let ways = INSERTS.into_iter().map(Way::Sql).chain([
        // Allowed from PostgreSQL 14 on; before, it is an error.
        Way::Sql("INSERT INTO outbox_message (position, topic, payload) VALUES (DEFAULT, 't', ''), (DEFAULT, 'u', '')"),
        Way::Copy,
        Way::Enqueue,
        Way::EnqueueBatch,
    ]);
    let version: i32 = scene.value("SELECT current_setting('server_version_num')::integer").await;
    for way in ways {
        if version < 140_000 && matches!(way, Way::Sql(sql) if sql.contains("(DEFAULT, 'u'")) {
            continue;
        }
        let lock = lock_sequence(&scene.pool).await;
        let mut connection = scene.pool.acquire().await.unwrap();
        let pid: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
        let outbox = scene.outbox.clone();
        let writer = tokio::spawn(async move { insert(way, &outbox, &mut connection).await });
        waits_for_a_position_with_an_id(&scene, pid).await;
        lock.rollback().await.unwrap();
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn nobody_chooses_a_position_by_accident() {
    let Some(scene) = Scene::new().await else { return };
    let chosen = sqlx::query("INSERT INTO outbox_message (position, topic, payload) VALUES (1, 't', '')");
    assert!(chosen.execute(&scene.pool).await.is_err());
}
