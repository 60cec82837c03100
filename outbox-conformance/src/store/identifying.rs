//! Two messages that have the same position, one after the other.

use std::time::Duration;

use outbox_core::{DeadLetterFilter, Fetched, Message, MessageId, Settle};

use super::scene::{LONG, Scene, dead, delivered, held, retry, retry_aside};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

/// Longer than any database's clock takes to its next tick.
const TICK: Duration = Duration::from_millis(20);

/// A call that settles a row, and what it is called.
type Way = (&'static str, fn(&Fetched) -> Vec<Settle>);

/// Ways to settle a row, alone and together with others.
const WAYS: [Way; 8] = [
    ("delivered", |row| vec![delivered(row)]),
    ("retry", |row| vec![retry(row, LONG)]),
    ("retry without blocking", |row| vec![retry_aside(row, LONG)]),
    ("held", |row| vec![held(row)]),
    ("dead", |row| vec![dead(row, true)]),
    ("dead without blocking", |row| vec![dead(row, false)]),
    ("held and delivered", |row| vec![held(row), delivered(row)]),
    ("retry and dead", |row| vec![retry(row, Duration::ZERO), dead(row, false)]),
];

/// Of messages with and without a key, a pair with different ids and one with the same id.
const PAIRS: [(Option<&str>, bool); 4] = [(Some("k"), false), (Some("k"), true), (None, false), (None, true)];

fn named(payload: &str, key: Option<&str>, id: MessageId) -> Result<Message, Stop> {
    let message = Message::bytes("topic", payload.to_owned()).id(id);
    Ok(key.map_or(message.clone(), |key| message.key(key)).build()?)
}

async fn replace(scene: &mut Scene<'_>, gone: &Fetched, by: &Message) -> CaseResult {
    scene.fixture.pass_time(TICK).await;
    Ok(scene.fixture.replace(gone.position, by).await?)
}

/// Enqueues, fetches and buries a message, and puts another one at its position.
async fn bury_and_replace(scene: &mut Scene<'_>, pair: (Option<&str>, bool)) -> Result<Fetched, Stop> {
    let (key, same_id) = pair;
    let id = MessageId::new();
    scene.enqueue(&[named("before", key, id)?]).await?;
    let gone = scene.expect_names(&["before"]).await?.remove(0);
    scene.settle(&[dead(&gone, key.is_some())]).await?;
    let id = if same_id { id } else { MessageId::new() };
    replace(scene, &gone, &named("after", key, id)?).await?;
    scene.restart().await?;
    Ok(gone)
}

pub(crate) async fn settling_leaves_another_message_alone(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    for (key, same_id) in PAIRS {
        for (what, settle) in WAYS {
            let id = MessageId::new();
            scene.enqueue(&[named("before", key, id)?]).await?;
            let gone = scene.expect_names(&["before"]).await?.remove(0);
            let id = if same_id { id } else { MessageId::new() };
            replace(&mut scene, &gone, &named("after", key, id)?).await?;
            for keep in [false, true] {
                scene.store.settle(scene.relay, &settle(&gone), keep).await?;
            }
            ensure_eq!(scene.store.purge(Duration::ZERO, 100).await?, 0, "kept messages after {what}");
            let stats = scene.store.stats(100).await?;
            let counts = (stats.backlog.value, stats.dead_letters.value);
            ensure_eq!(counts, (1, 0), "backlog and dead letters after the former message was {what}");
            scene.restart().await?;
            let row = scene.expect_names(&["after"]).await?.remove(0);
            ensure_eq!(row.position, gone.position, "position of the message that replaced another one");
            ensure!(row.identity != gone.identity, "both messages at {} have one identity", row.position);
            let state = (row.due, row.blocked, row.attempts);
            ensure_eq!(state, (false, false, 0), "due, blocked and attempts after {what}");
            scene.deliver(&[row]).await?;
        }
    }
    scene.expect_drained().await
}

pub(crate) async fn both_messages_of_a_position_are_settled(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    for (key, same_id) in PAIRS {
        let id = MessageId::new();
        scene.enqueue(&[named("before", key, id)?]).await?;
        let gone = scene.expect_names(&["before"]).await?.remove(0);
        let id = if same_id { id } else { MessageId::new() };
        replace(&mut scene, &gone, &named("after", key, id)?).await?;
        scene.restart().await?;
        let row = scene.expect_names(&["after"]).await?.remove(0);
        // The former message fails and the present one is delivered, and the other way round.
        scene.settle(&[dead(&gone, true), retry(&row, Duration::ZERO)]).await?;
        let row = scene.expect_names(&["after"]).await?.remove(0);
        ensure_eq!((row.due, row.attempts), (true, 1), "due, and attempts");
        scene.settle(&[retry(&gone, LONG), held(&gone), delivered(&gone), delivered(&row)]).await?;
        scene.expect_drained().await?;
        ensure_eq!(scene.store.stats(100).await?.dead_letters.value, 0, "dead letters");
    }
    Ok(())
}

pub(crate) async fn dead_letters_of_one_position_are_kept_apart(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    for pair in PAIRS {
        let gone = bury_and_replace(&mut scene, pair).await?;
        let row = scene.expect_names(&["after"]).await?.remove(0);
        scene.settle(&[dead(&row, pair.0.is_some())]).await?;
        let all = DeadLetterFilter::all();
        // A page does not end between two dead letters of one position, so that the next one misses none.
        for limit in [1, 10] {
            let page = scene.dead_letters()?.list(&all, None, limit).await?;
            let found: Vec<_> = page.iter().map(|dead| (dead.position, dead.enqueued_at)).collect();
            let expected = [(gone.position, gone.enqueued_at), (gone.position, row.enqueued_at)];
            ensure_eq!(found, expected, "positions and times of a page of {limit}");
            let next = scene.dead_letters()?.list(&all, Some(gone.position), limit).await?;
            ensure_eq!(next.len(), 0, "dead letters behind the position");
        }
        ensure_eq!(scene.dead_letters()?.count(&all, 100).await?.value, 2, "count of dead letters");
        // The first one comes back alone, and then with the other one at its position.
        ensure_eq!(scene.dead_letters()?.redrive(&all, 1).await?, 1, "redriven with a limit of 1");
        let first = scene.expect_names(&["before"]).await?.remove(0);
        scene.settle(&[dead(&first, pair.0.is_some())]).await?;
        ensure_eq!(scene.dead_letters()?.redrive(&all, 100).await?, 2, "redriven");
        let both = scene.deliver_until(2).await?;
        ensure_eq!(both.len(), 2, "delivered after both were redriven");
        if pair.0.is_some() {
            ensure_eq!(both, ["before", "after"], "messages of the key in the order of their enqueueing");
        }
        scene.expect_drained().await?;
        // And both can be discarded, one after the other.
        bury_and_replace(&mut scene, pair).await?;
        let row = scene.expect_names(&["after"]).await?.remove(0);
        scene.settle(&[dead(&row, pair.0.is_some())]).await?;
        for left in [1, 0] {
            ensure_eq!(scene.dead_letters()?.discard(&all, 1).await?, 1, "discarded with a limit of 1");
            ensure_eq!(scene.store.stats(100).await?.dead_letters.value, left, "dead letters left");
        }
        scene.expect_drained().await?;
    }
    Ok(())
}

pub(crate) async fn redriving_leaves_another_message_alone(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.dead_letters()?;
    for pair in PAIRS {
        bury_and_replace(&mut scene, pair).await?;
        ensure_eq!(scene.dead_letters()?.redrive(&DeadLetterFilter::all(), 100).await?, 1, "redriven");
        let stats = scene.store.stats(100).await?;
        let counts = (stats.backlog.value, stats.dead_letters.value);
        ensure_eq!(counts, (2, 0), "backlog and dead letters after a redrive");
        let delivered = scene.deliver_until(2).await?;
        if pair.0.is_some() {
            ensure_eq!(
                delivered,
                ["before", "after"],
                "messages of the key in the order of their enqueueing"
            );
        }
        scene.expect_drained().await?;
        // The next message is enqueued at a position of its own.
        scene.enqueue(&[named("next", pair.0, MessageId::new())?]).await?;
        ensure_eq!(scene.deliver_until(1).await?, ["next"], "message enqueued after a redrive");
    }
    scene.expect_drained().await
}
