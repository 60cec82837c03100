//! One `publish` call: what its requests have in common, and how each is made.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use http::Uri;
use outbox_core::{ErrorKind, Outcome};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::answer::Answer;
use crate::client::Http;
use crate::destination::{Concern, Reach};
use crate::outgoing::Outgoing;
use crate::signature;
use crate::verdict::Failure;

/// Messages whose requests follow one another, and stop at the first failure: those of a key.
pub(crate) type Chain = VecDeque<Outgoing>;

pub(crate) struct Call {
    client: Http,
    reach: Reach,
    deadline: Instant,
    /// URLs to which no further request is begun, with the reason.
    ended: Mutex<HashMap<Uri, (ErrorKind, Concern)>>,
}

impl Call {
    pub(crate) fn new(client: Http, reach: Reach, deadline: Instant) -> Self {
        Self { client, reach, deadline, ended: Mutex::default() }
    }

    /// Makes the requests of a chain one after the other. Returns the outcome of each message with its place.
    pub(crate) async fn run(&self, mut chain: Chain) -> Vec<(usize, Outcome)> {
        let mut outcomes = Vec::with_capacity(chain.len());
        while let Some(message) = chain.pop_front() {
            let Err(failure) = self.send(&message).await else {
                outcomes.push((message.index, Ok(())));
                continue;
            };
            debug!(?failure, endpoint = message.destination.name, "a request failed");
            outcomes.push(self.outcome(&message, &failure));
            let ended = failure.ends_the_destination();
            if let Some(reason) = ended {
                self.end(&message.destination.uri, reason);
            }
            let rest = ended.map_or(Failure::Behind, |(kind, concern)| Failure::GaveUp(kind, concern));
            outcomes.extend(chain.iter().map(|message| self.outcome(message, &rest)));
            break;
        }
        outcomes
    }

    async fn send(&self, message: &Outgoing) -> Result<(), Failure> {
        let destination = &message.destination;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).get(&destination.uri).copied();
        if let Some((kind, concern)) = ended {
            return Err(Failure::GaveUp(kind, concern));
        }
        if Instant::now() >= self.deadline {
            return Err(Failure::NotBegun);
        }
        let request = message.request(signature::now()).map_err(Failure::Impossible)?;
        let response = match timeout_at(self.deadline, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::of(error)),
            Err(_) => return Err(Failure::Late),
        };
        let answer = Answer::read(response, destination, self.deadline).await;
        if answer.status.is_success() { Ok(()) } else { Err(Failure::Answered(answer)) }
    }

    fn outcome(&self, message: &Outgoing, failure: &Failure) -> (usize, Outcome) {
        let error = failure.to_error(self.reach).with("endpoint", &message.destination.name);
        (message.index, Err(error))
    }

    fn end(&self, destination: &Uri, reason: (ErrorKind, Concern)) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.entry(destination.clone()).or_insert(reason);
    }
}
