//! Reading in step, as a relay does that owns all partitions, and by partition, as others do.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::collections::BTreeSet;

use common::{Database, message, reader_of, relay, topics};
use outbox_core::{FetchLimit, Message, Partition, Position, Reader};

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
        let bytes: usize = batch.rows.iter().map(outbox_core::Fetched::size).sum();
        assert!(bytes <= 65_000, "{bytes}");
        count += batch.rows.len();
        if !batch.more {
            break;
        }
        assert!(!batch.rows.is_empty());
    }
    assert_eq!(count, 40);
}
