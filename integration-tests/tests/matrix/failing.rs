//! Permanent and temporary refusals of the broker.

use std::time::Duration;

use outbox_conformance::Fault;
use outbox_core::{DeadLetterFilter, Message, RetryPolicy};

use crate::ordering::Books;
use crate::pair::Pair;

/// Messages that cannot be sent become dead letters with a reason, block their own keys, and affect no other
/// message.
pub(crate) async fn dead_letters(pair: &Pair) {
    const ATTEMPTS: u32 = 3;
    let retry =
        RetryPolicy::default().max_attempts(ATTEMPTS).initial(Duration::from_millis(20)).jitter(false);
    let message = |key: &str, text: &str| pair.message(text).key(key).build().unwrap();
    let invalid = pair.broker.invalid_options().expect("every publisher has options");
    let invalid = pair.message("invalid options").key("options").raw_options(invalid).build().unwrap();
    let size = pair.broker.oversized_payload().expect("every broker has a limit");
    let oversized = pair.message(vec![b'x'; size]).key("size").build().unwrap();
    let nowhere = pair.broker.unroutable_topic().expect("every broker has to know its destinations");
    let astray = Message::bytes(nowhere, "astray").key("topic").build().unwrap();

    let fine = [message("options", "before"), message("fine", "1"), message("fine", "2")];
    let keyless = pair.message("without a key").build().unwrap();
    let held = [message("options", "after"), message("size", "after"), message("topic", "after")];
    let relay = pair.relay(retry).await;
    // Alone, because a batch of this size would be too large for some databases.
    pair.commit(std::slice::from_ref(&oversized)).await;
    let [before, one, two] = fine.clone();
    let [after_options, after_size, after_topic] = held.clone();
    pair.commit(&[before, invalid.clone(), astray.clone(), one, after_options, after_topic]).await;
    pair.commit(&[after_size, keyless.clone(), two]).await;

    let mut expected = fine.to_vec();
    expected.push(keyless);
    pair.wait_for_counts(held.len() as u64, 3).await;
    pair.exactly_and_intact(&expected).await;

    let store = pair.store().await;
    let letters = store.dead_letters().expect("every store keeps dead letters");
    let listed = letters.list(&DeadLetterFilter::all(), None, 10).await.unwrap();
    for (message, attempts) in [(&invalid, 1), (&oversized, 1), (&astray, ATTEMPTS)] {
        let letter = listed.iter().find(|letter| letter.id == Some(message.id())).expect("it is dead");
        assert!(!letter.error.is_empty() && letter.blocks_key, "{letter:?}");
        assert!(letter.attempts <= attempts, "{letter:?}");
        let kept = letter.message.as_ref().expect("it was readable");
        assert!(kept.payload() == message.payload(), "{kept:?} is not {message:?}");
    }
    let attempts = |message: &Message| {
        listed.iter().find(|letter| letter.id == Some(message.id())).map(|letter| letter.attempts)
    };
    assert_eq!(attempts(&astray), Some(ATTEMPTS), "a temporary refusal is retried as often as configured");

    // A redriven message becomes a dead letter again, and a discarded one releases its key.
    assert_eq!(letters.redrive(&DeadLetterFilter::all().id(invalid.id()), 1).await.unwrap(), 1);
    pair.wait_for_counts(held.len() as u64, 3).await;
    assert_eq!(letters.discard(&DeadLetterFilter::all(), 10).await.unwrap(), 3);
    pair.wait_for_counts(0, 0).await;
    expected.extend(held);
    pair.exactly_and_intact(&expected).await;
    relay.shutdown().await.unwrap();
}

/// Temporary refusals, lost answers, and an unavailable broker: no message becomes a dead letter, and the
/// order is kept.
pub(crate) async fn failures_that_pass(pair: &Pair) {
    let mut books = Books::default();
    let keys: Vec<String> = (0..24).map(|number| format!("key {}", number % 6)).collect();

    if pair.broker.faults().contains(&Fault::SomeRefused) {
        let retry = RetryPolicy::default().max_attempts(1_000).initial(Duration::from_millis(5));
        let relay = pair.relay(retry.max(Duration::from_millis(50))).await;
        pair.broker.inject(Fault::SomeRefused).await.unwrap();
        pair.commit(&books.write(pair, &keys)).await;
        pair.wait_for_counts(0, 0).await;
        pair.broker.heal().await.unwrap();
        relay.shutdown().await.unwrap();
    }

    // A message whose attempt is counted would become a dead letter.
    let relay = pair.relay(RetryPolicy::default().max_attempts(1)).await;
    // So that there is a connection that can break.
    pair.commit(&books.write(pair, &keys)).await;
    pair.wait_for_counts(0, 0).await;
    let mut repeats = 0;
    for fault in [Fault::AnswersLost, Fault::Down] {
        assert!(pair.broker.faults().contains(&fault), "every broker can fail in this way");
        pair.broker.inject(fault).await.unwrap();
        pair.commit(&books.write(pair, &keys)).await;
        relay.status().wait_for(|status| status.circuit_open).await.unwrap();
        pair.broker.heal().await.unwrap();
        pair.wait_for_counts(0, 0).await;
        // The number of attempts until the broker is healed depends on timing.
        repeats += 40 * keys.len() as u64;
    }
    let received = pair.exactly_and_intact(books.messages()).await;
    books.audit(&received, repeats, 0);
    relay.shutdown().await.unwrap();
}
