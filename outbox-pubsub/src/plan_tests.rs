use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::wire::{PublishRequest, PubsubMessage, size_in_request};

const LIMITS: Limits = Limits { messages: 5, bytes: 400 };

#[derive(Clone, Debug)]
struct Draft {
    key: Option<u8>,
    topic: u8,
    ordering_key: Option<u8>,
    bytes: usize,
}

fn draft() -> impl Strategy<Value = Draft> {
    let key = prop_oneof![2 => Just(None), 5 => (0..4u8).prop_map(Some)];
    let ordering_key = prop_oneof![6 => Just(None), 1 => (0..2u8).prop_map(Some)];
    let topic = prop_oneof![5 => Just(0u8), 1 => Just(1u8)];
    (key, topic, ordering_key, 0..330usize).prop_map(|(key, topic, ordering_key, bytes)| Draft {
        key,
        topic,
        ordering_key,
        bytes,
    })
}

fn outgoing(index: usize, draft: &Draft) -> Outgoing {
    let key = draft.key.map(|key| format!("key {key}"));
    let ordering_key = draft.ordering_key.map(|key| format!("o{key}")).or(key.clone()).unwrap_or_default();
    let message = PubsubMessage { data: vec![0; draft.bytes].into(), attributes: [].into(), ordering_key };
    let size = size_in_request(&message);
    Outgoing { index, key, topic: format!("projects/p/topics/t{}", draft.topic), message, size }
}

fn indices(chain: &Chain) -> Vec<usize> {
    chain.requests.iter().flatten().map(|message| message.index).collect()
}

proptest! {
    #[test]
    fn no_message_is_lost_no_limit_exceeded_and_no_key_reordered(drafts in vec(draft(), 0..80), ordered: bool) {
        let messages: Vec<Outgoing> = drafts.iter().enumerate().map(|(i, draft)| outgoing(i, draft)).collect();
        let chains = plan(messages.clone(), ordered, LIMITS);

        let mut all: Vec<usize> = chains.iter().flat_map(indices).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..messages.len()).collect::<Vec<_>>());

        let mut chain_of_key = HashMap::new();
        for (number, chain) in chains.iter().enumerate() {
            prop_assert!(chain.ordered || chain.requests.len() == 1, "what may go at once waits");
            prop_assert!(indices(chain).is_sorted(), "the order of the batch is not kept");
            for request in &chain.requests {
                let first = &request[0];
                prop_assert!(request.iter().all(|message| message.goes_with(first)));
                prop_assert!(request.len() <= LIMITS.messages);
                let messages = request.iter().map(|message| message.message.clone()).collect();
                let wire = PublishRequest { topic: first.topic.clone(), messages };
                prop_assert!(wire.encoded_len() <= LIMITS.bytes, "{} bytes", wire.encoded_len());
            }
            for message in chain.requests.iter().flatten() {
                prop_assert_eq!(chain.ordered, ordered && message.key.is_some());
                if let (true, Some(key)) = (ordered, &message.key) {
                    prop_assert_eq!(*chain_of_key.entry(key.clone()).or_insert(number), number);
                }
            }
        }
    }

    #[test]
    fn requests_are_full_when_there_is_work(drafts in vec(draft(), 0..80), ordered: bool) {
        let messages = drafts.iter().enumerate().map(|(i, draft)| outgoing(i, draft)).collect();
        let chains = plan(messages, ordered, LIMITS);
        // Neighbours: requests of a chain, or chains of messages that have no order.
        let neighbours = |left: &Request, right: &Request| {
            let full = left.len() == LIMITS.messages;
            let bytes: usize = left.iter().map(|message| message.size).sum();
            let heavy = envelope_size(&left[0].topic) + bytes + right[0].size > LIMITS.bytes;
            full || heavy || !left[0].goes_with(&right[0])
        };
        for chain in &chains {
            for (left, right) in chain.requests.iter().zip(chain.requests.iter().skip(1)) {
                prop_assert!(neighbours(left, right), "two requests could have been one");
            }
        }
        let free: Vec<&Chain> = chains.iter().filter(|chain| !chain.ordered).collect();
        for (left, right) in free.iter().zip(free.iter().skip(1)) {
            prop_assert!(neighbours(&left.requests[0], &right.requests[0]), "two requests could have been one");
        }
    }
}
