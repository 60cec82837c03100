//! Transactions, order, and the takeover from a stopped relay.

use std::time::Duration;

use outbox_conformance::{Ledger, Received, Rules};
use outbox_core::{Message, RetryPolicy};

use crate::gate::Gate;
use crate::pair::Pair;

/// The messages of a transaction arrive if and only if it committed.
pub(crate) async fn commit_and_rollback(pair: &Pair) {
    let message = |text: &str| pair.message(text).key("k").build().unwrap();
    let relay = pair.relay(RetryPolicy::default()).await;

    let mut expected = Vec::new();
    for round in 0..3 {
        let kept = message(&format!("kept {round}"));
        let mut transaction = pair.rows.begin().await.unwrap();
        transaction.enqueue(&[kept.clone(), message("second in its transaction")]).await.unwrap();
        transaction.rollback().await.unwrap();

        let mut transaction = pair.rows.begin().await.unwrap();
        transaction.enqueue(&[message("never committed")]).await.unwrap();
        drop(transaction);

        // The message that was rolled back, enqueued again.
        let pairs = [kept, message(&format!("next to {round}"))];
        pair.commit(&pairs).await;
        expected.extend(pairs);
    }
    pair.wait_for_counts(0, 0).await;
    // An unexpected message would have arrived before this one, because it has the same key.
    let last = message("last");
    pair.commit(std::slice::from_ref(&last)).await;
    expected.push(last);
    let received = pair.exactly_and_intact(&expected).await;
    let order: Vec<_> = received.iter().map(|one| one.id.unwrap()).collect();
    assert_eq!(order, expected.iter().map(Message::id).collect::<Vec<_>>());
    pair.wait_for_counts(0, 0).await;
    relay.shutdown().await.unwrap();
}

/// Key numbers and the results of their messages.
#[derive(Default)]
pub(crate) struct Books(Ledger, Vec<Message>);

impl Books {
    /// The next messages, for these keys in turn. They are recorded immediately.
    pub(crate) fn write(&mut self, pair: &Pair, keys: &[String]) -> Vec<Message> {
        let messages: Vec<Message> = keys
            .iter()
            .map(|key| {
                let number = self.1.len();
                let message = pair.message(format!("{number}:{key}")).key(key).build().unwrap();
                self.0.committed(Some(key), number as u64);
                self.1.push(message.clone());
                message
            })
            .collect();
        messages
    }

    /// Everything recorded so far.
    pub(crate) fn messages(&self) -> &[Message] {
        &self.1
    }

    /// Compares the arrived messages with the ledger, which judges order by the first arrival.
    pub(crate) fn audit(mut self, received: &[Received], most_repeats: u64, seed: u64) {
        for one in received {
            let text = std::str::from_utf8(&one.payload).unwrap();
            let (number, key) = text.split_once(':').unwrap();
            self.0.arrived(Some(key), number.parse().unwrap());
        }
        let verdict = self.0.verdict(&Rules::new().most_duplicates(most_repeats));
        assert!(verdict.is_clean(), "{verdict} (seed {seed})");
    }
}

/// Messages of a key arrive in the order in which they were committed, whatever messages are between them.
pub(crate) async fn order_per_key(pair: &Pair) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let relay = pair.relay(RetryPolicy::default()).await;
    let mut books = Books::default();
    while books.messages().len() < 200 {
        let keys: Vec<_> = (0..dice.usize(1..30)).map(|_| format!("key {}", dice.u32(0..8))).collect();
        pair.commit(&books.write(pair, &keys)).await;
    }
    let received = pair.exactly_and_intact(books.messages()).await;
    // There was no failure, so no message was repeated.
    books.audit(&received, 0, seed);
    relay.shutdown().await.unwrap();
}

/// In the middle of a backlog one relay stops in order, the next one dies, and a third one does the rest.
pub(crate) async fn restart_of_the_relay(pair: &Pair) {
    const THROUGH: usize = 60;
    const BATCH: usize = 10;
    let mut books = Books::default();
    for _ in 0..20 {
        let keys: Vec<_> = (0..20).map(|key| format!("key {key}")).collect();
        pair.commit(&books.write(pair, &keys)).await;
    }
    let store = pair.store().await;
    let relay = async |messages: usize| {
        let gate = Gate::new(pair.publisher().await, messages);
        let relay = pair.relay_with(gate.clone(), |settings| {
            settings.publish_batch = BATCH;
        });
        (relay.await, gate)
    };

    let (first, gate) = relay(THROUGH).await;
    // The remaining permits may be too few for the next call.
    pair.received(THROUGH - BATCH + 1).await;
    gate.open_until(first.shutdown()).await.unwrap();
    let (left, _) = pair.counts(&store).await;
    assert!(left > THROUGH as u64, "{left} left: the first relay should have ended in the middle");

    let before = books.messages().len() - left as usize;
    let (second, _gate) = relay(THROUGH).await;
    pair.received(before + THROUGH - BATCH + 1).await;
    let inspection = store.inspection().expect("every store has diagnostics");
    let group = inspection.group().await.unwrap().expect("every store knows its relays");
    let [died] = group.relays[..] else { panic!("one relay should be there, not {:?}", group.relays) };
    second.abort().await;
    let (left, _) = pair.counts(&store).await;
    assert!(left > 0, "the second relay should have died in the middle");

    let third = pair.relay(RetryPolicy::default()).await;
    third.status().wait_for(|status| status.relays == 2).await.unwrap();
    assert!(pair.counts(&store).await.0 > 0, "the leases of the second relay outlive it");
    // Its leases end now instead of in some minutes.
    store.heartbeat(died, Duration::from_millis(1)).await.unwrap();
    pair.wait_for_counts(0, 0).await;
    let received = pair.exactly_and_intact(books.messages()).await;
    // Messages that the second relay had sent but could not settle arrive again.
    books.audit(&received, THROUGH as u64, 0);
    third.shutdown().await.unwrap();
}
