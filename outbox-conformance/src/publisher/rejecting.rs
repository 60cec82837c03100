//! Messages that the broker or the publisher does not accept.

use outbox_core::{ErrorKind, Message, MessageBuilder, MessageId, Scope, Verdict};

use super::scene::{Scene, failure};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::publisher_harness::PublisherFixture;

fn unroutable_topic(fixture: &dyn PublisherFixture) -> Result<String, Stop> {
    fixture
        .unroutable_topic()
        .ok_or_else(|| Stop::NotApplicable("the fixture knows no topic without a consumer".to_owned()))
}

/// A message that must fail, alone and among good ones. If it has a key, no other message has it.
async fn expect_rejected(
    fixture: &dyn PublisherFixture,
    make: impl Fn(&Scene<'_>) -> Result<Message, Stop>,
    check: impl Fn(&outbox_core::Error) -> CaseResult,
) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let alone = make(&scene)?;
    let outcomes = scene.publisher.publish(std::slice::from_ref(&alone)).await;
    ensure_eq!(outcomes.len(), 1, "outcomes of one message");
    check(failure(&outcomes[0], "the bad message")?)?;

    let mut batch = scene.numbered(11, 11)?;
    let bad = 5;
    batch[bad] = make(&scene)?;
    let outcomes = scene.publisher.publish(&batch).await;
    ensure_eq!(outcomes.len(), batch.len(), "outcomes of the batch");
    for (i, outcome) in outcomes.iter().enumerate() {
        if i == bad {
            check(failure(outcome, "the bad message among good ones")?)?;
        } else if let Err(error) = outcome {
            let text = error.report();
            return Err(Stop::Failed(format!("good message {i}, next to the bad one, failed: {text}")));
        }
    }
    batch.remove(bad);
    scene.expect_arrived(&batch).await?;
    let arrived = scene.received(batch.len()).await?.len();
    scene.expect_no_more_than(arrived).await?;
    // The publisher works as before.
    let after = scene.numbered(3, 3)?;
    scene.publish_all(&after).await?;
    scene.expect_arrived(&[batch, after].concat()).await
}

pub(crate) async fn unroutable_messages_fail(fixture: &dyn PublisherFixture) -> CaseResult {
    let topic = unroutable_topic(fixture)?;
    let make = |_: &Scene<'_>| Ok(Message::bytes(topic.clone(), "unroutable").key("unroutable").build()?);
    expect_rejected(fixture, make, |error| {
        ensure!(
            matches!(error.kind(), ErrorKind::Unroutable | ErrorKind::NotFound),
            "an unroutable message failed with: {}",
            error.report()
        );
        ensure_eq!(error.scope(), Scope::Message, "scope of the failure of an unroutable message");
        ensure_eq!(error.verdict(), Verdict::Retry, "verdict on an unroutable message");
        Ok(())
    })
    .await
}

pub(crate) async fn unroutable_messages_fail_among_many(fixture: &dyn PublisherFixture) -> CaseResult {
    let topic = unroutable_topic(fixture)?;
    let scene = Scene::new(fixture).await?;
    let (mut good, mut arrived) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let count = scene.capabilities.max_batch_messages.min(400);
        // Every seventh, so that failures and confirms of neighbours cross on the wire.
        let batch: outbox_core::Result<Vec<_>> = (0..count)
            .map(|i| {
                let topic = if i % 7 == 3 { topic.clone() } else { fixture.topic() };
                Message::bytes(topic, i.to_string()).key(format!("{round}-{i}")).build()
            })
            .collect();
        let batch = batch?;
        let outcomes = scene.publisher.publish(&batch).await;
        ensure_eq!(outcomes.len(), count, "outcomes");
        for (i, (message, outcome)) in batch.iter().zip(&outcomes).enumerate() {
            let expected = i % 7 != 3;
            ensure!(
                outcome.is_ok() == expected,
                "message {i} of {count}, with the topic {}, has the outcome {outcome:?}",
                message.topic()
            );
            if expected {
                good.push(message.clone());
            }
        }
        scene.expect_arrived(&good).await?;
        arrived = scene.received(good.len()).await?;
    }
    scene.expect_no_more_than(arrived.len()).await
}

pub(crate) async fn oversized_messages_fail(fixture: &dyn PublisherFixture) -> CaseResult {
    let Some(size) = fixture.oversized_payload() else {
        return Err(Stop::NotApplicable("the fixture knows no payload that is too large".to_owned()));
    };
    let make = |scene: &Scene<'_>| Ok(scene.message(vec![b'x'; size]).key("oversized").build()?);
    expect_rejected(fixture, make, |error| {
        ensure_eq!(
            error.verdict(),
            Verdict::Permanent,
            "verdict on an oversized message ({})",
            error.report()
        );
        ensure_eq!(error.scope(), Scope::Message, "scope of the failure of an oversized message");
        Ok(())
    })
    .await
}

pub(crate) async fn invalid_options_fail(fixture: &dyn PublisherFixture) -> CaseResult {
    let Some(options) = fixture.invalid_options() else {
        return Err(Stop::NotApplicable("the fixture knows no invalid options".to_owned()));
    };
    let make = |scene: &Scene<'_>| {
        Ok(scene.message("invalid options").raw_options(options.clone()).key("options").build()?)
    };
    expect_rejected(fixture, make, |error| {
        ensure_eq!(error.kind(), ErrorKind::Malformed, "kind of the failure ({})", error.report());
        ensure_eq!(error.verdict(), Verdict::Permanent, "verdict on invalid options");
        ensure_eq!(error.scope(), Scope::Message, "scope of the failure of invalid options");
        Ok(())
    })
    .await
}

pub(crate) async fn each_failure_has_its_own_reason(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let mut bad: Vec<(MessageBuilder, &[ErrorKind], Verdict)> = Vec::new();
    if let Some(topic) = fixture.unroutable_topic() {
        let kinds = &[ErrorKind::Unroutable, ErrorKind::NotFound];
        bad.push((Message::bytes(topic, "unroutable"), kinds, Verdict::Retry));
    }
    if let Some(size) = fixture.oversized_payload() {
        bad.push((scene.message(vec![b'x'; size]), &[ErrorKind::TooLarge], Verdict::Permanent));
    }
    if let Some(options) = fixture.invalid_options() {
        let message = scene.message("invalid options").raw_options(options);
        bad.push((message, &[ErrorKind::Malformed], Verdict::Permanent));
    }
    if bad.len() < 2 {
        return Err(Stop::NotApplicable("the fixture knows fewer than two kinds of bad messages".to_owned()));
    }
    let (mut batch, mut expected) = (Vec::new(), Vec::new());
    for round in 0..2 {
        for (message, kinds, verdict) in &bad {
            let place = batch.len();
            batch.push(scene.message("good").key(format!("good {place}")).build()?);
            let id = MessageId::new();
            batch.push(message.clone().id(id).key(format!("bad {round} {place}")).build()?);
            expected.extend([None, Some((*kinds, *verdict))]);
        }
    }
    let outcomes = scene.publish(&batch).await?;
    for (place, (outcome, expected)) in outcomes.iter().zip(&expected).enumerate() {
        match (outcome, expected) {
            (Ok(()), None) => {}
            (Err(error), Some((kinds, verdict))) => {
                ensure!(
                    kinds.contains(&error.kind()),
                    "message {place} should fail with one of {kinds:?}: {}",
                    error.report()
                );
                ensure_eq!(error.verdict(), *verdict, "verdict on message {place} ({})", error.report());
            }
            _ => ensure!(false, "message {place} should be {expected:?}, and is {outcome:?}"),
        }
    }
    let good: Vec<Message> = batch.iter().step_by(2).cloned().collect();
    scene.expect_arrived(&good).await?;
    scene.expect_no_more_than(good.len()).await
}

pub(crate) async fn a_key_stops_at_its_failure(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    if !scene.capabilities.ordered_batches {
        return Err(Stop::NotApplicable("the publisher has no ordered batches".to_owned()));
    }
    // Any kind of failure will do.
    let bad = |key: &str| -> Result<Message, Stop> {
        if let Some(topic) = fixture.unroutable_topic() {
            Ok(Message::bytes(topic, "bad").key(key).build()?)
        } else if let Some(options) = fixture.invalid_options() {
            Ok(scene.message("bad").raw_options(options).key(key).build()?)
        } else if let Some(size) = fixture.oversized_payload() {
            Ok(scene.message(vec![b'x'; size]).key(key).build()?)
        } else {
            Err(Stop::NotApplicable("the fixture knows no message that fails".to_owned()))
        }
    };
    let good = |key: &str, payload: &str| scene.message(payload.to_owned()).key(key).build();
    let batch = [
        good("k", "before")?,
        good("l", "other")?,
        bad("k")?,
        good("k", "behind")?,
        good("l", "other")?,
        scene.message("no key").build()?,
        good("k", "far behind")?,
    ];
    let outcomes = scene.publisher.publish(&batch).await;
    ensure_eq!(outcomes.len(), batch.len(), "outcomes");
    let confirmed: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    ensure_eq!(
        confirmed,
        [true, true, false, false, true, true, false],
        "whether each was confirmed, if the third one and with it the rest of its key fail"
    );
    for i in [3, 6] {
        let error = failure(&outcomes[i], "a message behind a failed one of its key")?;
        ensure_eq!(error.verdict(), Verdict::Retry, "verdict on a message behind a failed one of its key");
        ensure_eq!(error.scope(), Scope::Message, "scope of the failure behind a failure");
    }
    let arrive = [batch[0].clone(), batch[1].clone(), batch[4].clone(), batch[5].clone()];
    scene.expect_arrived(&arrive).await?;
    scene.expect_no_more_than(4).await?;
    // In a separate call they succeed.
    scene.publish_all(&[batch[3].clone(), batch[6].clone()]).await
}
