//! Scheduled and retrying rows.

use std::time::Duration;

use outbox_core::{FetchLimit, Fetched, Message};

use super::scene::{
    LONG, ROUNDING, Scene, find, held, keyed, name, names, retry, retry_aside, sorted_names, unkeyed,
};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

const SOON: Duration = Duration::from_millis(400);

fn scheduled(fixture: &dyn StoreFixture, payload: &str, after: Duration) -> Result<Message, Stop> {
    let at = fixture.now().saturating_add(after);
    Ok(Message::bytes("topic", payload.to_owned()).key("k").deliver_at(at).build()?)
}

pub(crate) async fn scheduled_messages_wait_for_their_time(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let message = scheduled(fixture, "scheduled", SOON)?;
    let at = message.deliver_at();
    scene.enqueue(&[message, scheduled(fixture, "far away", LONG)?]).await?;
    let rows = scene.expect_names(&["scheduled"]).await?;
    ensure!(
        Some(fixture.now().saturating_add(ROUNDING)) >= at,
        "a message scheduled for {at:?} was returned at {}",
        fixture.now()
    );
    for row in &rows {
        ensure!(row.due, "a due scheduled row is not reported as due");
        ensure!(!row.blocked, "a scheduled row with nothing in front of it is blocked");
        ensure_eq!(row.attempts, 0, "attempts of a scheduled row");
    }
    scene.deliver(&rows).await?;
    scene.expect_nothing().await
}

pub(crate) async fn scheduled_messages_hold_up_nobody(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&[scheduled(fixture, "scheduled", LONG)?]).await?;
    scene.enqueue_keyed("k", &["later"]).await?;
    let rows = scene.expect_names(&["later"]).await?;
    ensure!(rows.iter().all(|row| !row.blocked), "a row behind a scheduled one is blocked");
    scene.deliver(&rows).await?;
    scene.expect_nothing().await
}

pub(crate) async fn retries_wait_for_their_time(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&[keyed("k", "keyed")?, unkeyed("unkeyed")?, keyed("l", "aside")?]).await?;
    let mut rows = scene.expect(3).await?;
    for attempts in 1..=2 {
        let before = fixture.now();
        let settle = |row: &Fetched| {
            if name(row) == "aside" { retry_aside(row, SOON) } else { retry(row, SOON) }
        };
        scene.settle(&rows.iter().map(settle).collect::<Vec<_>>()).await?;
        rows = scene.expect(3).await?;
        let waited = fixture.now().since(before);
        ensure!(waited.saturating_add(ROUNDING) >= SOON, "a retry after {SOON:?} came after {waited:?}");
        ensure_eq!(sorted_names(&rows), ["aside", "keyed", "unkeyed"], "retried rows");
        for row in &rows {
            ensure_eq!(
                (row.attempts, row.due, row.blocked),
                (attempts, true, false),
                "attempts, due, blocked"
            );
        }
    }
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn rows_in_flight_do_not_come_again(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&[keyed("k", "a")?, keyed("l", "b")?]).await?;
    let rows = scene.expect(2).await?;
    let settles: Vec<_> = rows.iter().map(|row| retry(row, Duration::ZERO)).collect();
    scene.settle(&settles).await?;
    let rows = scene.expect(2).await?;
    // The scene now reports both as in flight.
    scene.expect_nothing().await?;
    let a = find(&rows, "a")?;
    let again = scene.reader.fetch(super::scene::EVERYTHING, &[a.row()]).await?.rows;
    ensure_eq!(names(&again), ["b"], "due rows of which only one is in flight");
    let again = scene.reader.fetch(super::scene::EVERYTHING, &[]).await?.rows;
    ensure_eq!(sorted_names(&again), ["a", "b"], "due rows of which none is in flight");
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

/// Fails unless the next due row is reported in this delay, of which `passed` may be over. A quarter of the
/// delay is allowed for the difference between the clocks of this machine and the database.
fn check_next_due(next_due: Option<Duration>, delay: Duration, passed: Duration) -> CaseResult {
    let plausible = (delay - delay / 4).saturating_sub(passed)..=delay + ROUNDING;
    ensure!(
        next_due.is_some_and(|next| plausible.contains(&next)),
        "{passed:?} ago a row was to be due in {delay:?}, and now it is said to be due in {next_due:?}"
    );
    Ok(())
}

pub(crate) async fn the_next_due_time_is_told(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    ensure_eq!(scene.fetch().await?.next_due, None, "next due time of an empty outbox");
    scene.enqueue_keyed("k", &["a"]).await?;
    let rows = scene.expect(1).await?;
    ensure_eq!(scene.fetch().await?.next_due, None, "next due time with nothing but a ready row");
    let before = fixture.now();
    scene.settle(&rows.iter().map(|row| retry(row, LONG)).collect::<Vec<_>>()).await?;
    let next_due = scene.fetch().await?.next_due;
    check_next_due(next_due, LONG, fixture.now().since(before))?;
    let before = fixture.now();
    scene.enqueue(&[scheduled(fixture, "b", LONG / 10)?]).await?;
    let next_due = scene.fetch().await?.next_due;
    check_next_due(next_due, LONG / 10, fixture.now().since(before))?;
    // Only of the reader's partitions.
    for partition in scene.partitions.clone() {
        scene.reader.revoke(partition);
    }
    ensure_eq!(scene.fetch().await?.next_due, None, "next due time without partitions");
    Ok(())
}

pub(crate) async fn due_rows_keep_the_limits(fixture: &dyn StoreFixture) -> CaseResult {
    const COUNT: usize = 200;
    let mut scene = Scene::new(fixture).await?;
    let messages: outbox_core::Result<Vec<_>> =
        (0..COUNT).map(|i| keyed(&format!("k{}", i % 50), &i.to_string())).collect();
    scene.enqueue(&messages?).await?;
    let rows = scene.expect(COUNT).await?;
    scene.settle(&rows.iter().map(|row| retry_aside(row, Duration::ZERO)).collect::<Vec<_>>()).await?;
    let mut seen = Vec::new();
    let deadline = scene.deadline();
    while seen.len() < COUNT {
        let batch = scene.fetch_at_most(FetchLimit { messages: 20, bytes: 1 << 20 }).await?;
        let most = scene.partitions.len().max(20);
        ensure!(batch.rows.len() <= most, "asked for 20 due rows, got {}", batch.rows.len());
        if batch.rows.is_empty() {
            deadline
                .pause(fixture, || format!("{COUNT} rows, of which {} were returned", seen.len()))
                .await?;
        }
        seen.extend(batch.rows.iter().map(name));
        let left = COUNT.saturating_sub(seen.len());
        ensure!(
            left == 0 || batch.next_due == Some(Duration::ZERO),
            "{left} due rows did not fit, and the next is said to be due in {:?}",
            batch.next_due
        );
    }
    scene.expect_nothing().await
}

pub(crate) async fn past_delivery_times_are_now(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let at = fixture.now().saturating_sub(LONG);
    scene.enqueue(&[Message::bytes("topic", "overdue").key("k").deliver_at(at).build()?]).await?;
    let rows = scene.expect_names(&["overdue"]).await?;
    ensure!(rows.iter().all(|row| !row.blocked), "an overdue row with nothing in front of it is blocked");
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn a_due_row_waits_for_ready_rows_in_front(fixture: &dyn StoreFixture) -> CaseResult {
    const COUNT: usize = 40;
    let mut scene = Scene::new(fixture).await?;
    let payloads: Vec<String> = (0..COUNT).map(|i| format!("{i:02}")).collect();
    let names_of: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let rows = scene.fetch_keyed("k", &names_of).await?;
    // The first one that is held is due, and a new relay has not read the ready ones in front of it.
    let batch: Vec<_> = rows[COUNT / 2..].iter().map(held).collect();
    scene.settle(&batch).await?;
    scene.restart().await?;
    let mut came = Vec::new();
    let deadline = scene.deadline();
    while came.len() <= COUNT / 2 {
        let rows = scene.fetch_at_most(FetchLimit { messages: 3, bytes: 1 << 20 }).await?.rows;
        if rows.is_empty() {
            deadline.pause(fixture, || format!("row {}", came.len())).await?;
        }
        came.extend(names(&rows));
    }
    ensure_eq!(came, payloads[..=COUNT / 2], "rows up to the first one that was held");
    scene.expect_nothing().await
}
