//! A broker that accepts a part of a call, throttles, or executes requests but cannot answer.

use std::collections::VecDeque;

use outbox_core::{ErrorKind, Message, Outcome, Scope, Verdict};
use tokio::time::Instant;

use super::failing::{confirmed, needs_fault};
use super::publishing::{check_order, needs_order};
use super::scene::{Scene, failure};
use crate::case::{CaseResult, ensure, ensure_eq};
use crate::publisher_harness::{Fault, PublisherFixture, Received};

/// Publishes a batch under a failure, ends the failure, and waits until the confirmed messages and later ones
/// have arrived: other messages of the batch that have not arrived by then will not arrive. Returns the
/// outcomes and the arrived messages.
async fn publish_under(
    scene: &Scene<'_>,
    fault: Fault,
    batch: &[Message],
) -> Result<(Vec<Outcome>, Vec<Received>), crate::Stop> {
    scene.publish_until_confirmed(&scene.numbered(5, 5)?).await?;
    scene.fixture.inject(fault).await?;
    let outcomes = scene.publish(batch).await;
    scene.fixture.heal().await?;
    let outcomes = outcomes?;
    let mut awaited = scene.numbered(5, 5)?;
    scene.publish_until_confirmed(&awaited).await?;
    awaited.extend(confirmed(batch, &outcomes));
    let arrived = scene.received_after(&awaited).await?;
    Ok((outcomes, arrived))
}

fn has_arrived(arrived: &[Received], message: &Message) -> bool {
    arrived.iter().any(|received| received.id == Some(message.id()))
}

/// Delivers the remaining messages, as the relay does.
async fn publish_the_rest(scene: &Scene<'_>, batch: &[Message], outcomes: &[Outcome]) -> CaseResult {
    let failed: Vec<Message> =
        batch.iter().zip(outcomes).filter(|(_, o)| o.is_err()).map(|(message, _)| message.clone()).collect();
    scene.publish_until_confirmed(&failed).await?;
    scene.received_after(batch).await?;
    Ok(())
}

pub(crate) async fn a_lost_answer_is_told_truly(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::AnswersLost)?;
    let scene = Scene::new(fixture).await?;
    let batch = scene.numbered(20, 20)?;
    let (outcomes, _) = publish_under(&scene, Fault::AnswersLost, &batch).await?;
    let missing = "nothing has arrived, so the failure was not a lost answer";
    let arrived = scene
        .received_when(missing, |received| batch.iter().any(|message| has_arrived(received, message)))
        .await?;
    for (message, outcome) in batch.iter().zip(&outcomes) {
        let error = failure(outcome, "a message, without an answer,")?;
        let text = error.report();
        ensure_eq!(error.scope(), Scope::Endpoint, "scope of a lost answer ({text})");
        match error.verdict() {
            Verdict::Unknown => {}
            Verdict::Retry => ensure!(
                !has_arrived(&arrived, message),
                "a message has arrived whose outcome says that it certainly has not: {text}"
            ),
            Verdict::Permanent => ensure!(false, "a lost answer must not give a message up: {text}"),
        }
    }
    publish_the_rest(&scene, &batch, &outcomes).await
}

pub(crate) async fn throttling_is_told_as_such(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::Throttled)?;
    let scene = Scene::new(fixture).await?;
    let batch = scene.numbered(40, 40)?;
    let (outcomes, arrived) = publish_under(&scene, Fault::Throttled, &batch).await?;
    for (message, outcome) in batch.iter().zip(&outcomes) {
        let error = failure(outcome, "a message that the broker throttled")?;
        let text = error.report();
        ensure_eq!(error.kind(), ErrorKind::Throttled, "kind of the failure ({text})");
        ensure_eq!(error.scope(), Scope::Endpoint, "scope of throttling ({text})");
        ensure_eq!(error.verdict(), Verdict::Retry, "verdict on a throttled message ({text})");
        ensure!(!has_arrived(&arrived, message), "a message has arrived although it was refused");
    }
    publish_the_rest(&scene, &batch, &outcomes).await
}

pub(crate) async fn a_partial_failure_is_told_apart(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::SomeRefused)?;
    let scene = Scene::new(fixture).await?;
    let batch = scene.numbered(40, 40)?;
    let (outcomes, arrived) = publish_under(&scene, Fault::SomeRefused, &batch).await?;
    let taken = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    ensure!(
        (1..batch.len()).contains(&taken),
        "the broker accepted some of {} messages, and {taken} were confirmed",
        batch.len()
    );
    for (message, outcome) in batch.iter().zip(&outcomes) {
        let there = has_arrived(&arrived, message);
        match outcome {
            Ok(()) => ensure!(there, "a message was confirmed next to refused ones, and has not arrived"),
            Err(error) => {
                let text = error.report();
                ensure!(!there, "a message has arrived that the broker refused: {text}");
                ensure_eq!(error.verdict(), Verdict::Retry, "verdict on a temporary refusal ({text})");
                ensure_eq!(error.scope(), Scope::Message, "scope of a refusal among others ({text})");
            }
        }
    }
    publish_the_rest(&scene, &batch, &outcomes).await
}

pub(crate) async fn order_survives_partial_failures(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_fault(fixture, Fault::SomeRefused)?;
    needs_order(fixture)?;
    let scene = Scene::new(fixture).await?;
    let all = scene.numbered(24, 4)?;
    let mut keys: Vec<VecDeque<Message>> = vec![VecDeque::new(); 4];
    for (i, message) in all.iter().enumerate() {
        keys[i % 4].push_back(message.clone());
    }
    let (start, mut refused) = (Instant::now(), 0);
    fixture.inject(Fault::SomeRefused).await?;
    let result = loop {
        keys.retain(|key| !key.is_empty());
        if keys.is_empty() {
            break Ok(());
        }
        // One message of each key or, if the publisher keeps their order, all remaining ones.
        let most = if scene.capabilities.ordered_batches { all.len() } else { 1 };
        let taken: Vec<usize> = keys.iter().map(|key| key.len().min(most)).collect();
        let batch: Vec<Message> =
            keys.iter().zip(&taken).flat_map(|(key, taken)| key.iter().take(*taken).cloned()).collect();
        let mut outcomes = match scene.publish(&batch).await {
            Ok(outcomes) => outcomes.into_iter(),
            Err(stop) => break Err(stop),
        };
        let before = refused;
        for (key, taken) in keys.iter_mut().zip(taken) {
            let confirmed: Vec<bool> = outcomes.by_ref().take(taken).map(|outcome| outcome.is_ok()).collect();
            let delivered = confirmed.iter().take_while(|yes| **yes).count();
            refused += confirmed.len() - delivered;
            key.drain(..delivered);
        }
        if start.elapsed() > scene.traits.deadline {
            let left: usize = keys.iter().map(VecDeque::len).sum();
            break Err(crate::Stop::Failed(format!("after {:?} {left} are left", start.elapsed())));
        }
        if refused > before {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    fixture.heal().await?;
    result?;
    ensure!(refused > 0, "the broker refused no message, so the case shows nothing");
    scene.expect_arrived(&all).await?;
    check_order(&scene.received_after(&all).await?, &all)
}
