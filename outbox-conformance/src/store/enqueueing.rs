//! Transactions, and the content of a message on its way through the database.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_core::{Message, MessageId, Options, Timestamp};

use super::scene::{Scene, enqueue, keyed, message, names, unkeyed};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

/// Allowed difference between the clocks of different machines in tests of times.
const CLOCKS: Duration = Duration::from_secs(60);

pub(crate) async fn committed_messages_exist(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let mut transaction = fixture.begin().await?;
    transaction.enqueue(&[keyed("k", "a")?, unkeyed("b")?]).await?;
    scene.expect_nothing().await?;
    transaction.commit().await?;
    let mut names = names(&scene.expect(2).await?);
    names.sort();
    ensure_eq!(names, ["a", "b"], "rows after the commit");
    Ok(())
}

pub(crate) async fn rolled_back_messages_do_not_exist(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let mut transaction = fixture.begin().await?;
    transaction.enqueue(&[keyed("k", "rolled back")?]).await?;
    transaction.rollback().await?;
    scene.expect_nothing().await?;
    scene.enqueue_keyed("k", &["committed"]).await?;
    let rows = scene.expect_names(&["committed"]).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn abandoned_transactions_leave_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let mut transaction = fixture.begin().await?;
    transaction.enqueue(&[keyed("k", "abandoned")?]).await?;
    drop(transaction);
    scene.expect_nothing().await?;
    scene.enqueue_keyed("k", &["committed"]).await?;
    let rows = scene.expect_names(&["committed"]).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn a_transaction_is_all_or_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    for round in 0..5 {
        let mut transaction = fixture.begin().await?;
        for i in 0..20 {
            transaction.enqueue(&[keyed(&format!("k{i}"), &format!("{round}.{i}"))?]).await?;
        }
        let before = scene.fetch().await?.rows.len();
        ensure_eq!(before, 0, "rows of an open transaction");
        transaction.commit().await?;
        scene.expect(20).await?;
    }
    Ok(())
}

pub(crate) async fn every_field_survives(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let options = serde_json::json!({
        "amqp": { "exchange": "orders", "priority": 3, "nested": { "list": [1, 2.5, null, true, "ü"] } },
        "other": [],
    });
    let serde_json::Value::Object(options) = options else {
        return Err(Stop::Failed("an object is an object".to_owned()));
    };
    let deliver_at = Timestamp::from_micros(1_700_000_000_123_456);
    let full = Message::bytes("orders.placed", "payload")
        .id(MessageId::new())
        .key("customer-4")
        .content_type("application/vnd.orders+json; version=2")
        .header("tenant", "acme")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .raw_options(Options::from_json(options))
        .deliver_at(deliver_at)
        .build()?;
    let bare = Message::bytes("t", "").build()?;
    // Rows written by hand may have ids of any UUID version.
    let old_id = MessageId::from(uuid::Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd));
    let with_old_id = Message::bytes("t", "x").id(old_id).build()?;
    for expected in [full, bare, with_old_id] {
        scene.enqueue(std::slice::from_ref(&expected)).await?;
        let rows = scene.expect(1).await?;
        let [row] = &rows[..] else { continue };
        compare(message(row)?, &expected)?;
        ensure_eq!(row.attempts, 0, "attempts of a new message");
        ensure!(!row.blocked, "a new message with nothing in front of it is blocked");
        ensure_eq!(row.due, expected.deliver_at().is_some(), "due");
        ensure_eq!(row.key(), expected.key(), "the row's key");
        scene.deliver(&rows).await?;
    }
    Ok(())
}

fn compare(got: &Message, expected: &Message) -> CaseResult {
    ensure_eq!(got.id(), expected.id(), "id");
    ensure_eq!(got.topic(), expected.topic(), "topic");
    ensure_eq!(got.key(), expected.key(), "key");
    ensure_eq!(got.payload().len(), expected.payload().len(), "payload length");
    ensure!(got.payload() == expected.payload(), "the payload's bytes differ");
    ensure_eq!(got.content_type(), expected.content_type(), "content type");
    ensure_eq!(got.headers(), expected.headers(), "headers");
    ensure_eq!(got.options(), expected.options(), "options");
    ensure_eq!(got.deliver_at(), expected.deliver_at(), "delivery time");
    Ok(())
}

pub(crate) async fn extreme_values_survive(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..scene.traits.payload_bytes).map(|i| (i * 31 % 251) as u8).collect();
    let strange = "Ünïcödé 🚚 \u{202e}rtl\u{202c} 'quo\"tes' \\back\\slash %s $1 ? ; -- \t\n";
    let many_headers = (0..200).map(|i| (format!("header-{i}"), format!("{strange}{i}")));
    let messages = [
        Message::bytes("t", every_byte).build()?,
        Message::bytes("t", large).key("large").build()?,
        Message::bytes("t", "").key("").build()?,
        Message::bytes(strange, strange).key(strange).content_type(strange).build()?,
        Message::bytes("t", "many headers").headers(many_headers).build()?,
        Message::bytes("t", "empty header").header("empty", "").header(strange, "").build()?,
        Message::bytes("t", "long key").key("k".repeat(500)).build()?,
        Message::bytes("t".repeat(200), "long topic").build()?,
    ];
    for expected in &messages {
        enqueue(fixture, std::slice::from_ref(expected)).await?;
        let rows = scene.expect(1).await?;
        let [row] = &rows[..] else { continue };
        compare(message(row)?, expected)?;
        scene.deliver(&rows).await?;
    }
    scene.expect_drained().await
}

pub(crate) async fn positions_grow_in_enqueue_order(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let mut expected = Vec::new();
    for i in 0..30 {
        // In one call, in several calls of one transaction, or in several transactions.
        let mut transaction = fixture.begin().await?;
        for j in 0..3 {
            let payloads: Vec<String> = (0..3).map(|n| format!("{i:02}.{j}.{n}")).collect();
            let messages: outbox_core::Result<Vec<_>> =
                payloads.iter().enumerate().map(|(n, p)| keyed(&format!("k{}", (i + n) % 7), p)).collect();
            transaction.enqueue(&messages?).await?;
            expected.extend(payloads);
        }
        transaction.commit().await?;
    }
    let mut rows = scene.expect(expected.len()).await?;
    let positions: BTreeSet<_> = rows.iter().map(|row| row.position).collect();
    ensure_eq!(positions.len(), rows.len(), "number of different positions");
    rows.sort_by_key(|row| row.position);
    ensure_eq!(names(&rows), expected, "payloads in position order");
    Ok(())
}

pub(crate) async fn rows_know_their_age(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let before = fixture.now();
    scene.enqueue_keyed("k", &["a"]).await?;
    let waited = Duration::from_millis(300);
    fixture.pass_time(waited).await;
    let rows = scene.expect(1).await?;
    let after = fixture.now();
    for row in &rows {
        let (from, to) = (before.saturating_sub(CLOCKS), after.saturating_add(CLOCKS));
        ensure!(
            (from..=to).contains(&row.enqueued_at),
            "enqueued between {before} and {after}, but the row has {}",
            row.enqueued_at
        );
        ensure!(row.age >= waited.mul_f64(0.9), "the row waited {waited:?} and has {:?}", row.age);
        let most = after.since(before).saturating_add(Duration::from_secs(1));
        ensure!(row.age <= most, "the row waited at most {most:?} and has {:?}", row.age);
    }
    Ok(())
}

pub(crate) async fn a_key_stays_in_its_partition(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let keys = ["a", "b", "customer-4", "", "Ünïcödé 🚚", &"k".repeat(300)];
    for round in 0..3 {
        for key in keys {
            scene.enqueue_keyed(key, &[&round.to_string()]).await?;
        }
    }
    let rows = scene.expect(keys.len() * 3).await?;
    for key in keys {
        let of_key = rows.iter().filter(|row| row.key() == Some(key));
        let partitions: BTreeSet<_> = of_key.map(|row| row.partition).collect();
        ensure_eq!(partitions.len(), 1, "number of partitions of key {key:?}");
    }
    Ok(())
}

pub(crate) async fn messages_spread_over_partitions(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let partitions = scene.partitions.len();
    // Enough that even an unlucky partition gets a tenth of its share with near certainty.
    let count = partitions * 60;
    let keyed: outbox_core::Result<Vec<_>> = (0..count).map(|i| keyed(&format!("key-{i}"), "k")).collect();
    let unkeyed: outbox_core::Result<Vec<_>> = (0..count).map(|_| unkeyed("u")).collect();
    for (what, messages) in [("keys", keyed?), ("messages without a key", unkeyed?)] {
        scene.enqueue(&messages).await?;
        let rows = scene.expect(count).await?;
        for partition in &scene.partitions {
            let here = rows.iter().filter(|row| row.partition == *partition).count();
            ensure!(here >= 6, "only {here} of {count} {what} are in partition {partition}");
        }
        scene.deliver(&rows).await?;
    }
    Ok(())
}
