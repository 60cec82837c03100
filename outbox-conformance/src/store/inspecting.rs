//! Diagnostics of an outbox for operators.

use std::time::Duration;

use outbox_core::{
    Group, Health, Inspection, Message, Partition, Position, RelayId, Store, Timestamp, Waiting,
};

use super::scene::{
    Deadline, LONG, Scene, dead, enqueue, held, keyed, needs_concurrent_writers, retry, retry_aside,
};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

/// Maximum difference between the clocks of this machine and the database.
const SKEW: Duration = Duration::from_secs(5);

/// Returns whether a time of the database lies between two times of this machine, allowing for the difference
/// of their clocks.
fn is_between(time: Timestamp, from: Timestamp, to: Timestamp) -> bool {
    (from.saturating_sub(SKEW)..=to.saturating_add(SKEW)).contains(&time)
}

fn inspection(store: &dyn Store) -> Result<&dyn Inspection, Stop> {
    store.inspection().ok_or_else(|| Stop::NotApplicable("the store has no diagnostics".to_owned()))
}

/// A value that the store does not know is `None`, and then the case promises nothing about it.
fn known<T>(part: Option<T>, what: &str) -> Result<T, Stop> {
    part.ok_or_else(|| Stop::NotApplicable(format!("the store does not know {what}")))
}

async fn group(store: &dyn Store) -> Result<Group, Stop> {
    let mut group = known(inspection(store)?.group().await?, "its relays")?;
    group.relays.sort_unstable();
    Ok(group)
}

fn owned_by(group: &Group, relay: RelayId) -> Vec<Partition> {
    let own = group.partitions.iter().filter(|(_, owner)| *owner == Some(relay));
    own.map(|(partition, _)| *partition).collect()
}

pub(crate) async fn the_group_is_shown_as_it_is(fixture: &dyn StoreFixture) -> CaseResult {
    let store = fixture.store().await?;
    let (first, second) = (RelayId::new(), RelayId::new());
    let empty = group(&*store).await?;
    ensure_eq!(empty.relays, [], "relays of a new outbox");
    let free = empty.partitions.iter().all(|(_, owner)| owner.is_none());
    ensure!(free, "a new outbox has no owners, but this one has: {:?}", empty.partitions);
    let all = store.heartbeat(first, LONG).await?;
    ensure_eq!(empty.partitions.len(), all.partitions, "number of partitions");
    store.heartbeat(second, LONG).await?;
    let half = store.heartbeat(first, LONG).await?;
    store.release(first, half.owned.get(half.share..).unwrap_or_default()).await?;
    let taken = store.heartbeat(second, LONG).await?.owned;
    let mut both = vec![first, second];
    both.sort_unstable();
    // Another handle shows the same.
    let seen = group(&*fixture.store().await?).await?;
    ensure_eq!(seen.relays, both, "relays");
    ensure_eq!(owned_by(&seen, second), taken, "partitions of the second relay");
    ensure_eq!(owned_by(&seen, first).len() + taken.len(), all.partitions, "partitions of both");
    // A relay that replaces the second dies: it and its leases expire.
    store.leave(second).await?;
    let (third, ttl) = (RelayId::new(), Duration::from_millis(500));
    store.heartbeat(third, ttl).await?;
    let deadline = Deadline::new(fixture);
    fixture.pass_time(ttl).await;
    loop {
        let seen = group(&*store).await?;
        if seen.relays == [first] && owned_by(&seen, third).is_empty() {
            break;
        }
        deadline.pause(fixture, || format!("the end of a dead relay; there are {:?}", seen.relays)).await?;
    }
    store.leave(first).await?;
    ensure_eq!(group(&*store).await?, empty, "the group after all relays have left");
    Ok(())
}

async fn peek(store: &dyn Store, after: Option<Position>, limit: usize) -> Result<Vec<Waiting>, Stop> {
    known(inspection(store)?.peek(after, limit).await?, "waiting messages")
}

fn name(waiting: &Waiting) -> String {
    match &waiting.message {
        Some(message) => String::from_utf8_lossy(message.payload()).into_owned(),
        None => format!("<malformed: {}>", waiting.error.as_deref().unwrap_or_default()),
    }
}

fn names(waiting: &[Waiting]) -> Vec<String> {
    waiting.iter().map(name).collect()
}

pub(crate) async fn waiting_messages_are_shown_with_their_state(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    ensure_eq!(names(&peek(&*scene.store, None, 10).await?), [""; 0], "waiting messages of a new outbox");
    let before = fixture.now();
    let rows = scene.fetch_keyed("k", &["retrying", "held", "aside", "dead", "delivered"]).await?;
    let batch = [retry(&rows[0], LONG), held(&rows[1]), retry_aside(&rows[2], LONG), dead(&rows[3], false)];
    scene.settle(&batch).await?;
    scene.deliver(&rows[4..]).await?;
    let later = before.saturating_add(LONG);
    scene.enqueue(&[Message::bytes("t", "scheduled").deliver_at(later).build()?]).await?;
    scene.enqueue(&[Message::bytes("t", "ready").header("h", "v").build()?]).await?;
    let after = fixture.now();
    let found = peek(&*scene.store, None, 10).await?;
    ensure_eq!(names(&found), ["retrying", "held", "aside", "scheduled", "ready"], "waiting messages");
    let expected = [
        (1, true, Some("error of retrying")),
        (0, true, None),
        (1, false, Some("error of aside")),
        (0, false, None),
        (0, false, None),
    ];
    for (row, expected) in found.iter().zip(expected) {
        let state = (row.attempts, row.blocks_key, row.error.as_deref());
        ensure_eq!(state, expected, "attempts, whether it blocks its key, and error of {}", name(row));
        ensure!(
            is_between(row.enqueued_at, before, after),
            "{} was enqueued between {before} and {after}, and is said to have been at {}",
            name(row),
            row.enqueued_at
        );
    }
    for (row, fetched) in found.iter().zip(&rows[..3]) {
        let place = (row.position, row.partition, row.key.as_deref());
        ensure_eq!(place, (fetched.position, fetched.partition, Some("k")), "place of {}", name(row));
    }
    for place in [0, 2, 3] {
        let (from, to) = (before.saturating_add(LONG), after.saturating_add(LONG));
        let due = found[place].available_at;
        ensure!(
            due.is_some_and(|due| is_between(due, from, to)),
            "row {place} is due between {from} and {to}, and is said to be at {due:?}"
        );
    }
    let due = found[1].available_at.map(|due| due.since(after));
    ensure!(due.is_some_and(|due| due > LONG * 100), "a held message is due in {due:?}");
    ensure_eq!(found[4].available_at, None, "when a ready message is due");
    let Some(message) = &found[4].message else {
        return Err(Stop::Failed("a readable message should be shown as a whole".to_owned()));
    };
    ensure_eq!(message.headers().get("h").map(String::as_str), Some("v"), "header");
    ensure_eq!(found[4].topic.as_deref(), Some("t"), "topic");
    ensure_eq!(found[4].id, Some(message.id()), "id");
    Ok(())
}

pub(crate) async fn waiting_messages_are_shown_page_by_page(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let all: Vec<String> = (0..25).map(|number| format!("{number:02}")).collect();
    let messages: outbox_core::Result<Vec<_>> =
        all.iter().map(|name| keyed(&format!("key of {name}"), name)).collect();
    scene.enqueue(&messages?).await?;
    let (mut seen, mut after) = (Vec::new(), None);
    for _ in 0..5 {
        let page = peek(&*scene.store, after, 7).await?;
        ensure!(page.len() <= 7, "a page of at most 7 has {} rows", page.len());
        seen.extend(names(&page));
        after = page.last().map(|row| row.position).or(after);
    }
    ensure_eq!(seen, all, "all pages together");
    ensure_eq!(names(&peek(&*scene.store, None, 0).await?), [""; 0], "a page of nothing");
    Ok(())
}

pub(crate) async fn unreadable_messages_are_shown_as_far_as_they_go(
    fixture: &dyn StoreFixture,
) -> CaseResult {
    let malformed = fixture.insert_malformed().await?;
    if malformed.is_empty() {
        return Err(Stop::NotApplicable("the store's tables let no malformed rows in".to_owned()));
    }
    let scene = Scene::new(fixture).await?;
    let found = peek(&*scene.store, None, 100).await?;
    ensure_eq!(found.len(), malformed.len(), "number of rows");
    for wanted in malformed {
        let fits = found.iter().any(|row| {
            let told = row.error.as_deref().is_some_and(|error| error.contains(&wanted.mentions));
            let same = (row.id, &row.topic, &row.key) == (wanted.id, &wanted.topic, &wanted.key);
            row.message.is_none() && told && same
        });
        ensure!(fits, "there should be {wanted:?} among {found:?}");
    }
    Ok(())
}

pub(crate) async fn open_transactions_are_not_shown(fixture: &dyn StoreFixture) -> CaseResult {
    needs_concurrent_writers(fixture)?;
    let scene = Scene::new(fixture).await?;
    let mut open = fixture.begin().await?;
    open.enqueue(&[keyed("k", "open")?]).await?;
    enqueue(fixture, &[keyed("l", "committed")?]).await?;
    ensure_eq!(names(&peek(&*scene.store, None, 10).await?), ["committed"], "next to an open transaction");
    open.rollback().await?;
    ensure_eq!(names(&peek(&*scene.store, None, 10).await?), ["committed"], "after its rollback");
    Ok(())
}

pub(crate) async fn looking_changes_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue_keyed("k", &["a", "b"]).await?;
    let before = names(&peek(&*scene.store, None, 10).await?);
    let look = inspection(&*scene.store)?;
    let _ = (look.group().await?, look.clock().await?, look.diagnose().await?);
    ensure_eq!(
        names(&peek(&*scene.store, None, 10).await?),
        before,
        "waiting messages after reading the diagnostics"
    );
    let rows = scene.expect_names(&["a", "b"]).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn the_clock_is_the_database_s(fixture: &dyn StoreFixture) -> CaseResult {
    let store = fixture.store().await?;
    let look = inspection(&*store)?;
    let asked = fixture.now();
    let before = known(look.clock().await?, "the time")?;
    let answered = fixture.now();
    ensure!(
        is_between(before, asked, answered),
        "the clock said {before} between {asked} and {answered} by this machine's clock"
    );
    let least = Duration::from_millis(300);
    fixture.pass_time(least).await;
    let moved = known(look.clock().await?, "the time")?.since(before);
    let most = fixture.now().since(asked);
    ensure!(
        moved > least.mul_f64(0.9) && moved < most + SKEW,
        "between {least:?} and {most:?} passed, and the clock moved by {moved:?}"
    );
    Ok(())
}

pub(crate) async fn a_new_outbox_has_no_problem(fixture: &dyn StoreFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    for finding in inspection(&*scene.store)?.diagnose().await? {
        let words = !finding.check.is_empty() && !finding.seen.is_empty();
        ensure!(words, "a finding without text: {finding:?}");
        ensure!(finding.health != Health::Problem, "a new outbox reports a problem: {finding:?}");
        let advised = finding.advice.as_ref().is_some_and(|advice| !advice.is_empty());
        ensure!(finding.health != Health::Warning || advised, "a warning without advice: {finding:?}");
    }
    Ok(())
}
