//! Making the tables, their versions, and the rights that are needed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use outbox_core::{ErrorKind, RelayId, Store};
use outbox_postgres::{Config, Outbox};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row};

use support::{LIMIT, Scene, all_delivered, message};

#[tokio::test]
async fn ten_processes_migrate_at_once() {
    let Some(scene) = Scene::empty(Config::new().schema("new one")).await else { return };
    let mut pools = Vec::new();
    for _ in 0..10 {
        pools.push(scene.database.pool(1).await);
    }
    let results = join_all(pools.iter().map(|pool| scene.outbox.migrate(pool))).await;
    results.into_iter().for_each(|result| result.unwrap());
    assert_eq!(scene.value::<i64>(r#"SELECT count(*) FROM "new one".outbox_lease"#).await, 16);
}

#[tokio::test]
async fn the_printed_ddl_makes_the_same_tables() {
    let Some(scene) = Scene::new().await else { return };
    let Some(by_hand) = Scene::empty(Config::new()).await else { return };
    by_hand.run(&by_hand.outbox.ddl()).await;
    let structure = async |pool: &PgPool| -> Vec<String> {
        let rows = sqlx::query(
            "SELECT c.relname || ' ' || coalesce(a.attname, '') || ' ' || coalesce(format_type(a.atttypid, a.atttypmod), '')
                || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || ' ' || coalesce(c.reloptions::text, '')
                || ' ' || coalesce(i.indexdef, '')
             FROM pg_class c
             LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
             LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
             LEFT JOIN pg_indexes i ON i.indexname = c.relname
             WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1",
        );
        rows.fetch_all(pool).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let made = structure(&scene.pool).await;
    assert!(
        made.iter().any(|line| line.starts_with("outbox_message xact xid8 pg_current_xact_id()")),
        "{made:#?}"
    );
    assert_eq!(structure(&by_hand.pool).await, made);
    by_hand.outbox.migrate(&by_hand.pool).await.unwrap();
}

#[tokio::test]
async fn newer_tables_are_refused_and_left_alone() {
    let Some(scene) = Scene::new().await else { return };
    scene.run("UPDATE outbox_meta SET schema_version = 2").await;
    let error = scene.outbox.migrate(&scene.pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(
        error.to_string().contains("newer") && error.to_string().contains("tables: 2, library: 1"),
        "{error}"
    );
    let error = scene.store().heartbeat(RelayId::new(), Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_relay").await, 0);
}

#[tokio::test]
async fn the_number_of_partitions_is_fixed() {
    let Some(scene) = Scene::with(Config::new().partitions(4)).await else { return };
    let other = Outbox::new(Config::new().partitions(8)).unwrap();
    let error = other.migrate(&scene.pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("tables: 4, settings: 8"), "{error}");
    // For everything else the tables count.
    let store = other.store(scene.pool.clone());
    assert_eq!(store.heartbeat(RelayId::new(), Duration::from_secs(1)).await.unwrap().partitions, 4);
    scene
        .run("INSERT INTO outbox_message (topic, payload) SELECT 't', '' FROM generate_series(1, 100)")
        .await;
    assert_eq!(scene.value::<i16>("SELECT max(partition) FROM outbox_message").await, 3);
}

#[tokio::test]
async fn without_tables_the_store_says_what_to_do_and_works_once_they_are_there() {
    let Some(scene) = Scene::empty(Config::new()).await else { return };
    let store = scene.store();
    let error = store.stats(10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("run migrate"), "{error}");
    let error = scene.outbox.enqueue(&scene.pool, &message("t", None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    scene.outbox.migrate(&scene.pool).await.unwrap();
    store.stats(10).await.unwrap();
}

#[tokio::test]
async fn a_database_whose_texts_may_be_anything_is_refused() {
    let Some(scene) = Scene::empty(Config::new()).await else { return };
    let name = format!("{}_ascii", scene.database.name());
    scene
        .run(&format!(
            "CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        ))
        .await;
    let options = (*scene.pool.connect_options()).clone().database(&name);
    let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
    let refused = scene.outbox.migrate(&pool).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(scene.outbox.ddl())).execute(&pool).await.unwrap();
    let used = scene.outbox.store(pool.clone()).stats(1).await;
    pool.close().await;
    scene.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    for error in [refused.unwrap_err(), used.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("SQL_ASCII"), "{error}");
    }
}

/// A pool of a new role. Names of roles belong to the whole server, so they must not meet those of other tests.
async fn role(scene: &Scene, what: &str) -> (String, PgPool) {
    let name = format!("{}_{what}", scene.database.name());
    scene.run(&format!("CREATE ROLE {name} LOGIN")).await;
    let options = (*scene.pool.connect_options()).clone().username(&name);
    (name, PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap())
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let Some(scene) = Scene::new().await else { return };
    let (enqueuer, enqueuing) = role(&scene, "enqueuer").await;
    let (relay, relaying) = role(&scene, "relay").await;

    let error = scene.outbox.enqueue(&enqueuing, &message("t", Some("k"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    let store = scene.outbox.store(relaying.clone());
    assert_eq!(store.stats(1).await.unwrap_err().kind(), ErrorKind::Permission);
    let error = scene.outbox.migrate(&relaying).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");

    scene.run(&grants("app").replace("app", &enqueuer)).await;
    scene.run(&grants("relay").replace(" relay;", &format!(" {relay};"))).await;

    scene.outbox.enqueue(&enqueuing, &message("t1", Some("k"))).await.unwrap();
    scene.outbox.enqueue_batch(&enqueuing, &[message("t2", Some("k"))]).await.unwrap();
    // What belongs to the outbox they cannot touch.
    for column in ["position", "xact", "blocks_key"] {
        let sql = format!("INSERT INTO outbox_message (topic, payload, {column}) VALUES ('t', '', DEFAULT)");
        let error = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&enqueuing).await.unwrap_err();
        assert_eq!(outbox_postgres::map_error(error).kind(), ErrorKind::Permission, "{column}");
    }
    exercise(&store).await;
}

#[tokio::test]
async fn the_printed_ddl_needs_no_right_to_create_schemas() {
    let Some(scene) = Scene::empty(Config::new()).await else { return };
    let (maker, making) = role(&scene, "maker").await;
    scene.run(&format!("GRANT CREATE ON SCHEMA public TO {maker}")).await;
    let inbox = outbox_postgres::Inbox::new(Config::new()).unwrap();
    for ddl in [scene.outbox.ddl(), inbox.ddl()] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(ddl)).execute(&making).await.unwrap();
    }
    assert_eq!(scene.value::<i64>("SELECT count(*) FROM outbox_lease").await, 16);
    // A schema that is missing is made, for which that right is needed.
    let elsewhere = Outbox::new(Config::new().schema("it's new")).unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(elsewhere.ddl())).execute(&making).await.unwrap_err();
    scene.run(&elsewhere.ddl()).await;
    assert_eq!(scene.value::<i64>(r#"SELECT count(*) FROM "it's new".outbox_lease"#).await, 16);
}

#[tokio::test]
async fn an_error_outside_of_the_encoding_of_the_database_is_stored() {
    let Some(scene) = Scene::empty(Config::new()).await else { return };
    for (encoding, expected) in [("LATIN1", "x\u{e9} ? ?"), ("WIN1252", "x? ? ?")] {
        let name = format!("{}_{}", scene.database.name(), encoding.to_lowercase());
        scene
            .run(&format!(
                "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            ))
            .await;
        let options = (*scene.pool.connect_options()).clone().database(&name);
        let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
        let settled = settle_with_error(&scene.outbox, &pool, "x\u{e9} \u{2014} \u{1f980}").await;
        pool.close().await;
        scene.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
        assert_eq!(settled.unwrap(), [expected, expected], "{encoding}");
    }
}

/// Lets one message be tried again and another one die, and returns the errors that are stored.
async fn settle_with_error(outbox: &Outbox, pool: &PgPool, error: &str) -> outbox_core::Result<Vec<String>> {
    use outbox_core::{Settle, Settlement};

    outbox.migrate(pool).await?;
    let (store, relay) = (outbox.store(pool.clone()), RelayId::new());
    let owned = store.heartbeat(relay, Duration::from_secs(60)).await?.owned;
    outbox.enqueue_batch(pool, &[message("retried", Some("a")), message("dead", Some("b"))]).await?;
    let mut reader = store.reader();
    owned.iter().for_each(|partition| reader.assign(*partition));
    let rows = reader.fetch(LIMIT, &[]).await?.rows;
    let (error, after) = (error.to_owned(), Duration::from_secs(60));
    let failures = [
        Settlement::Retry { after, attempts: 1, error: error.clone(), block_key: true },
        Settlement::Dead { attempts: 1, error, block_key: true },
    ];
    let settle = |(row, settlement): (&outbox_core::Fetched, Settlement)| Settle::of(row, settlement);
    let batch: Vec<_> = rows.iter().zip(failures).map(settle).collect();
    store.settle(relay, &batch, false).await?;
    let errors = "SELECT last_error FROM outbox_message UNION ALL SELECT last_error FROM outbox_dead_letter";
    sqlx::query_scalar(errors).fetch_all(pool).await.map_err(outbox_postgres::map_error)
}

/// Every statement of a relay.
async fn exercise(store: &impl Store) {
    use outbox_core::{DeadLetterFilter, Settle, Settlement};

    let relay = RelayId::new();
    let owned = store.heartbeat(relay, Duration::from_secs(24 * 3600)).await.unwrap().owned;
    store.set_idle(relay, true).await.unwrap();
    store.wakeups().await.unwrap();
    let mut reader = store.reader();
    owned.iter().for_each(|partition| reader.assign(*partition));
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    let [first, second] = &batch.rows[..] else { panic!("{batch:?}") };
    let settle = |row: &outbox_core::Fetched, settlement| Settle::of(row, settlement);
    let error = || "no".to_owned();
    let retry = Settlement::Retry { after: Duration::ZERO, attempts: 1, error: error(), block_key: true };
    let batch = [settle(first, retry), settle(second, Settlement::Held)];
    store.settle(relay, &batch, true).await.unwrap();
    let dead = Settlement::Dead { attempts: 2, error: error(), block_key: true };
    store.settle(relay, &[settle(first, dead)], true).await.unwrap();
    store.repair(relay, &owned, 10).await.unwrap();
    let letters = store.dead_letters().unwrap();
    let all = DeadLetterFilter::all();
    assert_eq!(letters.list(&all, None, 10).await.unwrap().len(), 1);
    assert_eq!(letters.redrive(&all, 10).await.unwrap(), 1);
    assert_eq!(letters.discard(&all, 10).await.unwrap(), 0);
    for _ in 0..2 {
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        assert_eq!(batch.rows.len(), 1, "{batch:?}");
        store.settle(relay, &all_delivered(&batch), true).await.unwrap();
    }
    assert_eq!(store.purge(Duration::ZERO, 10).await.unwrap(), 2);
    assert_eq!(store.stats(10).await.unwrap().backlog.value, 0);
    store.release(relay, &owned).await.unwrap();
    store.leave(relay).await.unwrap();
}

/// The block of the README that grants rights to this role.
fn grants(role: &str) -> String {
    let readme = include_str!("../README.md");
    let blocks = readme.split("```sql\n").skip(1).filter_map(|block| block.split("```").next());
    let mut granting =
        blocks.filter(|block| block.contains("GRANT") && block.contains(&format!(" TO {role};")));
    granting.next().unwrap_or_else(|| panic!("the README grants nothing to {role}")).to_owned()
}
