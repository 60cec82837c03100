//! The results of fetched rows, who may record them, and retention.

use std::time::Duration;

use outbox_core::{Fetched, Partition, Position, RelayId, Settle, Settlement, Store as _};

use super::scene::{
    LONG, ROUNDING, Scene, dead, delivered, held, keyed, name, names, retry, retry_aside, sorted_names,
    unkeyed,
};
use crate::case::{CaseResult, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

pub(crate) async fn delivered_messages_are_gone(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&[keyed("k", "a")?, keyed("k", "b")?, unkeyed("c")?]).await?;
    let rows = scene.expect(3).await?;
    let (gone, left): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| name(row) != "b");
    scene.deliver(&gone).await?;
    scene.reader = fixture.store().await?.reader();
    scene.assign_all();
    scene.expect_names(&["b"]).await?;
    scene.deliver(&left).await?;
    scene.reader = scene.store.reader();
    scene.assign_all();
    scene.expect_drained().await
}

pub(crate) async fn settling_twice_does_no_harm(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["delivered", "retried", "held", "held too"]).await?;
    let other = scene.fetch_keyed("l", &["dead"]).await?;
    let [delivered_row, retried, held_1, held_2] = &rows[..] else { return Ok(()) };
    let batch = [
        delivered(delivered_row),
        retry(retried, Duration::ZERO),
        held(held_1),
        held(held_2),
        dead(&other[0], true),
    ];
    for _ in 0..3 {
        scene.settle(&batch).await?;
    }
    scene.settle(&[]).await?;
    let stats = scene.store.stats(100).await?;
    ensure_eq!((stats.backlog.value, stats.dead_letters.value), (3, 1), "backlog and dead letters");
    let rows = scene.expect_names(&["retried"]).await?;
    for _ in 0..2 {
        scene.deliver(&rows).await?;
    }
    ensure_eq!(scene.deliver_until(2).await?, ["held", "held too"], "held rows");
    scene.settle(&batch[..1]).await?;
    scene.expect_drained().await
}

pub(crate) async fn attempts_are_absolute(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let mut rows = scene.fetch_keyed("k", &["a"]).await?;
    for attempts in [1, 2, 7, 3] {
        let batch: Vec<_> = rows
            .iter()
            .map(|row| {
                Settle::of(
                    row,
                    Settlement::Retry {
                        after: Duration::ZERO,
                        attempts,
                        error: "again".to_owned(),
                        block_key: true,
                    },
                )
            })
            .collect();
        scene.settle(&batch).await?;
        scene.settle(&batch).await?;
        rows = scene.expect(1).await?;
        ensure!(
            rows.iter().all(|row| row.attempts == attempts),
            "settled twice with {attempts} attempts, and the row has {:?}",
            rows.first().map(|row| row.attempts)
        );
    }
    // Holding does not count as an attempt.
    scene.settle(&rows.iter().map(held).collect::<Vec<_>>()).await?;
    let rows = scene.expect(1).await?;
    ensure_eq!(rows[0].attempts, 3, "attempts of a row that was held");
    Ok(())
}

pub(crate) async fn anybody_may_settle_delivered(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b"]).await?;
    let stranger = fixture.store().await?;
    stranger.settle(RelayId::new(), &[delivered(&rows[0])], false).await?;
    // A relay that is not the owner also releases a key by delivering the row that blocks it.
    scene.settle(&[retry(&rows[1], LONG)]).await?;
    scene.enqueue_keyed("k", &["c"]).await?;
    let blocked = scene.expect_names(&["c"]).await?;
    scene.settle(&[held(&blocked[0])]).await?;
    stranger.settle(RelayId::new(), &[delivered(&rows[1])], false).await?;
    let rows = scene.expect_names(&["c"]).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

/// Rows with separate keys, and settlements that would move all of them away.
async fn fenced_rows(scene: &mut Scene<'_>) -> Result<(Vec<Fetched>, Vec<Settle>), crate::case::Stop> {
    scene
        .enqueue(&[keyed("a", "retried")?, keyed("b", "aside")?, keyed("c", "held")?, keyed("d", "dead")?])
        .await?;
    scene.enqueue(&[keyed("e", "dead aside")?, unkeyed("no key")?]).await?;
    let rows = scene.expect(6).await?;
    let batch = rows
        .iter()
        .map(|row| match name(row).as_str() {
            "retried" => retry(row, LONG),
            "aside" => retry_aside(row, LONG),
            "held" => held(row),
            "dead" => dead(row, true),
            _ => dead(row, false),
        })
        .collect();
    Ok((rows, batch))
}

/// Fails unless all the rows are unchanged.
async fn expect_untouched(scene: &mut Scene<'_>, rows: &[Fetched]) -> CaseResult {
    let stats = scene.store.stats(100).await?;
    ensure_eq!(
        (stats.backlog.value, stats.dead_letters.value),
        (rows.len() as u64, 0),
        "backlog and dead letters after another relay's settling"
    );
    scene.reader = scene.store.reader();
    scene.assign_all();
    let again = scene.expect(rows.len()).await?;
    ensure_eq!(sorted_names(&again), sorted_names(rows), "rows after another relay's settling");
    for row in &again {
        ensure!(
            !row.due && !row.blocked && row.attempts == 0,
            "row {} was changed by another relay: due {}, blocked {}, attempts {}",
            name(row),
            row.due,
            row.blocked,
            row.attempts
        );
    }
    scene.deliver(&again).await?;
    scene.expect_drained().await
}

pub(crate) async fn strangers_settle_nothing_else(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let (rows, batch) = fenced_rows(&mut scene).await?;
    let other = fixture.store().await?;
    // An unknown relay, and one that is alive and owns nothing.
    other.settle(RelayId::new(), &batch, false).await?;
    let alive = RelayId::new();
    ensure_eq!(other.heartbeat(alive, LONG).await?.owned, [], "partitions of a second relay");
    other.settle(alive, &batch, false).await?;
    other.leave(alive).await?;
    expect_untouched(&mut scene, &rows).await
}

pub(crate) async fn former_owners_settle_nothing_else(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let (rows, batch) = fenced_rows(&mut scene).await?;
    let former = scene.relay;
    // A relay that released its partitions.
    scene.store.release(former, &scene.partitions).await?;
    scene.store.leave(former).await?;
    scene.relay = RelayId::new();
    let short = Duration::from_millis(200);
    scene.store.heartbeat(scene.relay, short).await?;
    fixture.store().await?.settle(former, &batch, false).await?;
    // A relay whose lease ended, and whose partitions another one took.
    let expired = scene.relay;
    scene.relay = RelayId::new();
    let deadline = scene.deadline();
    while scene.store.heartbeat(scene.relay, LONG).await?.owned.len() < scene.partitions.len() {
        deadline.pause(fixture, || "an expired lease to be taken".to_owned()).await?;
    }
    fixture.store().await?.settle(expired, &batch, false).await?;
    expect_untouched(&mut scene, &rows).await
}

pub(crate) async fn large_batches_are_settled(fixture: &dyn StoreFixture) -> CaseResult {
    const COUNT: usize = 3000;
    let mut scene = Scene::new(fixture).await?;
    let messages: outbox_core::Result<Vec<_>> =
        (0..COUNT).map(|i| keyed(&format!("k{}", i / 4), &format!("{i}"))).collect();
    scene.enqueue(&messages?).await?;
    let rows = scene.expect(COUNT).await?;
    // Among the four messages of each key, one is delivered, one retried, and two are held.
    let number = |row: &Fetched| name(row).parse().unwrap_or(0_usize);
    let batch: Vec<_> = rows
        .iter()
        .map(|row| match number(row) % 4 {
            0 => delivered(row),
            1 => retry(row, Duration::ZERO),
            _ => held(row),
        })
        .collect();
    scene.settle(&batch).await?;
    ensure_eq!(scene.store.stats(10_000).await?.backlog.value, COUNT as u64 / 4 * 3, "backlog");
    let rows = scene.expect(COUNT / 4).await?;
    ensure!(
        rows.iter().all(|row| number(row) % 4 == 1),
        "a held row was returned before the one in front of it"
    );
    let batch: Vec<_> = rows.iter().map(|row| dead(row, false)).collect();
    scene.settle(&batch).await?;
    let stats = scene.store.stats(10_000).await?;
    ensure_eq!(stats.dead_letters.value, COUNT as u64 / 4, "dead letters");
    scene.deliver_until(COUNT / 2).await?;
    scene.expect_drained().await
}

pub(crate) async fn unknown_rows_are_ignored(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let mut rows = scene.fetch_keyed("k", &["a"]).await?;
    for unknown in [Position(i64::MAX), Position(0), Position(rows[0].position.0 + 1000)] {
        let mut row = rows[0].clone();
        row.position = unknown;
        scene.settle(&[retry(&row, Duration::ZERO)]).await?;
        scene.settle(&[held(&row), delivered(&row)]).await?;
        scene.settle(&[dead(&row, true)]).await?;
    }
    let partition = Partition(u16::try_from(scene.partitions.len()).unwrap_or(u16::MAX));
    let nowhere = Settle { position: Position(i64::MAX), partition, ..delivered(&rows[0]) };
    scene.settle(&[nowhere]).await?;
    let stats = scene.store.stats(100).await?;
    ensure_eq!((stats.backlog.value, stats.dead_letters.value), (1, 0), "backlog and dead letters");
    scene.settle(&[retry(&rows[0], Duration::ZERO)]).await?;
    rows = scene.expect_names(&["a"]).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn kept_messages_are_purged_by_age(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let keep = async |scene: &mut Scene<'_>, payloads: &[&str]| {
        let rows = scene.fetch_keyed("k", payloads).await?;
        let batch: Vec<_> = rows.iter().map(delivered).collect();
        // Twice, because a call whose answer is lost is repeated.
        scene.store.settle(scene.relay, &batch, true).await?;
        scene.store.settle(scene.relay, &batch, true).await?;
        Ok::<_, crate::case::Stop>(names(&rows).len())
    };
    keep(&mut scene, &["a", "b", "c", "d", "e"]).await?;
    ensure_eq!(scene.store.stats(100).await?.backlog.value, 0, "backlog, kept messages not counted");
    ensure_eq!(scene.store.purge(LONG, 100).await?, 0, "purged of messages younger than the age given");
    let age = Duration::from_millis(300);
    fixture.pass_time(age + Duration::from_millis(50)).await;
    let before = fixture.now();
    keep(&mut scene, &["f"]).await?;
    ensure_eq!(scene.store.purge(age, 2).await?, 2, "purged with a limit of 2");
    ensure_eq!(scene.store.purge(age, 1).await?, 1, "purged with a limit of 1");
    let purged = scene.store.purge(age, 100).await?;
    // On a slow machine the young message may have become old enough meanwhile.
    let aged = fixture.now().since(before) + ROUNDING >= age;
    ensure!(purged == 2 || aged && purged == 3, "purged {purged} of the 2 old ones that were left");
    if purged == 2 {
        ensure_eq!(scene.store.purge(Duration::ZERO, 100).await?, 1, "purged without regard to age");
    }
    ensure_eq!(scene.store.purge(Duration::ZERO, 100).await?, 0, "purged when nothing is left");
    scene.expect_drained().await
}

pub(crate) async fn messages_are_kept_only_if_asked(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b"]).await?;
    scene.store.settle(scene.relay, &[delivered(&rows[0])], false).await?;
    ensure_eq!(scene.store.purge(Duration::ZERO, 100).await?, 0, "purged messages that were not kept");
    let batch = [dead(&rows[1], false)];
    scene.store.settle(scene.relay, &batch, true).await?;
    ensure_eq!(scene.store.purge(Duration::ZERO, 100).await?, 0, "purged messages that were not delivered");
    ensure_eq!(scene.store.stats(100).await?.dead_letters.value, 1, "dead letters after a purge");
    Ok(())
}
