//! Messages that were given up, and unreadable rows.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_core::{
    Content, Count, DeadLetterFilter, Fetched, Message, MessageId, Position, Settle, Settlement,
};

use super::scene::{LONG, Scene, dead, delivered, held, keyed, message, name, names, retry, unkeyed};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::{MalformedRow, StoreFixture};

const ALL: usize = 1000;

async fn positions(scene: &mut Scene<'_>, filter: &DeadLetterFilter) -> Result<Vec<Position>, Stop> {
    let listed = scene.dead_letters()?.list(filter, None, ALL).await?;
    Ok(listed.iter().map(|dead| dead.position).collect())
}

/// Turns messages with these payloads, each with a separate key, into dead letters.
async fn kill(scene: &mut Scene<'_>, payloads: &[&str]) -> Result<Vec<Fetched>, Stop> {
    let messages: outbox_core::Result<Vec<_>> =
        payloads.iter().map(|payload| keyed(&format!("key of {payload}"), payload)).collect();
    scene.enqueue(&messages?).await?;
    let mut rows = scene.expect(payloads.len()).await?;
    rows.sort_by_key(|row| row.position);
    ensure_eq!(names(&rows), payloads, "rows that become dead letters");
    scene.settle(&rows.iter().map(|row| dead(row, true)).collect::<Vec<_>>()).await?;
    Ok(rows)
}

pub(crate) async fn dead_messages_are_listed(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let full = Message::bytes("orders", vec![0, 159, 146, 150])
        .key("k")
        .content_type("application/octet-stream")
        .header("h", "v")
        .build()?;
    let bare = unkeyed("bare")?;
    scene.enqueue(&[full.clone(), bare.clone()]).await?;
    let mut rows = scene.expect(2).await?;
    rows.sort_by_key(|row| row.position);
    let error = "rejected: \"no\" — because 'of' 100% \\ nonsense\nand more";
    let batch: Vec<_> = rows
        .iter()
        .map(|row| {
            Settle::of(row, Settlement::Dead { attempts: 12, error: error.to_owned(), block_key: true })
        })
        .collect();
    let before = fixture.now();
    scene.settle(&batch).await?;
    scene.expect_nothing().await?;
    let listed = scene.dead_letters()?.list(&DeadLetterFilter::all(), None, ALL).await?;
    ensure_eq!(listed.len(), 2, "number of dead letters");
    for ((dead, row), original) in listed.iter().zip(&rows).zip([&full, &bare]) {
        ensure_eq!(dead.position, row.position, "position");
        ensure_eq!(dead.id, Some(original.id()), "id");
        ensure_eq!(dead.topic.as_deref(), Some(original.topic()), "topic");
        ensure_eq!(dead.key.as_deref(), original.key(), "key");
        ensure_eq!(dead.attempts, 12, "attempts");
        ensure_eq!(dead.error, error, "error");
        ensure_eq!(dead.blocks_key, original.key().is_some(), "whether the later messages of its key wait");
        ensure_eq!(dead.enqueued_at, row.enqueued_at, "time of enqueueing");
        ensure_eq!(dead.message.as_ref(), Some(original), "message");
        let clocks = Duration::from_secs(60);
        let plausible = before.saturating_sub(clocks)..=fixture.now().saturating_add(clocks);
        ensure!(
            plausible.contains(&dead.died_at),
            "a message that died after {before} died at {}",
            dead.died_at
        );
    }
    Ok(())
}

pub(crate) async fn listing_is_filtered(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let messages = [
        Message::bytes("orders", "a").key("k").build()?,
        Message::bytes("orders", "b").key("l").build()?,
        Message::bytes("invoices", "c").key("k").build()?,
        Message::bytes("invoices", "d").build()?,
    ];
    scene.enqueue(&messages).await?;
    let mut rows = scene.expect(4).await?;
    rows.sort_by_key(|row| row.position);
    let errors = ["timeout: 100% of", "timeout: nothing", "refused_by me", "refused by me"];
    let batch: Vec<_> = rows
        .iter()
        .zip(errors)
        .map(|(row, error)| {
            Settle::of(row, Settlement::Dead { attempts: 1, error: error.to_owned(), block_key: false })
        })
        .collect();
    scene.settle(&batch).await?;
    let all = DeadLetterFilter::all;
    let cases = [
        (all(), vec![0, 1, 2, 3]),
        (all().topic("orders"), vec![0, 1]),
        (all().topic("order"), vec![]),
        (all().key("k"), vec![0, 2]),
        (all().key(""), vec![]),
        (all().topic("invoices").key("k"), vec![2]),
        (all().id(messages[1].id()), vec![1]),
        (all().id(MessageId::new()), vec![]),
        (all().positions([rows[3].position, rows[0].position]), vec![0, 3]),
        (all().positions([]), vec![]),
        (all().positions([Position(i64::MAX)]), vec![]),
        (all().error_contains("timeout"), vec![0, 1]),
        // An exact substring: no character is a wildcard, and case matters.
        (all().error_contains("100% of"), vec![0]),
        (all().error_contains("t%"), vec![]),
        (all().error_contains("refused_by"), vec![2]),
        (all().error_contains("Timeout"), vec![]),
        (all().error_contains("e").topic("orders").key("l"), vec![1]),
        (all().older_than(LONG), vec![]),
        (all().older_than(Duration::ZERO), vec![0, 1, 2, 3]),
    ];
    for (filter, expected) in cases {
        let expected: Vec<_> = expected.into_iter().map(|i: usize| rows[i].position).collect();
        ensure_eq!(positions(&mut scene, &filter).await?, expected, "dead letters of {filter:?}");
        for limit in [100, 1] {
            let counted = scene.dead_letters()?.count(&filter, limit).await?;
            let right = Count::limited(expected.len() as u64, limit);
            ensure_eq!(counted, right, "count, up to {limit}, of the dead letters of {filter:?}");
        }
    }
    fixture.pass_time(Duration::from_millis(250)).await;
    let old = positions(&mut scene, &all().older_than(Duration::from_millis(200))).await?;
    ensure_eq!(old.len(), 4, "dead letters that died at least 200 ms ago");
    Ok(())
}

pub(crate) async fn listing_is_paged(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let payloads: Vec<String> = (0..25).map(|i| format!("{i:02}")).collect();
    let rows = kill(&mut scene, &payloads.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let expected: Vec<_> = rows.iter().map(|row| row.position).collect();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = scene.dead_letters()?.list(&DeadLetterFilter::all(), after, 10).await?;
        ensure!(page.len() <= 10, "asked for 10 dead letters, got {}", page.len());
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        seen.extend(page.iter().map(|dead| dead.position));
        ensure!(seen.len() <= expected.len(), "the pages have more than the 25 dead letters there are");
    }
    ensure_eq!(seen, expected, "positions on all pages");
    Ok(())
}

pub(crate) async fn redriven_messages_come_again(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let rows = kill(&mut scene, &["a", "b"]).await?;
    let filter = DeadLetterFilter::all().positions([rows[0].position]);
    ensure_eq!(scene.dead_letters()?.redrive(&filter, ALL).await?, 1, "redriven");
    ensure_eq!(scene.dead_letters()?.redrive(&filter, ALL).await?, 0, "redriven the second time");
    let again = scene.expect_names(&["a"]).await?;
    let (row, original) = (&again[0], &rows[0]);
    ensure_eq!(row.position, original.position, "position of a redriven message");
    ensure_eq!(row.partition, original.partition, "partition of a redriven message");
    ensure_eq!(row.attempts, 0, "attempts of a redriven message");
    ensure_eq!(row.enqueued_at, original.enqueued_at, "time of enqueueing of a redriven message");
    ensure!(!row.blocked, "a redriven message with nothing in front of it is blocked");
    ensure_eq!(message(row)?, message(original)?, "redriven message");
    let stats = scene.store.stats(100).await?;
    ensure_eq!((stats.backlog.value, stats.dead_letters.value), (1, 1), "backlog and dead letters");
    // It can die again, and come again.
    scene.settle(&[dead(row, true)]).await?;
    ensure_eq!(scene.dead_letters()?.redrive(&DeadLetterFilter::all(), ALL).await?, 2, "redriven");
    let again = scene.expect(2).await?;
    scene.deliver(&again).await?;
    scene.expect_drained().await?;
    ensure_eq!(scene.store.stats(100).await?.dead_letters.value, 0, "dead letters");
    Ok(())
}

pub(crate) async fn redriving_keeps_the_order(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    scene.settle(&[dead(&rows[0], true), held(&rows[1]), held(&rows[2])]).await?;
    scene.enqueue_keyed("k", &["d"]).await?;
    let rows = scene.expect_names(&["d"]).await?;
    ensure!(rows[0].blocked, "a row behind a dead letter that blocks is not blocked");
    scene.settle(&[held(&rows[0])]).await?;
    scene.dead_letters()?.redrive(&DeadLetterFilter::all(), ALL).await?;
    let first = scene.expect(1).await?;
    ensure_eq!(names(&first), ["a"], "rows after the redrive");
    scene.expect_nothing().await?;
    // It may fail again, and it still blocks.
    scene.settle(&[retry(&first[0], Duration::from_millis(200))]).await?;
    let first = scene.expect(1).await?;
    ensure_eq!(names(&first), ["a"], "rows after it failed again");
    scene.expect_nothing().await?;
    scene.deliver(&first).await?;
    ensure_eq!(scene.deliver_until(3).await?, ["b", "c", "d"], "messages behind it");
    scene.expect_drained().await?;

    // A message that did not block is redriven without regard to its key, even while others of the key are in
    // flight.
    let rows = scene.fetch_keyed("k", &["e", "f"]).await?;
    scene.settle(&[dead(&rows[0], false)]).await?;
    scene.dead_letters()?.redrive(&DeadLetterFilter::all(), ALL).await?;
    let again = scene.expect_names(&["e"]).await?;
    scene.enqueue_keyed("k", &["g"]).await?;
    let last = scene.expect_names(&["g"]).await?;
    ensure!(!last[0].blocked, "a row behind a redriven one that does not block is blocked");
    scene.deliver(&[again[0].clone(), rows[1].clone(), last[0].clone()]).await?;
    scene.expect_drained().await
}

pub(crate) async fn redriving_behind_a_dead_letter_waits(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    scene.settle(&[dead(&rows[0], true), dead(&rows[1], true), held(&rows[2])]).await?;
    let filter = DeadLetterFilter::all().positions([rows[1].position]);
    ensure_eq!(scene.dead_letters()?.redrive(&filter, ALL).await?, 1, "redriven");
    scene.expect_nothing().await?;
    ensure_eq!(scene.dead_letters()?.redrive(&DeadLetterFilter::all(), ALL).await?, 1, "redriven");
    ensure_eq!(scene.deliver_until(3).await?, ["a", "b", "c"], "messages in the order of delivery");
    scene.expect_drained().await?;

    // All messages of a key redriven together are returned in order too.
    let rows = scene.fetch_keyed("k", &["d", "e", "f"]).await?;
    scene.settle(&rows.iter().map(|row| dead(row, true)).collect::<Vec<_>>()).await?;
    ensure_eq!(scene.dead_letters()?.redrive(&DeadLetterFilter::all(), ALL).await?, 3, "redriven");
    ensure_eq!(scene.deliver_until(3).await?, ["d", "e", "f"], "messages in the order of delivery");
    scene.expect_drained().await
}

pub(crate) async fn redriving_selects(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let rows = kill(&mut scene, &["a", "b", "c", "d", "e"]).await?;
    ensure_eq!(scene.dead_letters()?.redrive(&DeadLetterFilter::all(), 2).await?, 2, "redriven of 2");
    let mut came = names(&scene.expect(2).await?);
    came.sort();
    ensure_eq!(came, ["a", "b"], "redriven messages");
    let filter = DeadLetterFilter::all().key("key of d");
    ensure_eq!(scene.dead_letters()?.redrive(&filter, ALL).await?, 1, "redriven of one key");
    scene.expect_names(&["d"]).await?;
    let filter = DeadLetterFilter::all().error_contains("of c");
    ensure_eq!(scene.dead_letters()?.discard(&filter, ALL).await?, 1, "discarded by error");
    let left = positions(&mut scene, &DeadLetterFilter::all()).await?;
    ensure_eq!(left, [rows[4].position], "dead letters left");
    ensure_eq!(scene.dead_letters()?.redrive(&DeadLetterFilter::all(), 0).await?, 0, "redriven of 0");
    ensure_eq!(scene.dead_letters()?.discard(&DeadLetterFilter::all(), 0).await?, 0, "discarded of 0");
    Ok(())
}

pub(crate) async fn discarded_messages_free_their_key(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c", "d"]).await?;
    scene.settle(&[dead(&rows[0], true), dead(&rows[1], true), held(&rows[2]), held(&rows[3])]).await?;
    ensure_eq!(scene.dead_letters()?.discard(&DeadLetterFilter::all(), 1).await?, 1, "discarded of 1");
    let left = positions(&mut scene, &DeadLetterFilter::all()).await?;
    ensure_eq!(left, [rows[1].position], "dead letters left");
    // The second one still blocks.
    scene.expect_nothing().await?;
    ensure_eq!(scene.dead_letters()?.discard(&DeadLetterFilter::all(), ALL).await?, 1, "discarded");
    ensure_eq!(scene.deliver_until(2).await?, ["c", "d"], "messages that were held");
    scene.expect_drained().await?;
    ensure_eq!(scene.store.stats(100).await?.dead_letters.value, 0, "dead letters");
    Ok(())
}

/// Writes malformed rows, and fetches them among good ones.
async fn fetch_malformed(scene: &mut Scene<'_>) -> Result<(Vec<MalformedRow>, Vec<Fetched>), Stop> {
    scene.enqueue_keyed("before", &["before"]).await?;
    let written = scene.fixture.insert_malformed().await?;
    if written.is_empty() {
        return Err(Stop::NotApplicable("the store's tables refuse all unreadable rows".to_owned()));
    }
    scene.enqueue_keyed("after", &["after"]).await?;
    let rows = scene.expect(written.len() + 2).await?;
    let (good, bad): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| matches!(row.content, Content::Message(_)));
    let mut good_names: Vec<_> = good.iter().map(name).collect();
    good_names.sort();
    ensure_eq!(good_names, ["after", "before"], "readable rows among {} unreadable ones", written.len());
    scene.deliver(&good).await?;
    Ok((written, bad))
}

pub(crate) async fn malformed_rows_are_told(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let (mut written, rows) = fetch_malformed(&mut scene).await?;
    for row in &rows {
        let Content::Malformed { id, topic, key, reason } = &row.content else { continue };
        let lower = reason.to_lowercase();
        let found = written.iter().position(|written| {
            lower.contains(&written.mentions.to_lowercase())
                && written.id.is_none_or(|written| Some(written) == *id)
                && written.topic.as_ref().is_none_or(|written| Some(written) == topic.as_ref())
                && written.key.as_ref().is_none_or(|written| Some(written) == key.as_ref())
        });
        ensure!(
            found.is_some(),
            "a malformed row came with id {id:?}, topic {topic:?}, key {key:?} and the reason {reason:?}; \
             none of those written was like that: {written:?}"
        );
        if let Some(found) = found {
            written.remove(found);
        }
    }
    ensure!(written.is_empty(), "malformed rows did not come: {written:?}");
    Ok(())
}

pub(crate) async fn malformed_rows_can_die(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    let (_, rows) = fetch_malformed(&mut scene).await?;
    let settle =
        |row: &Fetched| Settle::of(row, Settlement::Dead { attempts: 0, error: name(row), block_key: true });
    scene.settle(&rows.iter().map(settle).collect::<Vec<_>>()).await?;
    let expected: BTreeSet<_> = rows.iter().map(|row| row.position).collect();
    let listed = scene.dead_letters()?.list(&DeadLetterFilter::all(), None, ALL).await?;
    let found: BTreeSet<_> = listed.iter().map(|dead| dead.position).collect();
    ensure_eq!(found, expected, "positions of unreadable dead letters");
    for dead in &listed {
        ensure!(dead.message.is_none(), "an unreadable dead letter has a message: {dead:?}");
        ensure!(dead.error.starts_with("<malformed"), "a dead letter lost its error: {dead:?}");
    }
    // They return unchanged, unless they were corrected meanwhile.
    let count = rows.len() as u64;
    ensure_eq!(scene.dead_letters()?.redrive(&DeadLetterFilter::all(), ALL).await?, count, "redriven");
    let again = scene.expect(rows.len()).await?;
    let (mut before, mut after) = (names(&rows), names(&again));
    before.sort();
    after.sort();
    ensure_eq!(after, before, "reasons of redriven unreadable rows");
    scene.settle(&again.iter().map(settle).collect::<Vec<_>>()).await?;
    ensure_eq!(scene.dead_letters()?.discard(&DeadLetterFilter::all(), ALL).await?, count, "discarded");
    // They can also be settled as delivered: a relay might be configured to drop them.
    let stats = scene.store.stats(100).await?;
    ensure_eq!((stats.backlog.value, stats.dead_letters.value), (0, 0), "backlog and dead letters");
    let (_, rows) = fetch_malformed(&mut scene).await?;
    scene.settle(&rows.iter().map(delivered).collect::<Vec<_>>()).await?;
    scene.expect_drained().await
}

pub(crate) async fn without_administration_there_is_none(fixture: &dyn StoreFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    ensure_eq!(
        scene.store.dead_letters().is_some(),
        scene.traits.dead_letters,
        "whether the store can manage dead letters"
    );
    Ok(())
}
