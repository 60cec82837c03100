//! Plans that were made for an empty table, on a full one.

use std::time::Duration;

use integration_tests::{Postgres, Server};
use outbox_core::{
    Batch, Content, FetchLimit, Identity, Message, Partition, Position, RelayId, Settle, Settlement, Store,
};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::{Config, Outbox, PostgresStore};

const LIMIT: FetchLimit = FetchLimit { messages: 1000, bytes: 16 << 20 };
const ALL: &str = "'{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}'";

struct Statement {
    name: String,
    /// How often a plan was used that had been kept, and how often one was made.
    kept: i64,
    made: i64,
}

async fn prepared(session: &mut PgConnection, containing: &str) -> Statement {
    let sql = "SELECT name, generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE $1";
    let row = sqlx::query(sql).bind(format!("%{containing}%")).fetch_one(session).await.unwrap();
    Statement { name: row.get(0), kept: row.get(1), made: row.get(2) }
}

async fn plan(session: &mut PgConnection, statement: &Statement, parameters: &str) -> String {
    let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE {} ({parameters})", statement.name));
    let lines = sqlx::raw_sql(explain).fetch_all(session).await.unwrap();
    lines.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

fn topics(batch: &Batch) -> Vec<String> {
    let topic = |row: &outbox_core::Fetched| match &row.content {
        Content::Message(message) => message.topic().to_owned(),
        Content::Malformed { reason, .. } => reason.clone(),
    };
    batch.rows.iter().map(topic).collect()
}

async fn deliver(store: &PostgresStore, relay: RelayId, batch: &Batch) {
    let delivered: Vec<Settle> =
        batch.rows.iter().map(|row| Settle::of(row, Settlement::Delivered)).collect();
    store.settle(relay, &delivered, false).await.unwrap();
}

#[tokio::test]
async fn plans_are_right_for_a_table_that_has_grown() {
    let Some(server) = Postgres::shared().await else { return };
    let database = server.database().await;
    let pool = database.pool(5).await;
    let outbox = Outbox::new(Config::new()).unwrap();
    outbox.migrate(&pool).await.unwrap();
    let run = async |sql: &str| {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&pool).await.unwrap();
    };
    let version = "SELECT current_setting('server_version_num')::integer";
    if sqlx::query_scalar::<_, i32>(version).fetch_one(&pool).await.unwrap() < 140_000 {
        // The counts of plans came with 14. What they show is the planner's doing, which is older.
        return;
    }
    // Statistics of an empty table, and never again any newer ones: the worst for a planner.
    run("ALTER TABLE outbox_message SET (autovacuum_enabled = off)").await;
    run("ALTER TABLE outbox_message SET (toast.autovacuum_enabled = off)").await;
    sqlx::query("VACUUM ANALYZE outbox_message").execute(&pool).await.unwrap();
    let (store, relay) = (outbox.store(pool.clone()), RelayId::new());
    let owned = store.heartbeat(relay, Duration::from_secs(600)).await.unwrap().owned;
    let mut reader = store.reader();
    owned.iter().for_each(|partition| reader.assign(*partition));
    let unknown = Settle {
        position: Position(1),
        identity: Identity::new([0; 16], 0),
        partition: Partition(0),
        settlement: Settlement::Delivered,
    };
    for _ in 0..20 {
        reader.fetch(LIMIT, &[]).await.unwrap();
        store.settle(relay, std::slice::from_ref(&unknown), false).await.unwrap();
    }
    let late = Message::bytes("late", "late").key("k").build().unwrap();
    for _ in 0..10 {
        // One that commits after a cursor has gone past it.
        let mut transaction = pool.begin().await.unwrap();
        outbox.enqueue(&mut *transaction, &late).await.unwrap();
        let in_time = Message::bytes("in time", "in time").key("k").build().unwrap();
        outbox.enqueue(&pool, &in_time).await.unwrap();
        deliver(&store, relay, &reader.fetch(LIMIT, &[]).await.unwrap()).await;
        transaction.commit().await.unwrap();
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        assert_eq!(topics(&batch), ["late"]);
        deliver(&store, relay, &batch).await;
    }

    let fill = "INSERT INTO outbox_message (topic, key, payload)
         SELECT 't', (i % 500)::text, decode(repeat('ab', 200), 'hex') FROM generate_series(1, 50000) i";
    run(fill).await;
    // One that is due, one that blocks, and late ones.
    run("INSERT INTO outbox_message (topic, key, payload, available_at, blocks_key) VALUES ('due', 'x', '', now(), true)")
        .await;
    let mut transaction = pool.begin().await.unwrap();
    outbox.enqueue(&mut *transaction, &late).await.unwrap();
    run(fill).await;
    let mut batch = reader.fetch(LIMIT, &[]).await.unwrap();
    while batch.more {
        deliver(&store, relay, &batch).await;
        batch = reader.fetch(LIMIT, &[]).await.unwrap();
    }
    transaction.commit().await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["late"]);

    run(fill).await;
    // There is only this one, as there was never more than one call at a time.
    let mut session = store.lend().await.unwrap();
    let many = |value: i64| format!("'{{{}}}'", vec![value.to_string(); 16].join(","));
    let identities = |count: usize| {
        let repeated = |value: &str| vec![value; count].join(",");
        let (id, time) = (repeated("00000000-0000-0000-0000-000000000000"), repeated("2000-01-01T00:00:00Z"));
        format!("'{{{id}}}', '{{{time}}}'")
    };
    for (text, keeps, parameters) in [
        (
            "pg_current_xact_id",
            Some(true),
            format!(
                "{ALL}, {}, {}, {}, {ALL}, '{{1,2}}', false, 1000, {}, '9:9:'",
                many(500),
                many(62),
                many(9999),
                many(400),
            ),
        ),
        (
            "AS scan (own, after, upto, quota, bytes, base, snapshot)",
            // For few partitions the plan for these is the cheaper one.
            None,
            format!(
                "'{{1}}', '{{0}}', '{{1000}}', '{{100}}', '{{1000}}', '{{1:1:}}', '{{9:9:}}', {ALL}, false"
            ),
        ),
        (
            "w.available_at <= now()",
            Some(false),
            format!("{ALL}, 100, 10000, '{{1,2}}', false, {}", many(1 << 30)),
        ),
        (
            "WITH gone",
            Some(false),
            format!("'{{1,2,3}}', '{{100000,100001,100002}}', {}, false", identities(3)),
        ),
        (
            "get_bit",
            Some(false),
            format!(
                r"'{{1,2}}', '{{100000,100001}}', '{{100031,100032}}', '{{\\x11111111,\\x11111111}}', {}, false",
                identities(64)
            ),
        ),
    ] {
        let statement = prepared(session.connection(), text).await;
        let Statement { kept, made, .. } = statement;
        assert!(
            made > 0 && keeps.is_none_or(|keeps| keeps == (kept > 0)),
            "{text}: {kept} kept, {made} made"
        );
        let plan = plan(session.connection(), &statement, &parameters).await;
        assert!(!plan.contains("Seq Scan on outbox_message"), "{plan}");
        // The others sort a few rows: due ones as they come together from all partitions, late ones, released ones.
        assert!(text != "pg_current_xact_id" || !plan.contains("Sort"), "{plan}");
        assert!(plan.contains("outbox_message_pkey") || plan.contains("outbox_message_due"), "{plan}");
        // PostgreSQL compiles statements that it takes for costly to machine code, which takes longer than they do.
        assert!(!plan.contains("JIT"), "{plan}");
    }
    // Counting goes through the table as it lies, unlike everything else.
    let mut transaction = session.begin_unplanned().await.unwrap();
    let count = "EXPLAIN SELECT count(*) FROM (SELECT FROM outbox_message LIMIT 100001) counted";
    let lines = sqlx::raw_sql(count).fetch_all(&mut *transaction).await.unwrap();
    let plan = lines.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n");
    assert!(plan.contains("Seq Scan on outbox_message"), "{plan}");
    transaction.rollback().await.unwrap();
    session.end(Ok(())).await.unwrap();
}
