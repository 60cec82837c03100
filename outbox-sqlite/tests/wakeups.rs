//! Wake-ups: from this process, from others, before and after the commit; and silence.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::time::Duration;

use common::{DEADLINE, Database, fetch, message, relay};
use outbox_core::{RelayId, Store, Wakeups};
use outbox_sqlite::{Config, SqliteStore};
use tokio::time::{Instant, timeout};

async fn wakeups(store: &SqliteStore) -> Box<dyn Wakeups> {
    store.wakeups().await.unwrap().unwrap()
}

async fn woken(wakeups: &mut Box<dyn Wakeups>) {
    timeout(DEADLINE, wakeups.wait()).await.expect("no hint came").unwrap();
}

/// Takes the hints that are there, until none has come for a while that is many looks long.
async fn calm(wakeups: &mut Box<dyn Wakeups>) -> usize {
    let mut hints = 0;
    while let Ok(hint) = timeout(Duration::from_millis(300), wakeups.wait()).await {
        hint.unwrap();
        hints += 1;
        assert!(hints < 1_000, "it never falls silent");
    }
    hints
}

/// A database whose relays look so rarely that only a poke can wake them in time.
async fn without_looking() -> Database {
    Database::with(Config::new().wakeup_interval(DEADLINE * 10)).await
}

#[tokio::test]
async fn enqueueing_in_this_process_wakes_at_once() {
    let database = without_looking().await;
    let mut wakeups = wakeups(&database.store()).await;
    calm(&mut wakeups).await;

    database.enqueue("t", None).await;
    woken(&mut wakeups).await;
    database.outbox.enqueue_batch(&database.pool, &[message("t", None)]).await.unwrap();
    woken(&mut wakeups).await;
    database.outbox.wake();
    woken(&mut wakeups).await;
    assert_eq!(calm(&mut wakeups).await, 0);
}

#[tokio::test]
async fn the_transaction_helper_wakes_after_the_commit() {
    let database = without_looking().await;
    let store = database.store();
    let mut wakeups = wakeups(&store).await;
    let (_, mut reader) = relay(&store).await;
    calm(&mut wakeups).await;

    let outbox = &database.outbox;
    let (enqueued, may_commit) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let writing = outbox.transaction(&database.pool, async |connection| {
        outbox.enqueue(connection, &message("t", None)).await?;
        enqueued.notify_one();
        may_commit.notified().await;
        Ok::<_, outbox_core::Error>(())
    });
    let waiting = async {
        enqueued.notified().await;
        // The poke of the enqueueing itself, too early to find anything.
        woken(&mut wakeups).await;
        assert!(fetch(&mut reader).await.rows.is_empty());
        may_commit.notify_one();
        woken(&mut wakeups).await;
        fetch(&mut reader).await.rows.len()
    };
    let (written, found) = tokio::join!(writing, waiting);
    written.unwrap();
    assert_eq!(found, 1);
}

#[tokio::test]
async fn several_relays_are_woken_together() {
    let database = without_looking().await;
    let (mut one, mut two) = (wakeups(&database.store()).await, wakeups(&database.store()).await);
    database.outbox.wake();
    woken(&mut one).await;
    woken(&mut two).await;
}

#[tokio::test]
async fn a_commit_that_nobody_poked_for_is_noticed() {
    let database = Database::new().await;
    let mut wakeups = wakeups(&database.store()).await;
    calm(&mut wakeups).await;

    // Enqueued and poked before the commit: the hint that counts is the one that comes after it.
    let mut transaction = database.pool.begin().await.unwrap();
    database.outbox.enqueue(&mut *transaction, &message("t", None)).await.unwrap();
    woken(&mut wakeups).await;
    assert_eq!(calm(&mut wakeups).await, 0);
    transaction.commit().await.unwrap();
    woken(&mut wakeups).await;
    calm(&mut wakeups).await;

    // Another outbox object, as in another process.
    let other = outbox_sqlite::Outbox::new(Config::new()).unwrap();
    let pool = database.open().await;
    other.enqueue(&pool, &message("t", None)).await.unwrap();
    let started = Instant::now();
    woken(&mut wakeups).await;
    println!("woken after {:?}", started.elapsed());
}

#[tokio::test]
async fn an_idle_relay_falls_silent() {
    let database = Database::new().await;
    let store = database.store();
    let (relay, mut reader) = relay(&store).await;
    let mut wakeups = wakeups(&store).await;
    calm(&mut wakeups).await;

    // What the relay does on a hint gives no further hint.
    for _ in 0..5 {
        assert!(fetch(&mut reader).await.rows.is_empty());
        assert_eq!(store.repair(relay, &[outbox_core::Partition(0)], 10).await.unwrap(), 0);
        store.stats(10).await.unwrap();
    }
    assert_eq!(calm(&mut wakeups).await, 0);
    // A heartbeat of another relay gives one.
    store.heartbeat(RelayId::new(), DEADLINE).await.unwrap();
    woken(&mut wakeups).await;
    assert_eq!(calm(&mut wakeups).await, 0);
}

#[tokio::test]
async fn waiting_may_be_given_up_at_any_time() {
    let database = Database::new().await;
    let mut wakeups = wakeups(&database.store()).await;
    calm(&mut wakeups).await;
    // Each wait is shorter than the interval of looking, and yet the looks go on.
    let other = outbox_sqlite::Outbox::new(Config::new()).unwrap();
    other.enqueue(&database.open().await, &message("t", None)).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while timeout(Duration::from_millis(3), wakeups.wait()).await.is_err() {
        assert!(Instant::now() < deadline, "the hint was lost");
    }
}

#[tokio::test]
async fn a_pool_with_one_connection_is_enough() {
    let database = Database::new().await;
    let pool = common::options(database.path()).max_connections(1).open().await.unwrap();
    let store = database.outbox.store(pool.clone());
    let mut wakeups = wakeups(&store).await;
    calm(&mut wakeups).await;
    database.outbox.enqueue(&pool, &message("t", None)).await.unwrap();
    woken(&mut wakeups).await;
    let (_, mut reader) = relay(&store).await;
    assert_eq!(fetch(&mut reader).await.rows.len(), 1);
}

#[tokio::test]
async fn a_closed_pool_is_an_error_and_no_hang() {
    let database = Database::new().await;
    let store = database.store();
    database.pool.close().await;
    assert!(store.wakeups().await.is_err());
}
