//! Keys that wait for a failed message.

use std::time::Duration;

use outbox_core::{Fetched, Message, RelayId, Store as _};

use super::scene::{
    LONG, Scene, dead, delivered, find, held, keyed, name, names, needs_concurrent_writers, retry,
    retry_aside, unkeyed,
};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

/// Fetches these rows, and fails unless each is blocked or not, as given.
async fn expect_blocked(
    scene: &mut Scene<'_>,
    payloads: &[&str],
    blocked: bool,
) -> Result<Vec<Fetched>, Stop> {
    let rows = scene.expect_names(payloads).await?;
    for row in &rows {
        ensure_eq!(row.blocked, blocked, "whether row {} is blocked", name(row));
    }
    Ok(rows)
}

/// Settles the first row so that it blocks, and holds the others.
async fn fail_first(scene: &mut Scene<'_>, rows: &[Fetched], after: Duration) -> CaseResult {
    let mut batch: Vec<_> = rows.iter().map(held).collect();
    if let (Some(settle), Some(row)) = (batch.first_mut(), rows.first()) {
        *settle = retry(row, after);
    }
    scene.settle(&batch).await
}

pub(crate) async fn a_retrying_message_blocks_its_key(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a"]).await?;
    scene.settle(&[retry(&rows[0], LONG)]).await?;
    scene.enqueue_keyed("k", &["b", "c"]).await?;
    let rows = expect_blocked(&mut scene, &["b", "c"], true).await?;
    scene.settle(&[held(&rows[0]), held(&rows[1])]).await?;
    // Also behind held ones.
    scene.enqueue_keyed("k", &["d"]).await?;
    let rows = expect_blocked(&mut scene, &["d"], true).await?;
    scene.settle(&[held(&rows[0])]).await?;
    scene.expect_nothing().await
}

pub(crate) async fn other_messages_are_not_blocked(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["earlier", "blocking"]).await?;
    scene.settle(&[retry(&rows[1], LONG)]).await?;
    // Enough other keys that some share the partition, and some a hash.
    let others: outbox_core::Result<Vec<_>> = (0..200).map(|i| keyed(&format!("k{i}"), "other")).collect();
    scene.enqueue(&others?).await?;
    let unkeyed: outbox_core::Result<Vec<_>> = (0..100).map(|_| unkeyed("unkeyed")).collect();
    let unkeyed = unkeyed?;
    scene.enqueue(&unkeyed).await?;
    scene.enqueue_keyed("", &["empty key"]).await?;
    let rows = scene.expect(301).await?;
    ensure!(rows.iter().all(|row| !row.blocked), "a message of another key or of none is blocked");
    scene.deliver(&rows).await?;
    // A message without a key that is retried or dead blocks no other message, whatever was requested.
    scene
        .enqueue(
            &unkeyed[..2].iter().map(|_| Message::bytes("t", "u").build()).collect::<Result<Vec<_>, _>>()?,
        )
        .await?;
    let rows = scene.expect(2).await?;
    scene.settle(&[retry(&rows[0], LONG), dead(&rows[1], true)]).await?;
    scene.enqueue(&(0..50).map(|_| Message::bytes("t", "v").build()).collect::<Result<Vec<_>, _>>()?).await?;
    let rows = scene.expect(50).await?;
    ensure!(rows.iter().all(|row| !row.blocked), "a message without a key is blocked by one without a key");
    scene.deliver(&rows).await?;
    // The earlier row of the key has not been read by a new reader yet, and is free.
    scene.reader = scene.store.reader();
    scene.assign_all();
    expect_blocked(&mut scene, &["earlier"], false).await?;
    Ok(())
}

pub(crate) async fn keys_are_told_apart_exactly(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("key", &["blocking"]).await?;
    scene.settle(&[retry(&rows[0], LONG)]).await?;
    // Strings that databases treat as equal: another case, another accent, the same character in another
    // encoding, trailing spaces, zero-width characters.
    let others = ["KEY", "Key", "kéy", "ke\u{301}y", "key ", "key  ", " key", "ｋｅｙ", "key\u{200b}"];
    for other in others {
        scene.enqueue_keyed(other, &[other]).await?;
    }
    let rows = scene.expect(others.len()).await?;
    let blocked: Vec<_> = rows.iter().filter(|row| row.blocked).filter_map(|row| row.key()).collect();
    ensure!(blocked.is_empty(), "{blocked:?} are taken for the blocked key \"key\"");
    scene.deliver(&rows).await?;
    scene.enqueue_keyed("key", &["behind"]).await?;
    expect_blocked(&mut scene, &["behind"], true).await?;
    Ok(())
}

pub(crate) async fn held_messages_follow_in_order(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c", "d"]).await?;
    fail_first(&mut scene, &rows, Duration::from_millis(100)).await?;
    // It fails again, and no other row is returned.
    let first = expect_blocked(&mut scene, &["a"], false).await?;
    scene.settle(&[retry(&first[0], Duration::from_millis(100))]).await?;
    let first = expect_blocked(&mut scene, &["a"], false).await?;
    scene.expect_nothing().await?;
    scene.enqueue_keyed("k", &["e"]).await?;
    let last = expect_blocked(&mut scene, &["e"], true).await?;
    scene.settle(&[held(&last[0])]).await?;
    scene.deliver(&first).await?;
    ensure_eq!(scene.deliver_until(4).await?, ["b", "c", "d", "e"], "held messages in the order of delivery");
    // The key works as before.
    scene.enqueue_keyed("k", &["f"]).await?;
    let rows = expect_blocked(&mut scene, &["f"], false).await?;
    ensure!(!rows[0].due, "a fresh row of a key that is free again is reported as due");
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn many_held_messages_all_follow(fixture: &dyn StoreFixture) -> CaseResult {
    const COUNT: usize = 900;
    let mut scene = Scene::new(fixture).await?;
    let payloads: Vec<String> = (0..COUNT).map(|i| format!("{i:04}")).collect();
    let messages: outbox_core::Result<Vec<_>> = payloads.iter().map(|payload| keyed("k", payload)).collect();
    scene.enqueue(&messages?).await?;
    let rows = scene.expect(COUNT).await?;
    fail_first(&mut scene, &rows, Duration::ZERO).await?;
    let delivered = scene.deliver_until(COUNT).await?;
    ensure_eq!(delivered, payloads, "held messages in the order of delivery");
    scene.expect_drained().await
}

pub(crate) async fn holding_behind_nothing_is_due_at_once(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    scene.deliver(&rows[..1]).await?;
    scene.settle(&[held(&rows[1]), held(&rows[2])]).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["b", "c"], "messages held without a blocking message");
    // Without a key there is never an earlier message.
    scene.enqueue(&[unkeyed("d")?]).await?;
    let rows = scene.expect(1).await?;
    scene.settle(&[held(&rows[0])]).await?;
    let rows = expect_blocked(&mut scene, &["d"], false).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn holding_behind_nothing_keeps_the_order(fixture: &dyn StoreFixture) -> CaseResult {
    // A relay holds its messages of a key in several calls, the later ones first, while another relay has
    // delivered the message that was to block them.
    for calls in [vec![vec![3, 1, 2]], vec![vec![3], vec![2, 1]], vec![vec![2], vec![3], vec![1]]] {
        let mut scene = Scene::new(fixture).await?;
        let rows = scene.fetch_keyed("k", &["a", "b", "c", "d"]).await?;
        scene.deliver(&rows[..1]).await?;
        for call in &calls {
            let batch: Vec<_> = call.iter().map(|index| held(&rows[*index])).collect();
            scene.settle(&batch).await?;
        }
        for expected in ["b", "c", "d"] {
            let row = scene.expect_one().await?;
            ensure_eq!(name(&row), expected, "the first of the messages that were held in {calls:?}");
            scene.deliver(&[row]).await?;
        }
        scene.expect_drained().await?;
        scene.store.leave(scene.relay).await?;
    }
    Ok(())
}

pub(crate) async fn a_parked_key_goes_on_in_order(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c", "d"]).await?;
    // A relay that has too much of the key keeps the first of the held messages, which is due.
    scene.settle(&[held(&rows[2]), held(&rows[3])]).await?;
    let kept = expect_blocked(&mut scene, &["c"], false).await?;
    scene.expect_nothing().await?;
    scene.enqueue_keyed("k", &["e"]).await?;
    let last = expect_blocked(&mut scene, &["e"], true).await?;
    scene.settle(&[held(&last[0])]).await?;
    scene.enqueue_keyed("l", &["other"]).await?;
    let other = expect_blocked(&mut scene, &["other"], false).await?;
    scene.deliver(&other).await?;
    scene.deliver(&rows[..2]).await?;
    scene.expect_nothing().await?;
    scene.deliver(&kept).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["d", "e"], "messages behind the one that was kept");
    scene.enqueue_keyed("k", &["f"]).await?;
    let rows = expect_blocked(&mut scene, &["f"], false).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn few_messages_of_a_key_are_due_at_a_time(fixture: &dyn StoreFixture) -> CaseResult {
    const COUNT: usize = 1200;
    const MOST: usize = 500;
    let mut scene = Scene::new(fixture).await?;
    let payloads: Vec<String> = (0..COUNT).map(|i| format!("{i:04}")).collect();
    let messages: outbox_core::Result<Vec<_>> = payloads.iter().map(|payload| keyed("k", payload)).collect();
    scene.enqueue(&messages?).await?;
    let rows = scene.expect(COUNT).await?;
    let batch: Vec<_> = rows.iter().map(held).collect();
    scene.settle(&batch).await?;
    let (mut due, mut delivered) = (Vec::new(), Vec::new());
    let deadline = scene.deadline();
    while delivered.len() < COUNT {
        due.extend(scene.fetch().await?.rows);
        ensure!(due.len() <= MOST, "{} messages of a key are due at a time", due.len());
        if due.is_empty() {
            deadline.pause(fixture, || format!("row {}", delivered.len())).await?;
            continue;
        }
        // One by one for a while, so that what becomes due is more than what is delivered.
        let size = if delivered.len() < 8 { 1 } else { due.len() };
        let some: Vec<_> = due.drain(..size).collect();
        delivered.extend(names(&some));
        scene.deliver(&some).await?;
    }
    ensure_eq!(delivered, payloads, "held messages in the order of delivery");
    scene.expect_drained().await
}

pub(crate) async fn holding_a_due_message_holds_what_is_due_behind_it(
    fixture: &dyn StoreFixture,
) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c", "d"]).await?;
    fail_first(&mut scene, &rows, Duration::ZERO).await?;
    let first = scene.expect_names(&["a"]).await?;
    scene.deliver(&first).await?;
    // All the others are due. A relay that still considers the key blocked holds the second one of them.
    let second = scene.expect_one().await?;
    let third = scene.expect_one().await?;
    ensure_eq!((name(&second), name(&third)), ("b".to_owned(), "c".to_owned()), "the first messages due");
    scene.settle(&[held(&third)]).await?;
    scene.expect_nothing().await?;
    scene.deliver(&[second]).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["c", "d"], "messages behind one that was held again");
    scene.expect_drained().await
}

pub(crate) async fn holding_and_delivering_in_one_call_releases(fixture: &dyn StoreFixture) -> CaseResult {
    for dies in [false, true] {
        let mut scene = Scene::new(fixture).await?;
        let rows = scene.fetch_keyed("k", &["a"]).await?;
        scene.settle(&[retry(&rows[0], Duration::ZERO)]).await?;
        let first = scene.expect_names(&["a"]).await?;
        scene.enqueue_keyed("k", &["b"]).await?;
        let second = expect_blocked(&mut scene, &["b"], true).await?;
        let out = if dies { dead(&first[0], false) } else { delivered(&first[0]) };
        scene.settle(&[held(&second[0]), out]).await?;
        let rows = expect_blocked(&mut scene, &["b"], false).await?;
        scene.deliver(&rows).await?;
        scene.expect_drained().await?;
        scene.store.leave(scene.relay).await?;
    }
    Ok(())
}

pub(crate) async fn a_released_message_that_fails_blocks_again(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c", "d"]).await?;
    fail_first(&mut scene, &rows, Duration::ZERO).await?;
    let first = scene.expect_names(&["a"]).await?;
    scene.deliver(&first).await?;
    // Whether one or all of the held messages were released: the first of them fails.
    let deadline = scene.deadline();
    let mut rows = Vec::new();
    while rows.is_empty() {
        rows = scene.fetch().await?.rows;
        if rows.is_empty() {
            deadline.pause(fixture, || "the first held message".to_owned()).await?;
        }
    }
    ensure_eq!(names(&rows[..1]), ["b"], "first of the released messages");
    // Only the failure is settled: the messages behind it, fetched or not, must not stay due.
    scene.settle(&[retry(&rows[0], Duration::from_millis(500))]).await?;
    let others: Vec<_> = rows[1..].iter().map(held).collect();
    scene.settle(&others).await?;
    let came = scene.expect(1).await?;
    ensure_eq!(names(&came), ["b"], "first row after a released message failed");
    scene.expect_nothing().await?;
    scene.deliver(&came).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["c", "d"], "messages behind it");
    scene.expect_drained().await
}

pub(crate) async fn a_failure_behind_a_failure_waits(fixture: &dyn StoreFixture) -> CaseResult {
    for together in [true, false] {
        let mut scene = Scene::new(fixture).await?;
        let rows = scene.fetch_keyed("k", &["a", "b"]).await?;
        let batch = [retry(&rows[0], Duration::from_millis(300)), retry(&rows[1], Duration::ZERO)];
        if together {
            scene.settle(&batch).await?;
        } else {
            scene.settle(&batch[1..]).await?;
            scene.settle(&batch[..1]).await?;
        }
        let first = scene.expect(1).await?;
        ensure_eq!(
            names(&first),
            ["a"],
            "first of two failed messages of a key, settled together: {together}"
        );
        scene.expect_nothing().await?;
        scene.deliver(&first).await?;
        let second = scene.expect_names(&["b"]).await?;
        ensure_eq!(second[0].attempts, 1, "attempts of the second one");
        scene.deliver(&second).await?;
        scene.expect_drained().await?;
        scene.store.leave(scene.relay).await?;
    }
    Ok(())
}

pub(crate) async fn a_retry_can_leave_its_key_free(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    // Behind a retry that is not due.
    let waiting = scene.fetch_keyed("k", &["a"]).await?;
    scene.settle(&[retry_aside(&waiting[0], LONG)]).await?;
    scene.enqueue_keyed("k", &["b"]).await?;
    let rows = expect_blocked(&mut scene, &["b"], false).await?;
    scene.deliver(&rows).await?;
    scene.expect_nothing().await?;
    // Behind a retry that is due and in flight.
    let rows = scene.fetch_keyed("l", &["c"]).await?;
    scene.settle(&[retry_aside(&rows[0], Duration::ZERO)]).await?;
    let due = expect_blocked(&mut scene, &["c"], false).await?;
    scene.enqueue_keyed("l", &["d"]).await?;
    let rows = expect_blocked(&mut scene, &["d"], false).await?;
    scene.deliver(&[&due[..], &rows, &waiting].concat()).await?;
    scene.expect_drained().await
}

pub(crate) async fn a_retry_can_set_its_key_free(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    fail_first(&mut scene, &rows, Duration::ZERO).await?;
    let first = scene.expect_names(&["a"]).await?;
    // A relay does this that was restarted with another setting.
    scene.settle(&[retry_aside(&first[0], LONG)]).await?;
    scene.store.repair(scene.relay, &scene.partitions, 100).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["b", "c"], "messages that were held");
    Ok(())
}

pub(crate) async fn a_dead_message_can_block_its_key(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b"]).await?;
    scene.settle(&[dead(&rows[0], true), held(&rows[1])]).await?;
    scene.expect_nothing().await?;
    scene.enqueue_keyed("k", &["c"]).await?;
    let rows = expect_blocked(&mut scene, &["c"], true).await?;
    scene.settle(&[held(&rows[0])]).await?;
    scene.expect_nothing().await?;
    // A repair does not touch them either.
    ensure_eq!(scene.store.repair(scene.relay, &scene.partitions, 100).await?, 0, "repaired rows");
    scene.expect_nothing().await?;
    let stats = scene.store.stats(100).await?;
    ensure_eq!((stats.backlog.value, stats.dead_letters.value), (2, 1), "backlog and dead letters");
    // A dead message that blocked while it was retried keeps blocking.
    let rows = scene.fetch_keyed("l", &["d", "e"]).await?;
    fail_first(&mut scene, &rows, Duration::ZERO).await?;
    let rows = scene.expect_names(&["d"]).await?;
    scene.settle(&[dead(&rows[0], true)]).await?;
    scene.expect_nothing().await
}

pub(crate) async fn a_dead_message_can_free_its_key(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    fail_first(&mut scene, &rows, Duration::ZERO).await?;
    let rows = scene.expect_names(&["a"]).await?;
    scene.settle(&[dead(&rows[0], false)]).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["b", "c"], "messages that were held");
    // A message that dies immediately without blocking never blocks.
    let rows = scene.fetch_keyed("k", &["d"]).await?;
    scene.settle(&[dead(&rows[0], false)]).await?;
    scene.enqueue_keyed("k", &["e"]).await?;
    let rows = expect_blocked(&mut scene, &["e"], false).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn due_rows_behind_a_blocker_are_blocked(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a"]).await?;
    let soon = fixture.now().saturating_add(Duration::from_millis(200));
    scene.enqueue(&[Message::bytes("t", "scheduled").key("k").deliver_at(soon).build()?]).await?;
    scene.settle(&[retry(&rows[0], LONG)]).await?;
    let scheduled = expect_blocked(&mut scene, &["scheduled"], true).await?;
    ensure!(scheduled[0].due, "a due scheduled row is not reported as due");
    scene.settle(&[held(&scheduled[0])]).await?;
    scene.expect_nothing().await?;
    scene.deliver(&rows).await?;
    let rows = expect_blocked(&mut scene, &["scheduled"], false).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn a_late_row_in_front_is_not_blocked(fixture: &dyn StoreFixture) -> CaseResult {
    needs_concurrent_writers(fixture)?;
    let mut scene = Scene::new(fixture).await?;
    let mut late = fixture.begin().await?;
    late.enqueue(&[keyed("k", "late")?]).await?;
    let rows = scene.fetch_keyed("k", &["a", "b"]).await?;
    fail_first(&mut scene, &rows, LONG).await?;
    late.commit().await?;
    let rows = expect_blocked(&mut scene, &["late"], false).await?;
    scene.deliver(&rows).await?;
    // The message behind it keeps waiting for its own time.
    scene.expect_nothing().await
}

pub(crate) async fn blocks_outlive_the_relay(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    // The relay dies before it holds the last one.
    scene.settle(&[retry(&rows[0], Duration::from_millis(300)), held(&rows[1])]).await?;
    scene.store = fixture.store().await?;
    scene.restart().await?;
    let mut came = Vec::new();
    let deadline = scene.deadline();
    while came.len() < 2 {
        came.extend(scene.fetch().await?.rows);
        deadline
            .pause(fixture, || format!("rows a and c, of which {:?} were returned", names(&came)))
            .await?;
    }
    ensure!(find(&came, "c")?.blocked, "a row behind a retrying one is not blocked for a new relay");
    let first = find(&came, "a")?.clone();
    ensure!(first.due && !first.blocked && first.attempts == 1, "a retried row has changed: {first:?}");
    scene.settle(&[held(find(&came, "c")?)]).await?;
    scene.store.settle(RelayId::new(), &[held(find(&came, "c")?)], false).await?;
    scene.expect_nothing().await?;
    scene.deliver(&[first]).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["b", "c"], "held messages");
    scene.expect_drained().await
}
