//! What somebody who looks at an outbox sees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::time::Duration;

use outbox_core::{Health, Inspection, Partition, RelayId, Store, Timestamp};
use support::{Product, message, on_both};

on_both!(
    the_group_is_who_is_alive_and_holds_what,
    waiting_messages_come_in_order_with_what_they_wait_for,
    the_diagnosis_says_what_it_saw,
    the_diagnosis_finds_what_somebody_has_broken,
);

async fn the_group_is_who_is_alive_and_holds_what(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let store = scene.store();
    let relay = RelayId::new();
    let free = store.group().await.unwrap().unwrap();
    assert!(free.relays.is_empty() && free.partitions.len() == 16);
    store.heartbeat(relay, Duration::from_secs(24 * 3600)).await.unwrap();
    store.release(relay, &[Partition(3)]).await.unwrap();
    let group = store.group().await.unwrap().unwrap();
    assert_eq!(group.relays, [relay]);
    for (partition, owner) in group.partitions {
        assert_eq!(owner, (partition != Partition(3)).then_some(relay));
    }
    scene.run("UPDATE outbox_lease SET expires_at = '2020-01-01'; UPDATE outbox_relay SET expires_at = '2020-01-01'").await;
    let gone = store.group().await.unwrap().unwrap();
    assert!(gone.relays.is_empty() && gone.partitions.iter().all(|(_, owner)| owner.is_none()));
}

async fn waiting_messages_come_in_order_with_what_they_wait_for(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let store = scene.store();
    for topic in ["a", "b", "c"] {
        scene.outbox.enqueue(&scene.pool, &message(topic, Some("k"))).await.unwrap();
    }
    scene
        .run(
            "UPDATE outbox_message SET attempts = 2, last_error = 'no queue', blocks_key = TRUE,
            available_at = '2100-01-01' WHERE topic = 'b'",
        )
        .await;
    let all = store.peek(None, 10).await.unwrap().unwrap();
    let topics: Vec<_> = all.iter().map(|waiting| waiting.topic.as_deref().unwrap()).collect();
    assert_eq!(topics, ["a", "b", "c"]);
    assert_eq!((all[0].available_at, all[0].attempts, all[0].blocks_key), (None, 0, false));
    let retrying = &all[1];
    assert_eq!(
        (retrying.attempts, retrying.error.as_deref(), retrying.blocks_key),
        (2, Some("no queue"), true)
    );
    assert_eq!(retrying.available_at, Some(Timestamp::from_micros(4_102_444_800_000_000)));
    assert_eq!(&retrying.message.as_ref().unwrap().payload()[..], b"b");
    let part = store.peek(Some(all[0].position), 1).await.unwrap().unwrap();
    assert_eq!((part.len(), part[0].position), (1, all[1].position));
}

async fn the_diagnosis_says_what_it_saw(product: Product) {
    let Some(scene) = product.scene().await else { return };
    let store = scene.store();
    let clock = store.clock().await.unwrap().unwrap();
    let ours = Timestamp::now();
    // A time zone would make a difference of hours.
    assert!(clock.since(ours).max(ours.since(clock)) < Duration::from_secs(1800), "{clock} {ours}");
    let findings = store.diagnose().await.unwrap();
    let checks: Vec<_> = findings.iter().map(|finding| &*finding.check).collect();
    let expected = [
        "server",
        "message size",
        "durability",
        "transactions",
        "rights",
        "indexes",
        "isolation level",
        "pooler",
    ];
    assert_eq!(checks, expected);
    for finding in findings {
        assert!(finding.health != Health::Problem && !finding.seen.is_empty(), "{finding:?}");
        assert_eq!(finding.advice.is_some(), finding.health == Health::Warning, "{finding:?}");
    }
}

async fn the_diagnosis_finds_what_somebody_has_broken(product: Product) {
    let Some(scene) = product.scene().await else { return };
    scene.run("ALTER TABLE outbox_message DROP KEY due").await;
    let findings = scene.store().diagnose().await.unwrap();
    let found = findings.iter().find(|finding| finding.check == "indexes").unwrap();
    assert_eq!(found.health, Health::Problem, "{found:?}");
    assert!(found.seen.contains("`outbox_message` has 2 of 3"), "{found:?}");

    // A user who may do less than a relay does.
    let database = scene.database.name();
    // As long as names of users may be.
    let poor = &database[database.len().saturating_sub(30)..];
    scene
        .run(&format!(
            "CREATE USER '{poor}'@'%'; GRANT SELECT ON `{database}`.* TO '{poor}'@'%';
            GRANT INSERT, UPDATE, DELETE ON `{database}`.`outbox_relay` TO '{poor}'@'%'"
        ))
        .await;
    let (_, place) = scene.database.url().rsplit_once('@').unwrap();
    let pool = sqlx::MySqlPool::connect(&format!("mysql://{poor}@{place}")).await.unwrap();
    let findings = scene.outbox.store(pool).diagnose().await;
    scene.run(&format!("DROP USER '{poor}'@'%'")).await;
    let findings = findings.unwrap();
    let found = findings.iter().find(|finding| finding.check == "rights").unwrap();
    assert_eq!(found.health, Health::Problem, "{found:?}");
    assert!(found.seen.contains("INSERT, UPDATE, DELETE on `outbox_message`"), "{found:?}");
    assert!(!found.seen.contains("outbox_relay"), "{found:?}");
}
