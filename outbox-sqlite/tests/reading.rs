//! Reading in step, as a relay does that owns all partitions, and by partition, as others do.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::collections::BTreeSet;

use common::{Database, message, reader_of, relay, topics};
use outbox_core::{FetchLimit, Fetched, Message, Partition, Position, Reader};

const LIMIT: FetchLimit = FetchLimit { messages: 100, bytes: usize::MAX };

/// Fetches as long as there is more. Each position may come once.
async fn read(reader: &mut Box<dyn Reader>, seen: &mut BTreeSet<Position>) -> usize {
    let mut fetches = 0;
    loop {
        let batch = reader.fetch(LIMIT, &[]).await.unwrap();
        assert!(batch.rows.len() <= LIMIT.messages);
        assert!(batch.rows.is_sorted_by_key(|row| row.position));
        for row in &batch.rows {
            assert!(seen.insert(row.position), "{:?} came again", row.position);
        }
        fetches += 1;
        if !batch.more {
            return fetches;
        }
    }
}

async fn enqueue(database: &Database, count: usize) {
    let messages: Vec<Message> = (0..count).map(|n| message("t", Some(&format!("k{n}")))).collect();
    database.outbox.enqueue_batch(&database.pool, &messages).await.unwrap();
}

#[tokio::test]
async fn rows_that_wait_are_walked_over_a_stretch_at_a_time() {
    let database = Database::new().await;
    let wait = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50000)
        INSERT INTO outbox_message (topic, payload, available_at) SELECT 'later', x'', 9000000000000000 FROM n";
    database.enqueue("before", Some("k")).await;
    database.execute(wait).await;
    database.enqueue("behind", Some("k")).await;
    let (_, mut reader) = relay(&database.store()).await;

    let first = reader.fetch(LIMIT, &[]).await.unwrap();
    assert_eq!(topics(&first.rows), ["before"]);
    assert!(first.more, "the table was not read to its end");
    let mut seen = BTreeSet::new();
    let fetches = read(&mut reader, &mut seen).await;
    assert_eq!((seen.len(), fetches), (1, 2));
    assert!(!reader.fetch(LIMIT, &[]).await.unwrap().more);
}

#[tokio::test]
async fn a_gap_of_delivered_positions_is_stepped_over() {
    let database = Database::new().await;
    database.enqueue("first", None).await;
    database.execute("UPDATE sqlite_sequence SET seq = 900000000000 WHERE name = 'outbox_message'").await;
    enqueue(&database, 250).await;
    let (_, mut reader) = relay(&database.store()).await;
    let mut seen = BTreeSet::new();
    let fetches = read(&mut reader, &mut seen).await;
    assert_eq!(seen.len(), 251);
    assert!(fetches <= 5, "{fetches}");
}

#[tokio::test]
async fn partitions_that_came_one_after_the_other_get_into_step() {
    let database = Database::new().await;
    enqueue(&database, 1_000).await;
    let store = database.store();
    let mut reader = reader_of(&store, (0..8).map(Partition));
    let mut seen = BTreeSet::new();
    read(&mut reader, &mut seen).await;
    let half = seen.len();
    assert!((300..700).contains(&half), "{half}");

    enqueue(&database, 1_000).await;
    (8..16).map(Partition).for_each(|partition| reader.assign(partition));
    read(&mut reader, &mut seen).await;
    assert_eq!(seen.len(), 2_000);

    // By now they are.
    enqueue(&database, 1_000).await;
    let fetches = read(&mut reader, &mut seen).await;
    assert_eq!((seen.len(), fetches), (3_000, 11));

    reader.revoke(Partition(3));
    enqueue(&database, 100).await;
    read(&mut reader, &mut seen).await;
    let without = seen.len();
    reader.assign(Partition(3));
    let mut again = BTreeSet::new();
    read(&mut reader, &mut again).await;
    assert_eq!(seen.union(&again).count(), 3_100);
    assert!(again.len() > 3_100 - without, "what was read of it before comes again, as it was not delivered");
}

#[tokio::test]
async fn bytes_end_a_fetch_in_step() {
    let database = Database::new().await;
    let messages: Vec<Message> =
        (0..40).map(|_| Message::bytes("t", vec![7; 10_000]).build().unwrap()).collect();
    database.outbox.enqueue_batch(&database.pool, &messages).await.unwrap();
    let (_, mut reader) = relay(&database.store()).await;
    let limit = FetchLimit { messages: 100, bytes: 65_000 };
    let mut count = 0;
    loop {
        let batch = reader.fetch(limit, &[]).await.unwrap();
        let bytes: usize = batch.rows.iter().map(Fetched::size).sum();
        assert!(bytes <= 65_000, "{bytes}");
        count += batch.rows.len();
        if !batch.more {
            break;
        }
        assert!(!batch.rows.is_empty());
    }
    assert_eq!(count, 40);
}

/// Rows of every kind, in an order in which each kind comes behind each other one, and first.
#[tokio::test]
async fn rows_of_all_kinds_are_read_alike_in_step_and_by_partition() {
    const KINDS: [&str; 13] = [
        "'usual', 'k1', x'00ff0a', NULL, '{}', '{}', '00000000-0000-4000-8000-000000000001'",
        "'headers', NULL, x'', 'text/plain', '{\"a\":\"ü \\\" \\\\ \\n\"}', '{\"amqp\":{\"priority\":1}}', '00000000-0000-4000-8000-000000000002'",
        "'id as bytes', 'k2', x'01', NULL, '{}', '{}', x'0123456789abcdef0123456789abcdef'",
        "'id of nonsense', 'k2', x'02', NULL, '{}', '{}', 'nonsense'",
        "'payload as text', 'k3', 'text', NULL, '{}', '{}', '00000000-0000-4000-8000-000000000003'",
        "'payload as number', 'k3', 7, NULL, '{}', '{}', '00000000-0000-4000-8000-000000000004'",
        "'large', 'k4', zeroblob(5000), NULL, '{}', '{}', '00000000-0000-4000-8000-000000000005'",
        "'long key', printf('%05000d', 1), x'03', NULL, '{}', '{}', '00000000-0000-4000-8000-000000000006'",
        "'key as bytes', x'c328', x'04', NULL, '{}', '{}', '00000000-0000-4000-8000-000000000007'",
        "'key not in UTF-8', CAST(x'c328' AS TEXT), x'05', NULL, '{}', '{}', '00000000-0000-4000-8000-000000000008'",
        "'NUL in key', 'a' || char(0) || 'b', x'06', NULL, '{}', '{}', '00000000-0000-4000-8000-000000000009'",
        "'headers of nonsense', NULL, x'07', NULL, 'nonsense', '[]', '00000000-0000-4000-8000-00000000000a'",
        "'😀 \" \\', 'é', x'08', CAST(x'ff' AS TEXT), '{}', x'7b7d', '00000000-0000-4000-8000-00000000000b'",
    ];
    let limit = FetchLimit { messages: 10, bytes: 10_000 };
    let columns = "topic, key, payload, content_type, headers, options, message_id";
    for first in KINDS {
        let database = Database::new().await;
        for second in KINDS {
            database
                .execute(&format!("INSERT INTO outbox_message ({columns}) VALUES ({first}), ({second})"))
                .await;
        }
        let store = database.store();
        let mut seen = Vec::new();
        for owned in [0..16, 0..9, 9..16] {
            let mut reader = reader_of(&store, owned.map(Partition));
            loop {
                let batch = reader.fetch(limit, &[]).await.unwrap();
                // Ages differ.
                let row = |row: &Fetched| format!("{} {:?}", row.position.0, row.content);
                seen.extend(batch.rows.iter().map(row));
                if !batch.more {
                    break;
                }
            }
        }
        let by_partition = seen.split_off(2 * KINDS.len());
        assert!(seen.iter().all(|row| by_partition.contains(row)), "{seen:#?}\n{by_partition:#?}");
        assert_eq!(by_partition.len(), seen.len());
    }
}
