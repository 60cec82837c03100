//! A broker that is unavailable, cut off, or silent.

use std::time::Duration;

use futures_util::FutureExt as _;
use outbox_core::{Message, Outcome, Scope, Verdict};

use super::scene::{Scene, failure};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::publisher_harness::{Fault, PublisherFixture};

pub(super) fn needs_fault(fixture: &dyn PublisherFixture, fault: Fault) -> CaseResult {
    if fixture.faults().contains(&fault) {
        return Ok(());
    }
    Err(Stop::NotApplicable(format!("the fixture cannot make the fault {fault:?}")))
}

/// The confirmed messages of a batch.
pub(super) fn confirmed(batch: &[Message], outcomes: &[Outcome]) -> Vec<Message> {
    let pairs = batch.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
    pairs.map(|(message, _)| message.clone()).collect()
}

pub(crate) async fn a_cut_is_survived(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::Cut)?;
    let scene = Scene::new(fixture).await?;
    let mut all = Vec::new();
    for _ in 0..3 {
        let batch = scene.numbered(20, 20)?;
        scene.publish_until_confirmed(&batch).await?;
        all.extend(batch);
        fixture.inject(Fault::Cut).await?;
        fixture.heal().await?;
        let batch = scene.numbered(20, 20)?;
        scene.publish_until_confirmed(&batch).await?;
        all.extend(batch);
    }
    scene.expect_arrived(&all).await
}

pub(crate) async fn a_cut_is_told_truly(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::Cut)?;
    let scene = Scene::new(fixture).await?;
    scene.publish_until_confirmed(&scene.numbered(5, 5)?).await?;
    let (mut sure, mut failed) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let count = scene.capabilities.max_batch_messages.min(300);
        let batch = scene.numbered(count, count)?;
        // The cut comes during the call, each time a little later.
        let cut = async {
            tokio::time::sleep(Duration::from_micros(300 * round)).await;
            fixture.inject(Fault::Cut).await?;
            fixture.heal().await
        };
        let (outcomes, cut) = tokio::join!(scene.publish(&batch), cut);
        cut?;
        let outcomes = outcomes?;
        for (message, outcome) in batch.iter().zip(&outcomes) {
            let Err(error) = outcome else { continue };
            ensure_eq!(error.scope(), Scope::Endpoint, "scope of a cut connection ({})", error.report());
            match error.verdict() {
                Verdict::Permanent => {
                    let text = error.report();
                    return Err(Stop::Failed(format!("a cut must not give a message up: {text}")));
                }
                Verdict::Retry => failed.push(message.id()),
                Verdict::Unknown => {}
            }
        }
        sure.extend(confirmed(&batch, &outcomes));
    }
    // Every confirmed message has arrived, and every message reported as not arrived has not.
    let last = scene.numbered(5, 5)?;
    scene.publish_until_confirmed(&last).await?;
    sure.extend(last);
    let arrived = scene.received_after(&sure).await?;
    for id in &failed {
        ensure!(
            !arrived.iter().any(|received| received.id == Some(*id)),
            "a message arrived whose outcome around a cut says that it certainly has not"
        );
    }
    Ok(())
}

pub(crate) async fn a_broker_that_is_down_is_reported(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::Down)?;
    let scene = Scene::new(fixture).await?;
    scene.publish_until_confirmed(&scene.numbered(5, 5)?).await?;
    let used = scene.publisher.clone();
    // One publisher that was connected, and one that never was.
    let fresh = fixture.publisher().await?;
    fixture.inject(Fault::Down).await?;
    let mut result = Ok(());
    'all: for publisher in [used, fresh] {
        for _ in 0..3 {
            let batch = scene.numbered(10, 10)?;
            let call = tokio::time::timeout(scene.traits.deadline, publisher.publish(&batch)).await;
            result = match call {
                Ok(outcomes) => check_down(&batch, &outcomes),
                Err(_) => Err(Stop::Failed(format!(
                    "with the broker down, a call did not answer within {:?}",
                    scene.traits.deadline
                ))),
            };
            if result.is_err() {
                break 'all;
            }
        }
    }
    fixture.heal().await?;
    result
}

fn check_down(batch: &[Message], outcomes: &[Outcome]) -> CaseResult {
    ensure_eq!(outcomes.len(), batch.len(), "outcomes while the broker is down");
    for outcome in outcomes {
        let error = failure(outcome, "a message, while the broker was down,")?;
        ensure_eq!(error.scope(), Scope::Endpoint, "scope of a broker that is down ({})", error.report());
        ensure!(
            error.verdict() != Verdict::Permanent,
            "a broker that is down must not give a message up: {}",
            error.report()
        );
    }
    Ok(())
}

pub(crate) async fn an_outage_is_survived(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::Down)?;
    let scene = Scene::new(fixture).await?;
    let mut all = Vec::new();
    for _ in 0..2 {
        let batch = scene.numbered(20, 20)?;
        scene.publish_until_confirmed(&batch).await?;
        all.extend(batch);
        fixture.inject(Fault::Down).await?;
        let batch = scene.numbered(20, 20)?;
        let outcomes = scene.publish(&batch).await;
        fixture.heal().await?;
        let false_confirms = confirmed(&batch, &outcomes?).len();
        ensure_eq!(false_confirms, 0, "messages confirmed while the broker was down");
        scene.publish_until_confirmed(&batch).await?;
        all.extend(batch);
    }
    scene.expect_arrived(&all).await
}

pub(crate) async fn a_stalled_broker_is_not_confirmed(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::Stalled)?;
    let scene = Scene::new(fixture).await?;
    let before = scene.numbered(5, 5)?;
    scene.publish_until_confirmed(&before).await?;
    let batch = scene.numbered(10, 10)?;
    fixture.inject(Fault::Stalled).await?;
    // The call may give up, or be dropped by the relay after its publish timeout.
    let outcomes = tokio::time::timeout(Duration::from_secs(2), scene.publisher.publish(&batch)).await;
    fixture.heal().await?;
    if let Ok(outcomes) = outcomes {
        ensure_eq!(outcomes.len(), batch.len(), "outcomes while the broker was silent");
        for outcome in &outcomes {
            let error = failure(outcome, "a message, while the broker was silent,")?;
            ensure!(
                error.verdict() != Verdict::Permanent,
                "a silent broker must not give a message up: {}",
                error.report()
            );
        }
    }
    let after = scene.numbered(10, 10)?;
    scene.publish_until_confirmed(&after).await?;
    scene.publish_until_confirmed(&batch).await?;
    scene.expect_arrived(&[before, batch, after].concat()).await
}

pub(crate) async fn dropped_calls_do_no_harm(fixture: &dyn PublisherFixture) -> CaseResult {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let scene = Scene::new(fixture).await?;
    let mut offered = scene.numbered(5, 5)?;
    scene.publish_until_confirmed(&offered).await?;
    let mut sure = offered.clone();
    for round in 0..30 {
        let batch = scene.numbered(20, 20)?;
        let outcomes = match round % 3 {
            // Polled once, or for a random moment, before it is dropped.
            0 => scene.publisher.publish(&batch).now_or_never(),
            1 => {
                let moment = Duration::from_micros(random.u64(0..3000));
                tokio::time::timeout(moment, scene.publisher.publish(&batch)).await.ok()
            }
            _ => Some(scene.publish(&batch).await?),
        };
        if let Some(outcomes) = outcomes {
            ensure_eq!(outcomes.len(), batch.len(), "seed {seed}, round {round}: outcomes");
            sure.extend(confirmed(&batch, &outcomes));
        }
        offered.extend(batch);
    }
    let last = scene.numbered(20, 20)?;
    scene.publish_until_confirmed(&last).await?;
    sure.extend(last.iter().cloned());
    offered.extend(last);
    // Every confirmed message has arrived, and no message that was never offered. Messages of dropped calls
    // may have arrived too, so a count does not show that the confirmed ones have.
    let arrived = scene.received_after(&sure).await?;
    for received in &arrived {
        ensure!(
            offered.iter().any(|message| Some(message.id()) == received.id),
            "seed {seed}: a message arrived that was never offered: {received:?}"
        );
    }
    Ok(())
}

pub(crate) async fn dropped_calls_send_nothing_later(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::Down)?;
    let scene = Scene::new(fixture).await?;
    // It has never been connected, so it can have sent nothing before the call is dropped.
    fixture.inject(Fault::Down).await?;
    let dropped = scene.numbered(10, 10)?;
    let call = tokio::time::timeout(Duration::from_millis(300), scene.publisher.publish(&dropped)).await;
    fixture.heal().await?;
    if let Ok(outcomes) = call {
        ensure_eq!(confirmed(&dropped, &outcomes).len(), 0, "messages confirmed while the broker was down");
    }
    let last = scene.numbered(10, 10)?;
    scene.publish_until_confirmed(&last).await?;
    let arrived = scene.received_after(&last).await?;
    for message in &dropped {
        ensure!(
            !arrived.iter().any(|received| received.id == Some(message.id())),
            "a message arrived whose call was over while the broker was down"
        );
    }
    Ok(())
}
