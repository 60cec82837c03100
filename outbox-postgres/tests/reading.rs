//! Reading: what the conformance suite cannot see from outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_core::{FetchLimit, RowId, Settle, Settlement, Store};
use sqlx::{Postgres, Transaction};

use support::{LIMIT, Scene, message, topics};

async fn take_id(tx: &mut Transaction<'static, Postgres>) {
    sqlx::query("SELECT pg_current_xact_id()").execute(&mut **tx).await.unwrap();
}

#[tokio::test]
async fn a_transaction_beyond_the_end_of_the_snapshot_is_not_lost() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    let (mut first, mut second) = (scene.pool.begin().await.unwrap(), scene.pool.begin().await.unwrap());
    take_id(&mut first).await;
    take_id(&mut second).await;
    // The second one draws first. When the first one has committed, nothing later than it has ended, so a snapshot
    // ends right behind it and does not list the second one among the running.
    scene.outbox.enqueue(&mut *second, &message("low", Some("k"))).await.unwrap();
    scene.outbox.enqueue(&mut *first, &message("high", Some("k"))).await.unwrap();
    first.commit().await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["high"]);
    second.commit().await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("next", Some("k"))).await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["low", "next"]);
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), [""; 0]);
}

#[tokio::test]
async fn many_late_rows_come_in_pieces_and_before_what_follows_them() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    let mut late = scene.pool.begin().await.unwrap();
    let early: Vec<_> = (0..50).map(|number| message(&format!("late {number:02}"), Some("k"))).collect();
    scene.outbox.enqueue_batch(&mut *late, &early).await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("other", Some("k"))).await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["other"]);
    late.commit().await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("after", Some("k"))).await.unwrap();

    let mut came = Vec::new();
    loop {
        let batch = reader.fetch(FetchLimit { messages: 7, ..LIMIT }, &[]).await.unwrap();
        assert!(batch.rows.len() <= 7 + 16, "{}", batch.rows.len());
        came.extend(topics(&batch));
        if !batch.more {
            break;
        }
    }
    let expected: Vec<_> =
        (0..50).map(|number| format!("late {number:02}")).chain(["after".to_owned()]).collect();
    assert_eq!(came, expected);
}

#[tokio::test]
async fn a_dropped_or_failed_fetch_is_repeated_with_its_late_rows() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    let mut late = scene.pool.begin().await.unwrap();
    scene.outbox.enqueue(&mut *late, &message("late", Some("k"))).await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("first", Some("k"))).await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["first"]);
    late.commit().await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("second", Some("k"))).await.unwrap();
    for micros in [0, 50, 200, 800] {
        // Dropped somewhere in between, unless the machine is so quick that it comes to its end.
        let fetch = reader.fetch(LIMIT, &[]);
        if let Ok(batch) = tokio::time::timeout(Duration::from_micros(micros), fetch).await {
            assert_eq!(topics(&batch.unwrap()), ["late", "second"]);
            return;
        }
    }
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["late", "second"]);
}

#[tokio::test]
async fn polling_in_vain_uses_up_no_transaction_ids() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    // Other tests on the same server use ids, too, but not two for each of these.
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let before: i64 = scene.value(next).await;
    for _ in 0..2000 {
        assert!(reader.fetch(LIMIT, &[]).await.unwrap().rows.is_empty());
    }
    let used = scene.value::<i64>(next).await - before;
    assert!(used < 2000, "{used}");
}

#[tokio::test]
async fn one_hot_partition_gets_the_whole_limit() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    scene.run("INSERT INTO outbox_message (topic, key, payload) SELECT 't', 'k', '' FROM generate_series(1, 6000)").await;
    let limit = FetchLimit { messages: 500, ..LIMIT };
    let mut sizes = Vec::new();
    loop {
        let batch = reader.fetch(limit, &[]).await.unwrap();
        if batch.rows.is_empty() {
            break;
        }
        sizes.push(batch.rows.len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), 6000);
    assert!(sizes.iter().filter(|size| **size > 450).count() >= 10, "{sizes:?}");
}

#[tokio::test]
async fn bytes_are_limited_by_the_database() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    // Random, so that it is stored out of line and does not shrink.
    scene
        .run(
            "INSERT INTO outbox_message (topic, key, payload)
             SELECT 't', i::text, (SELECT decode(string_agg(md5((i * 10000 + j)::text), ''), 'hex')
                 FROM generate_series(1, 6250) j)
             FROM generate_series(1, 100) i",
        )
        .await;
    let limit = FetchLimit { messages: 1000, bytes: 500_000 };
    let (mut rows, mut fetches) = (0, 0);
    while rows < 100 {
        let batch = reader.fetch(limit, &[]).await.unwrap();
        let bytes: usize = batch.rows.iter().map(outbox_core::Fetched::size).sum();
        assert!(bytes <= 500_000 + 16 * 101_000, "{bytes}");
        assert!(batch.more || rows + batch.rows.len() == 100);
        rows += batch.rows.len();
        fetches += 1;
        assert!(fetches < 100);
    }
    assert!(fetches > 5, "{fetches}");
}

#[tokio::test]
async fn due_rows_get_their_turn_beside_a_backlog() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    scene
        .run("INSERT INTO outbox_message (topic, payload) SELECT 'ready', '' FROM generate_series(1, 20000)")
        .await;
    scene
        .run(
            "INSERT INTO outbox_message (topic, payload, available_at)
             SELECT 'due', '', now() FROM generate_series(1, 300)",
        )
        .await;
    let limit = FetchLimit { messages: 100, ..LIMIT };
    let mut in_flight: Vec<RowId> = Vec::new();
    for fetch in 0.. {
        assert!(fetch < 30, "{} came", in_flight.len());
        let batch = reader.fetch(limit, &in_flight).await.unwrap();
        assert!(batch.more);
        in_flight.extend(batch.rows.iter().filter(|row| row.due).map(outbox_core::Fetched::row));
        if in_flight.len() == 300 {
            break;
        }
        assert_eq!(batch.next_due, Some(Duration::ZERO));
    }
    assert_eq!(in_flight.iter().collect::<BTreeSet<_>>().len(), 300);
}

#[tokio::test]
async fn values_that_no_driver_can_read_stop_nothing() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    scene
        .run(
            "INSERT INTO outbox_message (topic, payload, enqueued_at, attempts) VALUES
                 ('1', '', 'infinity', -5), ('2', '', '-infinity', 2147483647), ('3', '', '4713-01-01 BC', 0);
             INSERT INTO outbox_message (topic, payload, available_at) VALUES
                 ('4', '', '-infinity'), ('never', '', 'infinity'), ('much later', '', '294275-01-01')",
        )
        .await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&batch), ["1", "2", "3", "4"]);
    assert_eq!((batch.rows[0].age, batch.rows[0].attempts), (Duration::ZERO, 0));
    assert!(batch.rows[1].age > Duration::from_secs(1 << 32), "{:?}", batch.rows[1].age);
    assert!(batch.next_due.unwrap() > Duration::from_secs(1 << 32));
    let dead = |row: &outbox_core::Fetched| {
        Settle::of(row, Settlement::Dead { attempts: u32::MAX, error: "\0".to_owned(), block_key: true })
    };
    store.settle(relay, &batch.rows.iter().map(dead).collect::<Vec<_>>(), false).await.unwrap();
    let letters = store.dead_letters().unwrap().list(&Default::default(), None, 10).await.unwrap();
    assert_eq!(letters.len(), 4);
    assert!(letters.iter().all(|letter| letter.error == "\u{fffd}" && !letter.blocks_key));
    store.stats(10).await.unwrap();
}

#[tokio::test]
async fn keys_longer_than_an_index_takes_can_block() {
    let Some(scene) = Scene::new().await else { return };
    let (store, relay, mut reader) = scene.relay().await;
    // Does not compress.
    let key: String = (0..20_000).map(|_| fastrand::alphanumeric()).collect();
    for topic in ["first", "second"] {
        scene.outbox.enqueue(&scene.pool, &message(topic, Some(&key))).await.unwrap();
    }
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    let settle = |number: usize, settlement| {
        let row = &batch.rows[number];
        Settle::of(row, settlement)
    };
    let error = "no".to_owned();
    let retry = Settlement::Retry { after: Duration::ZERO, attempts: 1, error, block_key: true };
    store.settle(relay, &[settle(0, retry), settle(1, Settlement::Held)], false).await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("third", Some(&key))).await.unwrap();
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&batch), ["first", "third"]);
    assert!(!batch.rows[0].blocked && batch.rows[1].blocked);
}

#[tokio::test]
async fn a_payload_larger_than_expected_is_not_left_out() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    // Of this size each of so many rows may be.
    let limit = FetchLimit { messages: 1000, bytes: 1_000_000 };
    scene
        .run(
            "INSERT INTO outbox_message (topic, payload)
             SELECT i::text, decode(repeat('ab', CASE i % 100 WHEN 0 THEN 50000 WHEN 1 THEN 1001 ELSE 1000 END), 'hex')
             FROM generate_series(1, 600) i",
        )
        .await;
    let (mut came, mut fetches) = (BTreeSet::new(), 0);
    while came.len() < 600 {
        let batch = reader.fetch(limit, &[]).await.unwrap();
        let bytes: usize = batch.rows.iter().map(outbox_core::Fetched::size).sum();
        assert!(bytes <= 1_000_000 + 16 * 51_000, "{bytes}");
        assert!(batch.more || came.len() + batch.rows.len() == 600);
        came.extend(topics(&batch));
        fetches += 1;
        assert!(fetches < 60, "{} came", came.len());
    }
    assert_eq!(came, (1..=600).map(|number| number.to_string()).collect());
}

#[tokio::test]
async fn what_a_long_transaction_shows_is_looked_for_in_steps() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    let mut long = scene.pool.begin().await.unwrap();
    scene.outbox.enqueue(&mut *long, &message("late", Some("k"))).await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("first", Some("k"))).await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["first"]);
    // As if two million messages had come and gone.
    scene.run("SELECT setval(pg_get_serial_sequence('outbox_message', 'position'), 2000000)").await;
    scene.outbox.enqueue(&scene.pool, &message("second", Some("k"))).await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["second"]);
    long.commit().await.unwrap();
    scene.outbox.enqueue(&scene.pool, &message("after", Some("k"))).await.unwrap();

    let (mut came, mut fetches) = (Vec::new(), 0);
    loop {
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        came.extend(topics(&batch));
        fetches += 1;
        if !batch.more {
            break;
        }
    }
    assert_eq!(came, ["late", "after"]);
    assert!(fetches > 5, "one fetch looked through more than 400 000 positions: {fetches} fetches");
}

#[tokio::test]
async fn rows_with_transaction_ids_of_another_server_come_once() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    // As long as it runs, a fetch looks below the cursors.
    let mut running = scene.pool.begin().await.unwrap();
    scene.outbox.enqueue(&mut *running, &message("running", None)).await.unwrap();
    // As a restored dump has them.
    scene
        .run(
            "INSERT INTO outbox_message (xact, topic, payload)
             SELECT (pg_current_xact_id()::text::bigint + 1000000)::text::xid8, 'restored', ''
             FROM generate_series(1, 10)",
        )
        .await;
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["restored"; 10]);
    for number in 0..3 {
        let topic = format!("new {number}");
        scene.outbox.enqueue(&scene.pool, &message(&topic, None)).await.unwrap();
        assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), [topic]);
    }
    running.commit().await.unwrap();
    assert_eq!(topics(&reader.fetch(LIMIT, &[]).await.unwrap()), ["running"]);
}

#[tokio::test]
async fn rows_that_are_not_ready_are_passed_within_the_limit() {
    let Some(scene) = Scene::new().await else { return };
    let (_, _, mut reader) = scene.relay().await;
    for _ in 0..3 {
        scene
            .run(
                "INSERT INTO outbox_message (topic, payload, available_at)
                 SELECT 'later', '', now() + interval '1 day' FROM generate_series(1, 500)",
            )
            .await;
        scene.outbox.enqueue(&scene.pool, &message("ready", None)).await.unwrap();
    }
    let mut came = Vec::new();
    loop {
        let batch = reader.fetch(FetchLimit { messages: 50, ..LIMIT }, &[]).await.unwrap();
        came.extend(topics(&batch));
        if !batch.more {
            break;
        }
    }
    assert_eq!(came, ["ready"; 3]);
    // Those that become due come by their time, before and after the cursor.
    scene
        .run("UPDATE outbox_message SET available_at = now() WHERE position % 100 = 0 AND topic = 'later'")
        .await;
    let batch = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&batch), ["later"; 15]);
    assert!(batch.rows.iter().all(|row| row.due));
}
