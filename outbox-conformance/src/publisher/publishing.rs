//! The messages that arrive, and their order.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use outbox_core::{Message, MessageId};

use super::scene::{Scene, ids};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::publisher_harness::{PublisherFixture, PublisherTraits, Received};

pub(crate) async fn one_outcome_per_message(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    for count in [1, 2, 10, 100] {
        let batch = scene.numbered(count, count)?;
        scene.publish_all(&batch).await?;
    }
    Ok(())
}

fn compare(traits: &PublisherTraits, received: &Received, message: &Message) -> CaseResult {
    ensure_eq!(received.id, Some(message.id()), "id");
    ensure!(received.payload == message.payload(), "the payload's bytes differ");
    if traits.topic {
        ensure_eq!(received.topic.as_deref(), Some(message.topic()), "topic");
    }
    if traits.key {
        ensure_eq!(received.key.as_deref(), message.key(), "key");
    }
    if traits.content_type {
        ensure_eq!(received.content_type.as_deref(), message.content_type(), "content type");
    }
    for (name, value) in message.headers() {
        ensure_eq!(received.headers.get(name), Some(value), "header {name:?}");
    }
    Ok(())
}

/// Publishes messages, and compares what arrives.
async fn publish_and_compare(scene: &Scene<'_>, messages: &[Message]) -> CaseResult {
    scene.publish_all(messages).await?;
    scene.expect_arrived(messages).await?;
    let received = scene.received(messages.len()).await?;
    for message in messages {
        let found = received.iter().find(|received| received.id == Some(message.id()));
        let Some(found) = found else {
            return Err(Stop::Failed(format!("{message:?} was confirmed and has not arrived")));
        };
        compare(&scene.traits, found, message)?;
    }
    // There was no failure, so no message is repeated.
    scene.expect_no_more_than(messages.len()).await
}

pub(crate) async fn confirmed_messages_arrive(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let old_id = MessageId::from(uuid::Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd));
    let messages = [
        scene
            .message("full")
            .key("customer-4")
            .content_type("text/plain")
            .header("tenant", "acme")
            .build()?,
        scene.message("bare").build()?,
        scene.message("id of another version").id(old_id).build()?,
        Message::json(fixture.topic(), &serde_json::json!({ "order": 17 }))?.key("k").build()?,
    ];
    publish_and_compare(&scene, &messages).await
}

pub(crate) async fn unusual_content_arrives(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..scene.traits.payload_bytes).map(|i| (i * 31 % 251) as u8).collect();
    let headers = (0..scene.traits.headers).map(|i| (format!("header-{i}"), format!("value {i}")));
    let unicode = "Ünïcödé 🚚 'quo\"tes' \\back\\slash %s";
    let mut messages = vec![
        scene.message(every_byte).build()?,
        scene.message(large).key("large").build()?,
        scene.message(unicode).key("Ünïcödé").build()?,
        scene.message("headers").headers(headers).build()?,
        scene.message("long key").key("k".repeat(200)).build()?,
    ];
    if scene.traits.headers > 0 {
        messages.push(scene.message("header").header("strange", unicode).build()?);
    }
    if scene.traits.empty_payload {
        messages.push(scene.message("").build()?);
    }
    publish_and_compare(&scene, &messages).await
}

pub(crate) async fn an_empty_batch_is_fine(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    ensure_eq!(scene.publisher.publish(&[]).await.len(), 0, "outcomes of an empty batch");
    let batch = scene.numbered(1, 1)?;
    scene.publish_all(&batch).await?;
    ensure_eq!(scene.publisher.publish(&[]).await.len(), 0, "outcomes of an empty batch");
    scene.expect_arrived(&batch).await
}

pub(crate) async fn a_full_batch_is_taken(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    // A larger call would not show more.
    let count = scene.capabilities.max_batch_messages.min(2000);
    let batch = scene.numbered(count, count)?;
    let outcomes = scene.publisher.publish(&batch).await;
    ensure_eq!(outcomes.len(), count, "outcomes of a full batch");
    for outcome in outcomes {
        outcome?;
    }
    scene.expect_arrived(&batch).await
}

pub(crate) async fn capabilities_make_sense(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let capabilities = &scene.capabilities;
    ensure!(capabilities.max_batch_messages >= 1, "a call accepts no message: {capabilities:?}");
    ensure!(capabilities.max_batch_bytes >= 1, "a call accepts no bytes: {capabilities:?}");
    ensure!(capabilities.max_message_bytes != Some(0), "no message has room: {capabilities:?}");
    scene.publish_all(&scene.numbered(3, 3)?).await?;
    ensure_eq!(&scene.publisher.capabilities(), capabilities, "capabilities after a call");
    ensure_eq!(&fixture.publisher().await?.capabilities(), capabilities, "capabilities of another publisher");
    let name = scene.publisher.name();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    ensure!(
        !name.is_empty() && name.chars().all(plain),
        "a name of lowercase letters, digits, - and _ was expected, not {name:?}"
    );
    Ok(())
}

/// Fails unless the messages of each key have arrived in the order in which they were published.
pub(super) fn check_order(received: &[Received], published: &[Message]) -> CaseResult {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for received in received {
        let place = published.iter().position(|message| Some(message.id()) == received.id);
        let Some((place, key)) = place.and_then(|place| Some((place, published[place].key()?))) else {
            continue;
        };
        if let Some(before) = last.insert(key, place) {
            ensure!(before < place, "message {place} of key {key} arrived after message {before}");
        }
    }
    Ok(())
}

pub(super) fn needs_order(fixture: &dyn PublisherFixture) -> CaseResult {
    if fixture.traits().ordered {
        return Ok(());
    }
    Err(Stop::NotApplicable("the consumer does not see the order of arrival".to_owned()))
}

pub(crate) async fn order_is_kept_within_a_batch(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_order(fixture)?;
    let scene = Scene::new(fixture).await?;
    if !scene.capabilities.ordered_batches {
        return Err(Stop::NotApplicable("the publisher has no ordered batches".to_owned()));
    }
    let mut all = Vec::new();
    for _ in 0..5 {
        let batch = scene.numbered(200, 7)?;
        scene.publish_all(&batch).await?;
        all.extend(batch);
    }
    scene.expect_arrived(&all).await?;
    check_order(&scene.received(all.len()).await?, &all)
}

pub(crate) async fn order_is_kept_across_calls(fixture: &dyn PublisherFixture) -> CaseResult {
    needs_order(fixture)?;
    let scene = Scene::new(fixture).await?;
    let batch = scene.numbered(40, 1)?;
    for message in &batch {
        scene.publish_all(std::slice::from_ref(message)).await?;
    }
    scene.expect_arrived(&batch).await?;
    check_order(&scene.received(batch.len()).await?, &batch)
}

pub(crate) async fn calls_may_overlap(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let mut batches = Vec::new();
    for caller in 0..8 {
        let batch: outbox_core::Result<Vec<_>> = (0..40)
            .map(|i| scene.message(format!("{caller}.{i}")).key(format!("{caller}-{i}")).build())
            .collect();
        batches.push(batch?);
    }
    for result in join_all(batches.iter().map(|batch| scene.publish_all(batch))).await {
        result?;
    }
    scene.expect_arrived(&batches.concat()).await
}

pub(crate) async fn duplicates_are_published_again(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let batch = scene.numbered(1, 1)?;
    for _ in 0..3 {
        scene.publish_all(&batch).await?;
    }
    scene.expect_arrived(&batch).await?;
    let received = scene.received(1).await?;
    ensure!(received.len() <= 3, "a message that was published 3 times arrived {} times", received.len());
    let id = ids(&batch).first().copied();
    ensure!(received.iter().all(|received| received.id == id), "a repeated message arrived with another id");
    Ok(())
}

pub(crate) async fn closing_is_clean(fixture: &dyn PublisherFixture) -> CaseResult {
    let scene = Scene::new(fixture).await?;
    let batch = scene.numbered(5, 5)?;
    scene.publish_all(&batch).await?;
    let closed = async {
        scene.publisher.close().await;
        scene.publisher.close().await;
    };
    if tokio::time::timeout(scene.traits.deadline, closed).await.is_err() {
        return Err(Stop::Failed(format!("closing took longer than {:?}", scene.traits.deadline)));
    }
    // A later call reconnects or fails. The messages it confirms have arrived.
    let more = scene.numbered(5, 5)?;
    let outcomes = scene.publish(&more).await?;
    let confirmed = more.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let confirmed: Vec<_> = confirmed.map(|(message, _)| message.clone()).collect();
    scene.expect_arrived(&[batch, confirmed].concat()).await?;
    // A publisher that was never used can be closed too.
    let unused = fixture.publisher().await?;
    if tokio::time::timeout(scene.traits.deadline, unused.close()).await.is_err() {
        let deadline = scene.traits.deadline;
        return Err(Stop::Failed(format!("closing an unused publisher took longer than {deadline:?}")));
    }
    Ok(())
}
