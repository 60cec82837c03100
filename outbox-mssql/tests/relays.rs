//! Several relays on one database, while others write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use integration_tests::eventually;
use outbox_core::memory::MemoryPublisher;
use outbox_core::{Message, Relay, Store};
use outbox_mssql::{Config, Outbox, Pool};
use support::{DEADLINE, Scene};

const WRITERS: usize = 4;
const TRANSACTIONS: usize = 60;

/// Writes the numbers of its own keys in their order, in transactions of all sizes, some of which are rolled back.
async fn write(outbox: Outbox, pool: Pool, writer: usize, seed: u64) -> Vec<String> {
    let mut dice = fastrand::Rng::with_seed(seed.wrapping_add(writer as u64));
    let mut next = [0_usize; 5];
    let mut written = Vec::new();
    for _ in 0..TRANSACTIONS {
        let mut client = pool.get().await.unwrap();
        client.begin_transaction().await.unwrap();
        let (mut drawn, mut names) = (next, Vec::new());
        for _ in 0..dice.usize(1..12) {
            let key = dice.usize(0..next.len());
            let name = format!("w{writer}k{key} {}", drawn[key]);
            drawn[key] += 1;
            let message =
                Message::bytes("topic", name.clone()).key(format!("w{writer}k{key}")).build().unwrap();
            outbox.enqueue(&mut client, &message).await.unwrap();
            names.push(name);
        }
        if dice.usize(0..5) == 0 {
            client.rollback_transaction().await.unwrap();
        } else {
            client.commit_transaction().await.unwrap();
            next = drawn;
            written.append(&mut names);
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_relays_at_once_lose_invent_and_reorder_nothing() {
    let Some(scene) = Scene::with(Config::new().partitions(8)).await else { return };
    let seed = fastrand::u64(..);
    let publisher = MemoryPublisher::new();
    let relay = || {
        let store = scene.outbox.store(support::pool(&scene.database, 5));
        Relay::builder(store, publisher.clone()).build().unwrap().spawn()
    };
    let (first, second) = (relay(), relay());
    let pool = support::pool(&scene.database, WRITERS);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(scene.outbox.clone(), pool.clone(), writer, seed)))
        .collect();
    // One of them leaves in the middle, and another one comes.
    eventually("something to be delivered", DEADLINE, async || {
        (publisher.published().len() > 50).then_some(())
    })
    .await;
    first.shutdown().await.unwrap();
    let third = relay();
    let mut committed = BTreeSet::new();
    for writer in writers {
        committed.extend(writer.await.unwrap());
    }
    let store = scene.store();
    eventually("everything to be delivered", DEADLINE, async || {
        (store.stats(1).await.ok()?.backlog.value == 0).then_some(())
    })
    .await;
    second.shutdown().await.unwrap();
    third.shutdown().await.unwrap();

    let mut came = BTreeMap::<String, usize>::new();
    let mut names = BTreeSet::new();
    for message in publisher.published() {
        let name = String::from_utf8(message.message.payload().to_vec()).unwrap();
        let (key, number) = name.split_once(' ').unwrap();
        // Nobody was killed, so that nothing is published twice.
        let expected = came.entry(key.to_owned()).or_default();
        assert_eq!(number.parse::<usize>().unwrap(), *expected, "{key} of seed {seed}");
        *expected += 1;
        names.insert(name);
    }
    assert!(names == committed, "seed {seed}: {} came of {}", names.len(), committed.len());
}
