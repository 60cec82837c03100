//! Reading and settling: what the conformance suite does not say because it is SQLite's own business.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::time::Duration;

use common::{
    ALL, Database, dead, eventually, fetch, message, options, reader_of, relay, retry, settle, topics,
};
use outbox_core::{
    Content, DeadLetterFilter, DeadLetters, ErrorKind, FetchLimit, Fetched, Identity, Message, Partition,
    Position, RelayId, RowId, Settle, Settlement, Store, Timestamp,
};
use sqlx::AssertSqlSafe;

/// Rows that no program of ours would write. Each with the columns that the reason must name.
const STRANGE: [(&str, &[&str]); 12] = [
    ("x'6f', x'00', 'k', NULL, '{}', '{}'", &["topic"]),
    ("'', x'00', 'k', NULL, '{}', '{}'", &["topic"]),
    ("'a' || char(0) || 'b', x'00', 'k', NULL, '{}', '{}'", &["topic"]),
    ("CAST(x'c328' AS TEXT), x'00', 'k', NULL, '{}', '{}'", &["topic"]),
    ("'t', 3.5, 'k', NULL, '{}', '{}'", &["payload"]),
    ("'t', x'00', x'6b', NULL, '{}', '{}'", &["key"]),
    ("'t', x'00', CAST(x'ff' AS TEXT), NULL, '{}', '{}'", &["key"]),
    ("'t', x'00', 'k', x'00', '{}', '{}'", &["content_type"]),
    ("'t', x'00', 'k', NULL, '{\"a\":', '{}'", &["headers"]),
    ("'t', x'00', 'k', NULL, '{\"a\":null}', '{}'", &["headers"]),
    ("'t', x'00', 'k', NULL, '{}', 'null'", &["options"]),
    ("'t', 1, x'00', x'00', 'nope', x'00'", &["payload", "key", "content_type", "headers", "options"]),
];

/// Everything of a table's rows, byte for byte.
async fn dump(database: &Database, table: &str) -> Vec<String> {
    let columns = ["message_id", "topic", "key", "payload", "content_type", "headers", "options"];
    let quoted: Vec<_> = columns.map(|column| format!("typeof({column}) || ':' || hex({column})")).to_vec();
    let sql =
        format!("SELECT position || ' ' || {} FROM {table} ORDER BY position", quoted.join(" || ' ' || "));
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&database.pool).await.unwrap()
}

#[tokio::test]
async fn strange_rows_are_told_and_move_to_the_dead_letters_and_back_intact() {
    let database = Database::new().await;
    for (values, _) in STRANGE {
        database
            .execute(&format!(
                "INSERT INTO outbox_message (topic, payload, key, content_type, headers, options) VALUES ({values})"
            ))
            .await;
    }
    database.enqueue("good", Some("k")).await;
    let before = dump(&database, "outbox_message").await;
    let store = database.store();
    let (relay, mut reader) = relay(&store).await;

    let rows = fetch(&mut reader).await.rows;
    assert_eq!(rows.len(), STRANGE.len() + 1, "none fails the others");
    for (row, (values, columns)) in rows.iter().zip(STRANGE) {
        let Content::Malformed { reason, .. } = &row.content else { panic!("{values} was readable") };
        for column in columns {
            assert!(reason.contains(column), "{values}: {reason}");
        }
    }

    let batch: Vec<_> = rows[..STRANGE.len()].iter().map(|row| settle(row, dead(false))).collect();
    store.settle(relay, &batch, false).await.unwrap();
    assert_eq!(dump(&database, "outbox_dead_letter").await, before[..STRANGE.len()]);
    let listed = store.list(&DeadLetterFilter::all(), None, 100).await.unwrap();
    assert_eq!(listed.len(), STRANGE.len());
    assert!(listed.iter().all(|letter| letter.message.is_none() && letter.error == "gave up"));

    assert_eq!(store.redrive(&DeadLetterFilter::all(), 100).await.unwrap(), STRANGE.len() as u64);
    assert_eq!(dump(&database, "outbox_message").await, before);
    assert_eq!(fetch(&mut reader).await.rows.len(), STRANGE.len());
}

#[tokio::test]
async fn a_key_that_is_no_text_blocks_like_any_other() {
    let database = Database::new().await;
    for topic in ["a", "b"] {
        database
            .execute(&format!(
                "INSERT INTO outbox_message (topic, payload, key) VALUES ('{topic}', x'', x'ff00')"
            ))
            .await;
    }
    let store = database.store();
    let (relay, mut reader) = relay(&store).await;
    let rows = fetch(&mut reader).await.rows;
    store
        .settle(relay, &[settle(&rows[0], dead(true)), settle(&rows[1], Settlement::Held)], false)
        .await
        .unwrap();
    assert!(fetch(&mut reader).await.rows.is_empty());
    assert_eq!(store.discard(&DeadLetterFilter::all(), 1).await.unwrap(), 1);
    assert_eq!(fetch(&mut reader).await.rows[0].position, rows[1].position);
}

#[tokio::test]
async fn an_error_text_with_a_nul_character_is_kept_readable() {
    let database = Database::new().await;
    database.enqueue("t", None).await;
    let store = database.store();
    let (relay, mut reader) = relay(&store).await;
    let row = &fetch(&mut reader).await.rows[0];
    let error = "first\0 \"second\" 'third' \u{1f600}".to_owned();
    store
        .settle(relay, &[settle(row, Settlement::Dead { attempts: 1, error, block_key: true })], false)
        .await
        .unwrap();
    let listed = store.list(&DeadLetterFilter::all().error_contains("third"), None, 1).await.unwrap();
    assert_eq!(listed[0].error, "first\u{fffd} \"second\" 'third' \u{1f600}");
    assert!(!listed[0].blocks_key, "there is no key to block");
}

#[tokio::test]
async fn only_what_is_needed_is_read_of_a_large_backlog() {
    let database = Database::new().await;
    let messages: Vec<Message> = (0..2_000).map(|n| message("t", Some(&format!("k{n}")))).collect();
    database.outbox.enqueue_batch(&database.pool, &messages).await.unwrap();
    // Everything in one partition, too, for the other extreme.
    let one: Vec<Message> = (0..2_000).map(|_| message("one", Some("the only key"))).collect();
    database.outbox.enqueue_batch(&database.pool, &one).await.unwrap();
    let store = database.store();
    let (_, mut reader) = relay(&store).await;
    let limit = FetchLimit { messages: 100, bytes: usize::MAX };
    let (mut seen, mut fetches) = (Vec::new(), 0);
    loop {
        let batch = reader.fetch(limit, &[]).await.unwrap();
        assert!(batch.rows.len() <= 100);
        fetches += 1;
        seen.extend(batch.rows.iter().map(|row| row.position));
        if !batch.more {
            break;
        }
    }
    assert_eq!(seen.len(), 4_000);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4_000);
    assert!(fetches < 60, "{fetches} fetches for 40 batches");
}

#[tokio::test]
async fn a_row_beyond_the_limit_of_bytes_comes_alone_and_does_come() {
    let database = Database::new().await;
    let big = Message::bytes("big", vec![7; 100_000]).build().unwrap();
    for _ in 0..3 {
        database.enqueue("small", None).await;
    }
    database.outbox.enqueue(&database.pool, &big).await.unwrap();
    let store = database.store();
    let (_, mut reader) = relay(&store).await;
    let limit = FetchLimit { messages: 10, bytes: 1_000 };
    let first = reader.fetch(limit, &[]).await.unwrap();
    assert!(first.more);
    let mut seen = first.rows;
    let deadline = std::time::Instant::now() + common::DEADLINE;
    while !topics(&seen).contains(&"big") {
        assert!(std::time::Instant::now() < deadline, "the big one starves");
        // Small ones keep coming.
        database.enqueue("small", None).await;
        seen.extend(reader.fetch(limit, &[]).await.unwrap().rows);
    }
}

#[tokio::test]
async fn neither_due_nor_ready_rows_starve_the_others() {
    let database = Database::new().await;
    let past = Timestamp::from_micros(1);
    let due: Vec<Message> =
        (0..500).map(|_| Message::bytes("due", "").deliver_at(past).build().unwrap()).collect();
    database.outbox.enqueue_batch(&database.pool, &due).await.unwrap();
    let ready: Vec<Message> = (0..500).map(|_| message("ready", None)).collect();
    database.outbox.enqueue_batch(&database.pool, &ready).await.unwrap();
    let store = database.store();
    let (_, mut reader) = relay(&store).await;
    let batch = reader.fetch(FetchLimit { messages: 100, bytes: usize::MAX }, &[]).await.unwrap();
    let count = |topic| topics(&batch.rows).iter().filter(|found| **found == topic).count();
    assert!(count("due") >= 40 && count("ready") >= 40, "{} and {}", count("due"), count("ready"));
    assert_eq!((batch.more, batch.next_due), (true, Some(Duration::ZERO)));
}

#[tokio::test]
async fn a_due_row_does_not_overtake_ready_rows_of_its_key_that_were_not_read_yet() {
    let database = Database::new().await;
    for _ in 0..50 {
        database.enqueue("ready", Some("k")).await;
    }
    let due = Message::bytes("due", "").key("k").deliver_at(Timestamp::from_micros(1)).build().unwrap();
    database.outbox.enqueue(&database.pool, &due).await.unwrap();
    let store = database.store();
    let (_, mut reader) = relay(&store).await;
    let mut seen = Vec::new();
    let mut in_flight: Vec<RowId> = Vec::new();
    while seen.len() < 51 {
        let batch = reader.fetch(FetchLimit { messages: 7, bytes: usize::MAX }, &in_flight).await.unwrap();
        in_flight.extend(batch.rows.iter().filter(|row| row.due).map(Fetched::row));
        assert!(!batch.rows.is_empty());
        seen.extend(batch.rows);
    }
    assert_eq!(topics(&seen)[50], "due");
}

#[tokio::test]
async fn a_scheduled_row_in_a_quiet_partition_does_not_starve_behind_a_busy_one() {
    let database = Database::new().await;
    let store = database.store();
    let (_, mut reader) = relay(&store).await;
    let busy: Vec<Message> = (0..2_000).map(|_| message("busy", Some("busy"))).collect();
    database.outbox.enqueue_batch(&database.pool, &busy).await.unwrap();
    for n in 0..20 {
        let due = Message::bytes("due", "").key(format!("quiet {n}")).deliver_at(Timestamp::from_micros(1));
        database.outbox.enqueue(&database.pool, &due.build().unwrap()).await.unwrap();
    }
    let busy_partition = database.number("SELECT partition FROM outbox_message WHERE key = 'busy'").await;
    let quiet = database
        .number(&format!(
            "SELECT count(*) FROM outbox_message WHERE topic = 'due' AND partition <> {busy_partition}"
        ))
        .await;
    assert!(quiet > 0);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(reader.fetch(FetchLimit { messages: 50, bytes: usize::MAX }, &[]).await.unwrap().rows);
    }
    let due =
        seen.iter().filter(|row| row.due).map(|row| row.position).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(due.len() as i64, quiet);
}

#[tokio::test]
async fn delivering_takes_no_notice_of_keys_while_nothing_blocks() {
    let database = Database::new().await;
    for n in 0..10 {
        database.enqueue("t", Some(&format!("k{n}"))).await;
    }
    let store = database.store();
    let (relay, mut reader) = relay(&store).await;
    let batch: Vec<_> =
        fetch(&mut reader).await.rows.iter().map(|row| settle(row, Settlement::Delivered)).collect();
    store.settle(relay, &batch, true).await.unwrap();
    store.settle(relay, &batch, true).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM outbox_delivered").await, 10);
    assert_eq!(database.number("SELECT count(*) FROM outbox_message").await, 0);
    assert_eq!(store.purge(Duration::ZERO, 3).await.unwrap(), 3);
    assert_eq!(store.purge(Duration::from_secs(3600), 100).await.unwrap(), 0);
}

#[tokio::test]
async fn positions_are_not_used_again() {
    let database = Database::new().await;
    database.enqueue("t", None).await;
    database.execute("DELETE FROM outbox_message").await;
    database.enqueue("t", None).await;
    assert_eq!(database.number("SELECT position FROM outbox_message").await, 2);
}

#[tokio::test]
async fn a_locked_database_is_a_conflict_and_works_again_afterwards() {
    let database = Database::new().await;
    let hasty = options(database.path()).busy_timeout(Duration::from_millis(20)).open().await.unwrap();
    let store = database.outbox.store(hasty.clone());
    let relay = RelayId::new();
    store.heartbeat(relay, Duration::from_secs(3600)).await.unwrap();
    let mut reader = reader_of(&store, [Partition(0)]);

    let writer = database.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let delivered = [Settle {
        position: Position(1),
        identity: Identity::new([0; 16], 0),
        partition: Partition(0),
        settlement: Settlement::Delivered,
    }];
    for error in [
        store.heartbeat(relay, Duration::from_secs(3600)).await.unwrap_err(),
        store.settle(relay, &delivered, false).await.unwrap_err(),
        store.leave(relay).await.unwrap_err(),
        database.outbox.enqueue(&hasty, &message("t", None)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
    }
    // Reading does not wait for writers.
    reader.fetch(ALL, &[]).await.unwrap();
    writer.rollback().await.unwrap();
    store.heartbeat(relay, Duration::from_secs(3600)).await.unwrap();
    store.settle(relay, &delivered, false).await.unwrap();
}

#[tokio::test]
async fn a_failure_that_is_settled_after_one_in_front_of_it_waits_for_that() {
    let database = Database::new().await;
    for topic in ["first", "second", "third"] {
        database.enqueue(topic, Some("k")).await;
    }
    let store = database.store();
    let (relay, mut reader) = relay(&store).await;
    let rows = fetch(&mut reader).await.rows;
    // All three were in flight together, and their outcomes come one by one.
    store.settle(relay, &[settle(&rows[0], dead(true))], false).await.unwrap();
    store.settle(relay, &[settle(&rows[1], retry(Duration::ZERO, 1))], false).await.unwrap();
    store.settle(relay, &[settle(&rows[2], retry(Duration::ZERO, 1))], false).await.unwrap();
    assert!(fetch(&mut reader).await.rows.is_empty());

    assert_eq!(store.discard(&DeadLetterFilter::all(), 1).await.unwrap(), 1);
    assert_eq!(topics(&fetch(&mut reader).await.rows), ["second", "third"]);
}

#[tokio::test]
async fn a_long_held_chain_is_released_in_order_and_in_bounded_steps() {
    let database = Database::new().await;
    for n in 0..600 {
        database.enqueue(&n.to_string(), Some("k")).await;
    }
    let store = database.store();
    let (relay, mut reader) = relay(&store).await;
    let rows = fetch(&mut reader).await.rows;
    let mut batch = vec![settle(&rows[0], retry(Duration::ZERO, 1))];
    batch.extend(rows[1..].iter().map(|row| settle(row, Settlement::Held)));
    store.settle(relay, &batch, false).await.unwrap();

    let mut seen: Vec<String> = Vec::new();
    eventually("all are delivered", async || {
        let rows = reader.fetch(ALL, &[]).await.unwrap().rows;
        assert!(rows.len() <= 512, "{} at once", rows.len());
        seen.extend(topics(&rows).into_iter().map(str::to_owned));
        let batch: Vec<_> = rows.iter().map(|row| settle(row, Settlement::Delivered)).collect();
        store.settle(relay, &batch, false).await.unwrap();
        seen.len() >= 600
    })
    .await;
    let expected: Vec<String> = (0..600).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn leases_of_a_clock_that_was_years_ahead_keep_nobody_waiting() {
    let database = Database::new().await;
    let store = database.store();
    let gone = RelayId::new();
    store.heartbeat(gone, Duration::from_secs(20)).await.unwrap();
    for table in ["outbox_lease", "outbox_relay"] {
        database.execute(&format!("UPDATE {table} SET expires_at = expires_at + 315360000000000")).await;
    }
    let (next, ttl) = (RelayId::new(), Duration::from_secs(20));
    let membership = store.heartbeat(next, ttl).await.unwrap();
    assert_eq!((membership.relays, membership.owned.len()), (1, membership.partitions));

    // A long lease is a lease.
    let long = Duration::from_secs(7 * 24 * 3600);
    store.heartbeat(next, long).await.unwrap();
    assert!(store.heartbeat(RelayId::new(), long).await.unwrap().owned.is_empty());
}
