//! Correcting the effects of changes by hand.

use std::time::Duration;

use outbox_core::{Fetched, RelayId, Store as _};

use super::scene::{LONG, Scene, dead, held, keyed, message, retry};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

async fn repair(scene: &mut Scene<'_>, limit: usize) -> Result<u64, Stop> {
    Ok(scene.store.repair(scene.relay, &scene.partitions, limit).await?)
}

async fn delete(scene: &mut Scene<'_>, row: &Fetched) -> CaseResult {
    scene.fixture.delete_by_hand(message(row)?.id()).await?;
    Ok(())
}

pub(crate) async fn a_deleted_retry_is_repaired(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    scene.settle(&[retry(&rows[0], LONG), held(&rows[1]), held(&rows[2])]).await?;
    delete(&mut scene, &rows[0]).await?;
    ensure_eq!(
        scene.store.repair(RelayId::new(), &scene.partitions, 100).await?,
        0,
        "rows repaired by another relay"
    );
    ensure_eq!(scene.store.repair(scene.relay, &[], 100).await?, 0, "rows repaired in no partitions");
    scene.expect_nothing().await?;
    ensure!(repair(&mut scene, 100).await? >= 1, "nothing was repaired");
    ensure_eq!(scene.deliver_until(2).await?, ["b", "c"], "messages after the repair");
    ensure_eq!(repair(&mut scene, 100).await?, 0, "repaired when there is nothing to do");
    scene.expect_drained().await
}

pub(crate) async fn a_deleted_dead_letter_is_repaired(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    scene.settle(&[dead(&rows[0], true), held(&rows[1]), held(&rows[2])]).await?;
    ensure_eq!(repair(&mut scene, 100).await?, 0, "repaired behind a dead letter");
    delete(&mut scene, &rows[0]).await?;
    ensure_eq!(scene.store.stats(100).await?.dead_letters.value, 0, "dead letters after one was deleted");
    ensure!(repair(&mut scene, 100).await? >= 1, "nothing was repaired");
    ensure_eq!(scene.deliver_until(2).await?, ["b", "c"], "messages after the repair");
    scene.expect_drained().await
}

pub(crate) async fn nothing_healthy_is_repaired(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    ensure_eq!(repair(&mut scene, 100).await?, 0, "repaired in an empty outbox");
    let rows = scene.fetch_keyed("retrying", &["a", "b", "c"]).await?;
    scene.settle(&[retry(&rows[0], LONG), held(&rows[1]), held(&rows[2])]).await?;
    let rows = scene.fetch_keyed("dead", &["d", "e"]).await?;
    scene.settle(&[dead(&rows[0], true), held(&rows[1])]).await?;
    scene.fetch_keyed("ready", &["f"]).await?;
    ensure_eq!(repair(&mut scene, 100).await?, 0, "repaired rows among correctly held ones");
    scene.expect_nothing().await?;
    // The same holds for rows behind a retry that is due, before it is fetched and while it is in flight.
    let rows = scene.fetch_keyed("due", &["g", "h", "i"]).await?;
    scene.settle(&[retry(&rows[0], Duration::ZERO), held(&rows[1]), held(&rows[2])]).await?;
    ensure_eq!(repair(&mut scene, 100).await?, 0, "repaired behind a retry that is due");
    let rows = scene.expect_names(&["g"]).await?;
    ensure_eq!(repair(&mut scene, 100).await?, 0, "repaired behind a retry that is in flight");
    scene.expect_nothing().await?;
    scene.deliver(&rows).await?;
    ensure_eq!(scene.deliver_until(2).await?, ["h", "i"], "held messages");
    scene.expect_nothing().await
}

pub(crate) async fn repairs_are_bounded(fixture: &dyn StoreFixture) -> CaseResult {
    const KEYS: usize = 12;
    let mut scene = Scene::new(fixture).await?;
    let messages: outbox_core::Result<Vec<_>> =
        (0..KEYS * 2).map(|i| keyed(&format!("k{}", i % KEYS), &i.to_string())).collect();
    scene.enqueue(&messages?).await?;
    let mut rows = scene.expect(KEYS * 2).await?;
    rows.sort_by_key(|row| row.position);
    let (first, second) = rows.split_at(KEYS);
    let batch: Vec<_> = first.iter().map(|row| retry(row, LONG)).chain(second.iter().map(held)).collect();
    scene.settle(&batch).await?;
    for row in first {
        delete(&mut scene, row).await?;
    }
    let repaired = repair(&mut scene, 5).await?;
    ensure!((1..=5).contains(&repaired), "a repair of at most 5 repaired {repaired}");
    let mut calls = 1;
    while repair(&mut scene, 5).await? > 0 {
        calls += 1;
        ensure!(calls <= KEYS * 2, "repairing 12 rows does not end");
    }
    let mut names = scene.deliver_until(KEYS).await?;
    names.sort();
    let mut expected: Vec<_> = (KEYS..KEYS * 2).map(|i| i.to_string()).collect();
    expected.sort();
    ensure_eq!(names, expected, "messages after the repairs");
    scene.expect_drained().await
}
