//! Counting, waking, and detecting that everything is delivered.

use std::time::Duration;

use futures_util::FutureExt as _;
use outbox_core::{Count, Message, Store as _, StoreExt as _, Wakeups};

use super::scene::{LONG, ROUNDING, Scene, dead, delivered, enqueue, held, keyed, retry};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

pub(crate) async fn stats_count(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let stats = scene.store.stats(100).await?;
    ensure_eq!(stats, Default::default(), "stats of an empty outbox");
    let rows = scene.fetch_keyed("k", &["retrying", "held", "held"]).await?;
    scene.settle(&[retry(&rows[0], LONG), held(&rows[1]), held(&rows[2])]).await?;
    let rows = scene.fetch_keyed("l", &["dead", "dead", "delivered"]).await?;
    scene.settle(&[dead(&rows[0], true), dead(&rows[1], false)]).await?;
    scene.store.settle(scene.relay, &[delivered(&rows[2])], true).await?;
    let later = fixture.now().saturating_add(LONG);
    scene.enqueue(&[Message::bytes("t", "scheduled").deliver_at(later).build()?]).await?;
    scene.enqueue_keyed("m", &["ready"]).await?;
    // The same through every handle.
    for store in [scene.store.clone(), fixture.store().await?] {
        let stats = store.stats(100).await?;
        ensure_eq!(stats.backlog, Count { value: 5, at_least: false }, "backlog");
        ensure_eq!(stats.dead_letters, Count { value: 2, at_least: false }, "dead letters");
    }
    Ok(())
}

pub(crate) async fn stats_stop_counting(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let messages: outbox_core::Result<Vec<_>> = (0..12).map(|i| keyed(&format!("k{i}"), "x")).collect();
    scene.enqueue(&messages?).await?;
    let rows = scene.expect(12).await?;
    scene.settle(&rows[..4].iter().map(|row| dead(row, false)).collect::<Vec<_>>()).await?;
    for (limit, backlog, dead_letters) in [
        (100, (8, false), (4, false)),
        (8, (8, false), (4, false)),
        (7, (7, true), (4, false)),
        (4, (4, true), (4, false)),
        (1, (1, true), (1, true)),
    ] {
        let stats = scene.store.stats(limit).await?;
        let pair = |count: Count| (count.value, count.at_least);
        ensure_eq!(pair(stats.backlog), backlog, "backlog with a limit of {limit}");
        ensure_eq!(pair(stats.dead_letters), dead_letters, "dead letters with a limit of {limit}");
    }
    Ok(())
}

pub(crate) async fn lag_is_the_age_of_the_oldest(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let later = fixture.now().saturating_add(LONG);
    scene.enqueue(&[Message::bytes("t", "scheduled").deliver_at(later).build()?]).await?;
    ensure_eq!(scene.store.stats(10).await?.lag, None, "lag with nothing but a scheduled message");
    let before = fixture.now();
    let rows = scene.fetch_keyed("k", &["a"]).await?;
    let waited = Duration::from_millis(400);
    fixture.pass_time(waited).await;
    let second = fixture.now();
    scene.enqueue_keyed("l", &["b"]).await?;
    let check = async |scene: &mut Scene<'_>, since, at_least: Duration, what: &str| -> CaseResult {
        let lag = scene.store.stats(10).await?.lag.unwrap_or_default();
        let most = fixture.now().since(since) + ROUNDING;
        ensure!(
            lag >= at_least.mul_f64(0.9) && lag <= most,
            "the lag should be between {at_least:?} and {most:?} {what}, and is {lag:?}"
        );
        Ok(())
    };
    check(&mut scene, before, waited, "with a ready message").await?;
    scene.settle(&[retry(&rows[0], LONG)]).await?;
    check(&mut scene, before, waited, "with a retrying message").await?;
    scene.deliver(&rows).await?;
    check(&mut scene, second, Duration::ZERO, "after the oldest was delivered").await
}

fn needs_wakeups(fixture: &dyn StoreFixture) -> CaseResult {
    if fixture.traits().wakeups {
        return Ok(());
    }
    Err(Stop::NotApplicable("the store has no wake-ups".to_owned()))
}

async fn wakeups(store: &dyn outbox_core::Store) -> Result<Box<dyn Wakeups>, Stop> {
    let wakeups = store.wakeups().await?;
    wakeups.ok_or_else(|| Stop::Failed("the store should have wake-ups".to_owned()))
}

/// Waits for a hint, up to the deadline of the store.
async fn hinted(fixture: &dyn StoreFixture, wakeups: &mut dyn Wakeups, what: &str) -> CaseResult {
    match tokio::time::timeout(fixture.traits().deadline, wakeups.wait()).await {
        Ok(hint) => Ok(hint?),
        Err(_) => Err(Stop::Failed(format!("no hint after {what}"))),
    }
}

pub(crate) async fn wakeups_follow_commits(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    if !scene.traits.wakeups {
        ensure!(scene.store.wakeups().await?.is_none(), "a store that declares no wake-ups has some");
        return needs_wakeups(fixture);
    }
    let mut wakeups = wakeups(&*scene.store).await?;
    for round in 0..5 {
        // As the relay does: it reports that it sleeps, and polls once more before it does.
        scene.store.set_idle(scene.relay, true).await?;
        scene.expect_nothing().await?;
        if round % 2 == 0 {
            enqueue(fixture, &[keyed("k", "x")?]).await?;
        } else {
            let mut transaction = fixture.begin().await?;
            transaction.enqueue(&[keyed("k", "x")?, keyed("l", "y")?]).await?;
            transaction.commit().await?;
        }
        hinted(fixture, &mut *wakeups, "a commit").await?;
        scene.store.set_idle(scene.relay, false).await?;
        scene.expect(1 + round % 2).await?;
        // Combined or unnecessary hints are allowed.
        let mut hints = 0;
        while let Some(hint) = wakeups.wait().now_or_never() {
            hint?;
            hints += 1;
            ensure!(hints < 100, "the hints for one commit do not end");
        }
    }
    Ok(())
}

pub(crate) async fn wakeups_follow_every_handle(fixture: &dyn StoreFixture) -> CaseResult {
    needs_wakeups(fixture)?;
    let scene = Scene::new(fixture).await?;
    let other = fixture.store().await?;
    let mut first = wakeups(&*scene.store).await?;
    let mut second = wakeups(&*other).await?;
    scene.store.set_idle(scene.relay, true).await?;
    enqueue(fixture, &[keyed("k", "x")?]).await?;
    hinted(fixture, &mut *first, "a commit, on the handle that sleeps").await?;
    hinted(fixture, &mut *second, "a commit, on another handle").await
}

pub(crate) async fn waiting_for_hints_can_be_dropped(fixture: &dyn StoreFixture) -> CaseResult {
    needs_wakeups(fixture)?;
    let scene = Scene::new(fixture).await?;
    let mut wakeups = wakeups(&*scene.store).await?;
    scene.store.set_idle(scene.relay, true).await?;
    for moment in [0, 1, 5, 20] {
        let wait = tokio::time::timeout(Duration::from_millis(moment), wakeups.wait());
        if let Ok(hint) = wait.await {
            hint?;
        }
    }
    enqueue(fixture, &[keyed("k", "x")?]).await?;
    // Polled once and dropped while the hint is on its way.
    match wakeups.wait().now_or_never() {
        Some(hint) => Ok(hint?),
        None => hinted(fixture, &mut *wakeups, "waits that were dropped").await,
    }
}

pub(crate) async fn an_outbox_is_drained_when_all_is_delivered(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let (store, deadline) = (scene.store.clone(), scene.traits.deadline);
    let interval = Duration::from_millis(20);
    let drained = || tokio::time::timeout(deadline, store.drained(interval));
    let in_vain = |_| Stop::Failed("an empty outbox is not drained".to_owned());
    drained().await.map_err(in_vain)??;
    let rows = scene.fetch_keyed("k", &["a", "b"]).await?;
    scene.deliver(&rows[..1]).await?;
    let brief = tokio::time::timeout(Duration::from_millis(100), store.drained(interval)).await;
    ensure!(brief.is_err(), "an outbox with an undelivered message is reported as drained");
    scene.settle(&[dead(&rows[1], true)]).await?;
    drained().await.map_err(in_vain)??;
    Ok(())
}

pub(crate) async fn names_are_stable(fixture: &dyn StoreFixture) -> CaseResult {
    let (first, second) = (fixture.store().await?, fixture.store().await?);
    ensure_eq!(first.name(), second.name(), "names of two handles");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    ensure!(
        !first.name().is_empty() && first.name().chars().all(plain),
        "a name of lowercase letters, digits, - and _ was expected, not {:?}",
        first.name()
    );
    Ok(())
}
