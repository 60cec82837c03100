//! A server that dies and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use integration_tests::{Postgres, Server, eventually};
use outbox_core::{Error, Reader, RelayId, Scope, Store, Verdict};
use outbox_postgres::{Config, Outbox};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use support::{DEADLINE, LIMIT, all_delivered, message, topics};

const TTL: Duration = Duration::from_secs(24 * 3600);

/// Does not wait long for a server that is gone. A call may fail because a busy machine needs longer for a connection, so
/// calls that must succeed are repeated.
fn short() -> PgPoolOptions {
    PgPoolOptions::new().acquire_timeout(Duration::from_secs(2))
}

/// For a server that answers, however slowly.
fn patient() -> PgPoolOptions {
    PgPoolOptions::new().acquire_timeout(DEADLINE)
}

fn passes(error: &Error) {
    assert_eq!(error.scope(), Scope::Endpoint, "{error}");
    assert_ne!(error.verdict(), Verdict::Permanent, "{error}");
}

async fn read_all(reader: &mut Box<dyn Reader>) -> Vec<String> {
    let deadline = Instant::now() + DEADLINE;
    let mut came = Vec::new();
    loop {
        let batch = match reader.fetch(LIMIT, &[]).await {
            Ok(batch) => batch,
            Err(error) => {
                assert!(Instant::now() < deadline, "{}", error.report());
                continue;
            }
        };
        came.extend(topics(&batch));
        if !batch.more {
            return came;
        }
    }
}

#[tokio::test]
async fn a_killed_server_loses_and_repeats_nothing() {
    let Some(server) = Postgres::start().await else { return };
    let database = server.database().await;
    let options: PgConnectOptions = database.url().parse().unwrap();
    let pool = patient().max_connections(5).connect_with(options.clone()).await.unwrap();
    let outbox = Outbox::new(Config::new()).unwrap();
    outbox.migrate(&pool).await.unwrap();
    let store = outbox.store(short().max_connections(5).connect_lazy_with(options));
    let relay = RelayId::new();
    let beat = async || store.heartbeat(relay, TTL).await.ok();
    let owned = eventually("the server to answer", DEADLINE, beat).await.owned;
    let mut reader = store.reader();
    owned.iter().for_each(|partition| reader.assign(*partition));
    let listen = async || store.wakeups().await.ok().flatten();
    let mut wakeups = eventually("wake-ups", DEADLINE, listen).await;

    let mut expected = BTreeSet::new();
    let mut came = Vec::new();
    for round in 0..3 {
        // Positions that are drawn and never committed, below and above others, and a fence of the reader.
        let mut lost = pool.begin().await.unwrap();
        outbox.enqueue(&mut *lost, &message("lost", Some("k"))).await.unwrap();
        for number in 0..20 {
            let topic = format!("{round} {number}");
            outbox.enqueue(&pool, &message(&topic, Some("k"))).await.unwrap();
            expected.insert(topic);
            if number == 10 {
                came.extend(read_all(&mut reader).await);
            }
        }
        outbox.enqueue(&mut *lost, &message("lost", Some("k"))).await.unwrap();

        server.kill().await;
        let row = reader.fetch(LIMIT, &[]).await;
        passes(&row.unwrap_err());
        passes(&store.heartbeat(relay, TTL).await.unwrap_err());
        tokio::time::timeout(DEADLINE, async { while wakeups.wait().await.is_ok() {} }).await.unwrap();
        drop(lost);
        server.restart().await;
        assert_eq!(eventually("the server to answer", DEADLINE, beat).await.owned, owned);

        // The ids that the dead transaction and the reader had may be given out a second time.
        for number in 20..30 {
            let topic = format!("{round} {number}");
            outbox.enqueue(&pool, &message(&topic, Some("k"))).await.unwrap();
            expected.insert(topic);
        }
        came.extend(read_all(&mut reader).await);
        wakeups = eventually("wake-ups", DEADLINE, listen).await;
    }
    let missing: Vec<_> = expected.iter().filter(|topic| !came.contains(topic)).collect();
    assert!(missing.is_empty() && came.len() == expected.len(), "missing: {missing:?}, came: {came:?}");

    // Another reader finds everything, since nothing was settled, and then nothing more.
    let store = outbox.store(pool);
    let mut again = store.reader();
    owned.iter().for_each(|partition| again.assign(*partition));
    let mut more = true;
    let mut found = 0;
    while more {
        let batch = again.fetch(LIMIT, &[]).await.unwrap();
        store.settle(relay, &all_delivered(&batch), false).await.unwrap();
        found += batch.rows.len();
        more = batch.more;
    }
    assert_eq!(found, expected.len());
    assert_eq!(store.stats(10).await.unwrap().backlog.value, 0);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told_from_one_that_says_no() {
    let Some(server) = Postgres::start().await else { return };
    let database = server.database().await;
    let options: PgConnectOptions = database.url().parse().unwrap();
    let outbox = Outbox::new(Config::new()).unwrap();

    let stranger = patient().connect_lazy_with(options.clone().username("nobody").password("secret"));
    let error = outbox.store(stranger).stats(1).await.unwrap_err();
    assert_eq!(error.kind(), outbox_core::ErrorKind::Permission, "{error:?}");
    assert!(!format!("{error:?}{}", error.report()).contains("secret"));

    let nowhere = patient().connect_lazy_with(options.clone().database("nowhere"));
    let error = outbox.store(nowhere).stats(1).await.unwrap_err();
    assert_eq!(error.kind(), outbox_core::ErrorKind::Unavailable, "{error:?}");

    server.kill().await;
    let gone = short().connect_lazy_with(options.password("secret"));
    let error = outbox.store(gone).stats(1).await.unwrap_err();
    assert_eq!(error.kind(), outbox_core::ErrorKind::Unavailable, "{error:?}");
    assert!(!format!("{error:?}{}", error.report()).contains("secret"));
}
