//! How a batch becomes requests: which messages go together, and which requests wait for which.

use std::collections::{HashMap, VecDeque};

use crate::outgoing::Outgoing;
use crate::wire::envelope_size;

/// What one request may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    /// Of the whole request, as it is on the wire.
    pub(crate) bytes: usize,
}

/// Messages that go in one request.
pub(crate) type Request = Vec<Outgoing>;

/// Requests that go one after the other.
#[derive(Debug, PartialEq)]
pub(crate) struct Chain {
    pub(crate) requests: VecDeque<Request>,
    /// Whether they hold messages of one key, of which none may be sent once one has failed.
    pub(crate) ordered: bool,
}

#[derive(PartialEq, Eq, Hash)]
enum Together<'a> {
    Key(&'a str),
    Unordered { topic: &'a str, ordering_key: &'a str },
}

/// Sorts messages into chains. With `ordered`, all messages of a key are in one chain, in their order.
///
/// Messages without a key are in chains of one request each, for which there is no order to keep.
pub(crate) fn plan(messages: Vec<Outgoing>, ordered: bool, limits: Limits) -> Vec<Chain> {
    let mut places = HashMap::new();
    let groups: Vec<usize> = messages
        .iter()
        .map(|message| {
            let together = match message.key.as_deref().filter(|_| ordered) {
                Some(key) => Together::Key(key),
                None => {
                    Together::Unordered { topic: &message.topic, ordering_key: &message.message.ordering_key }
                }
            };
            let next = places.len();
            *places.entry(together).or_insert(next)
        })
        .collect();
    let mut sorted: Vec<Vec<Outgoing>> = (0..places.len()).map(|_| Vec::new()).collect();
    drop(places);
    for (message, group) in messages.into_iter().zip(groups) {
        sorted[group].push(message);
    }
    let mut chains = Vec::new();
    for group in sorted {
        let ordered = ordered && group.first().is_some_and(|message| message.key.is_some());
        let requests = cut(group, limits);
        if ordered {
            chains.push(Chain { requests, ordered });
        } else {
            chains.extend(requests.into_iter().map(|one| Chain { requests: [one].into(), ordered }));
        }
    }
    chains
}

/// Cuts messages into requests, each as full as the limits and the next message allow.
fn cut(messages: Vec<Outgoing>, limits: Limits) -> VecDeque<Request> {
    let mut requests: VecDeque<Request> = VecDeque::new();
    let mut bytes = 0;
    for message in messages {
        match requests.back_mut() {
            Some(request)
                if request.len() < limits.messages
                    && bytes + message.size <= limits.bytes
                    && request.last().is_some_and(|last| last.goes_with(&message)) =>
            {
                bytes += message.size;
                request.push(message);
            }
            _ => {
                bytes = envelope_size(&message.topic) + message.size;
                requests.push_back(vec![message]);
            }
        }
    }
    requests
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
