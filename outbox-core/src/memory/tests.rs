//! What the conformance suite does not ask: faults, the publisher's scripts, and work on many messages.

use std::time::Duration;

use super::*;
use crate::error::{ErrorKind, Scope, Verdict};
use crate::message::Message;
use crate::publisher::{Publisher, PublisherCapabilities};
use crate::store::{FetchLimit, Partition, Reader, RelayId, Settle, Settlement, Store};

const TTL: Duration = Duration::from_secs(30);
const MANY: FetchLimit = FetchLimit { messages: 1_000, bytes: usize::MAX };

fn message(key: &str, payload: &str) -> Message {
    Message::bytes("t", payload.to_owned()).key(key).build().unwrap()
}

async fn owner(store: &MemoryStore) -> (RelayId, Box<dyn Reader>) {
    let relay = RelayId::new();
    let mut reader = store.reader();
    for partition in store.heartbeat(relay, TTL).await.unwrap().owned {
        reader.assign(partition);
    }
    (relay, reader)
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_has_no_effect_and_a_lost_answer_has_one() {
    let store = MemoryStore::new();
    let (relay, mut reader) = owner(&store).await;
    store.enqueue(&message("k", "x"));

    store.faults().lose_answers(Operation::Fetch, 1);
    assert_eq!(reader.fetch(MANY, &[]).await.unwrap_err().kind(), ErrorKind::Interrupted);
    let row = reader.fetch(MANY, &[]).await.unwrap().rows.remove(0);
    let settle = [Settle::of(&row, Settlement::Delivered)];

    store.faults().fail_next(Operation::Settle, 1, ErrorKind::Conflict);
    assert_eq!(store.settle(relay, &settle, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.undelivered().len(), 1);
    store.faults().lose_answers(Operation::Settle, 1);
    assert_eq!(store.settle(relay, &settle, false).await.unwrap_err().verdict(), Verdict::Unknown);
    assert_eq!(store.undelivered().len(), 0);
    store.settle(relay, &settle, false).await.unwrap();
    assert_eq!(store.faults().calls(Operation::Settle), 3);

    store.faults().down();
    assert_eq!(store.stats(1).await.unwrap_err().scope(), Scope::Endpoint);
    store.faults().up();
    store.stats(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_is_dropped_while_it_is_delayed_loses_nothing() {
    let store = MemoryStore::new();
    let (_, mut reader) = owner(&store).await;
    store.enqueue(&message("k", "x"));
    store.faults().delay(Operation::Fetch, Duration::from_secs(5));
    tokio::time::timeout(Duration::from_secs(1), reader.fetch(MANY, &[])).await.unwrap_err();
    assert_eq!(reader.fetch(MANY, &[]).await.unwrap().rows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_answer_comes_after_the_effect() {
    let store = MemoryStore::new();
    store.faults().delay_answer(Operation::Heartbeat, Duration::from_secs(5));
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.heartbeat(RelayId::new(), TTL).await.unwrap() }
    });
    while store.faults().calls(Operation::Heartbeat) == 0 {
        tokio::task::yield_now().await;
    }
    store.faults().clear();
    let second = store.heartbeat(RelayId::new(), TTL).await.unwrap();
    assert_eq!((second.relays, second.owned.len()), (2, 0));
    assert_eq!(slow.await.unwrap().owned.len(), 16);
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_not_ready_are_passed_over_once_and_late_ones_found_behind_them() {
    let store = MemoryStore::builder().partitions(1).build().unwrap();
    let (_, mut reader) = owner(&store).await;
    let mut late = store.begin();
    late.enqueue(&message("k", "late"));
    for _ in 0..3 {
        let later = store.now().saturating_add(Duration::from_secs(60));
        store.enqueue(&Message::bytes("t", "scheduled").deliver_at(later).build().unwrap());
    }
    store.enqueue(&message("k", "on time"));
    let one = FetchLimit { messages: 1, bytes: usize::MAX };
    let batch = reader.fetch(one, &[]).await.unwrap();
    assert!(!batch.more);
    assert_eq!(batch.rows[0].position.0, 5);
    late.commit();
    store.enqueue(&message("k", "after"));
    let batch = reader.fetch(one, &[]).await.unwrap();
    assert!(batch.more);
    assert_eq!(batch.rows[0].position.0, 1);
    assert_eq!(reader.fetch(one, &[]).await.unwrap().rows[0].position.0, 6);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(reader.fetch(MANY, &[]).await.unwrap().rows.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_given_only_to_those_who_sleep() {
    let store = MemoryStore::new();
    let (relay, _) = owner(&store).await;
    let mut wakeups = store.wakeups().await.unwrap().unwrap();
    store.enqueue(&message("k", "x"));
    tokio::time::timeout(Duration::from_secs(60), wakeups.wait()).await.unwrap_err();

    store.heartbeat(relay, TTL).await.unwrap();
    store.set_idle(relay, true).await.unwrap();
    assert_eq!(store.idle_relays(), [relay]);
    store.enqueue(&message("k", "x"));
    wakeups.wait().await.unwrap();

    tokio::time::advance(TTL * 2).await;
    assert!(store.idle_relays().is_empty());
}

#[tokio::test]
async fn many_messages_are_drained_in_time_proportional_to_their_number() {
    let store = MemoryStore::new();
    let (relay, mut reader) = owner(&store).await;
    let count = 50_000;
    let mut transaction = store.begin();
    for i in 0..count {
        transaction.enqueue(&message(&format!("key-{}", i % 100), "x"));
    }
    transaction.commit();
    let mut seen = 0;
    while seen < count {
        let rows = reader.fetch(FetchLimit { messages: 500, bytes: usize::MAX }, &[]).await.unwrap().rows;
        assert!(!rows.is_empty());
        seen += rows.len();
        let settles: Vec<_> = rows.iter().map(|row| Settle::of(row, Settlement::Delivered)).collect();
        store.settle(relay, &settles, false).await.unwrap();
    }
    assert_eq!(store.stats(1).await.unwrap().backlog.value, 0);
}

#[test]
fn a_store_without_partitions_is_refused() {
    let error = MemoryStore::builder().partitions(0).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(MemoryStore::builder().partitions(1).build().is_ok());
}

#[tokio::test]
async fn a_repair_elsewhere_is_none_of_this_relays_business() {
    let store = MemoryStore::builder().partitions(1).build().unwrap();
    let (relay, mut reader) = owner(&store).await;
    let [first, second] = [message("k", "1"), message("k", "2")];
    store.enqueue(&first);
    store.enqueue(&second);
    let rows = reader.fetch(MANY, &[]).await.unwrap().rows;
    let retry = Settlement::Retry { after: TTL, attempts: 1, error: "no".to_owned(), block_key: true };
    let settles = [Settle::of(&rows[0], retry), Settle::of(&rows[1], Settlement::Held)];
    store.settle(relay, &settles, false).await.unwrap();
    assert!(store.delete_by_hand(first.id()));
    assert!(!store.delete_by_hand(first.id()));
    assert_eq!(store.repair(RelayId::new(), &[Partition(0)], 10).await.unwrap(), 0);
    assert_eq!(store.repair(relay, &[Partition(0)], 10).await.unwrap(), 1);
}

#[tokio::test]
async fn the_publisher_follows_its_script() {
    let publisher = MemoryPublisher::builder()
        .topics(["t", "u"])
        .capabilities(PublisherCapabilities::default().ordered_batches(true).max_message_bytes(Some(10)))
        .script(|message, attempt| match message.payload().as_ref() {
            b"bad" if attempt == 1 => Err(crate::Error::new(ErrorKind::Rejected, "bad")),
            _ => Ok(()),
        })
        .confirm_if(|message, _| message.payload().as_ref() != b"unsure")
        .build();
    let elsewhere = MemoryOptions { topic: Some("u".to_owned()) };
    let nowhere = MemoryOptions { topic: Some("v".to_owned()) };
    let batch = [
        message("a", "bad"),
        message("a", "behind"),
        message("b", "good"),
        message("c", "unsure"),
        message("d", "far too large"),
        Message::bytes("t", "x").options(&elsewhere).build().unwrap(),
        Message::bytes("t", "x").options(&nowhere).build().unwrap(),
    ];
    let kinds: Vec<_> = publisher
        .publish(&batch)
        .await
        .into_iter()
        .map(|outcome| outcome.err().map(|error| error.kind()))
        .collect();
    use ErrorKind::{Interrupted, Rejected, TooLarge, Unroutable};
    assert_eq!(
        kinds,
        [Some(Rejected), Some(Rejected), None, Some(Interrupted), Some(TooLarge), None, Some(Unroutable)]
    );
    assert!(publisher.publish(&batch[..2]).await.iter().all(Result::is_ok));
    assert_eq!(publisher.payloads_of("a"), ["bad", "behind"]);
    assert_eq!(publisher.count(), 5);
    let topics: Vec<_> = publisher.published().into_iter().map(|published| published.topic).collect();
    assert_eq!(topics, ["t", "t", "u", "t", "t"]);

    publisher.lose_confirms(1);
    assert_eq!(publisher.publish(&batch[2..3]).await[0].as_ref().unwrap_err().verdict(), Verdict::Unknown);
    publisher.down();
    assert_eq!(publisher.publish(&batch[2..3]).await[0].as_ref().unwrap_err().scope(), Scope::Endpoint);
    publisher.up();
    assert!(publisher.publish(&batch[2..3]).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_paused_call_that_is_dropped_publishes_nothing() {
    let publisher = MemoryPublisher::builder().delay(Duration::from_secs(1)).build();
    let batch = [message("a", "x")];
    publisher.pause();
    tokio::time::timeout(Duration::from_secs(5), publisher.publish(&batch)).await.unwrap_err();
    publisher.resume();
    assert_eq!((publisher.count(), publisher.running()), (0, 0));
    let (outcomes, ()) = tokio::join!(publisher.publish(&batch), publisher.wait_for(1));
    assert!(outcomes[0].is_ok());
    assert_eq!((publisher.calls(), publisher.most_running()), (2, 1));
}

#[tokio::test]
async fn a_batch_beyond_the_capabilities_is_refused() {
    let small = PublisherCapabilities::default().max_batch_messages(1);
    let publisher = MemoryPublisher::builder().capabilities(small).build();
    let outcomes = publisher.publish(&[message("a", "x"), message("b", "x")]).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap_err().kind() == ErrorKind::Internal));
    assert_eq!(publisher.count(), 0);
}
