//! One `publish` call: what its requests have in common, and how each is run.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use http::uri::PathAndQuery;
use outbox_core::{ErrorKind, Outcome};
use tokio::time::{Instant, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request as GrpcRequest};
use tracing::debug;

use crate::link::{Lease, Link};
use crate::outgoing::Outgoing;
use crate::plan::{Chain, Request};
use crate::verdict::Failure;
use crate::wire::{MarkingCodec, PUBLISH, PublishRequest};

/// Routes the request within Google: <https://google.aip.dev/client-libraries/4222>.
pub(crate) const ROUTING: &str = "x-goog-request-params";

pub(crate) struct Call<'a> {
    link: &'a Link,
    lease: Lease,
    /// What shows who we are.
    headers: MetadataMap,
    deadline: Instant,
    /// Set when no further request is to be begun.
    ended: Mutex<Option<ErrorKind>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(link: &'a Link, headers: MetadataMap, deadline: Instant) -> Self {
        Self { link, lease: link.lease(), headers, deadline, ended: Mutex::new(None) }
    }

    /// Runs the requests of a chain one after the other, and gives the outcome of each message with its place.
    pub(crate) async fn run(&self, chain: Chain) -> Vec<(usize, Outcome)> {
        let Chain { mut requests, ordered } = chain;
        let mut outcomes = Vec::new();
        while let Some(request) = requests.pop_front() {
            let Err(failure) = self.send(&request).await else {
                outcomes.extend(request.iter().map(|message| (message.index, Ok(()))));
                continue;
            };
            if failure.is_about_content() && request.len() > 1 {
                // Nothing of it was taken, so its halves may be sent in its place, until who is to blame is alone.
                let (first, second) = halves(request);
                requests.push_front(second);
                requests.push_front(first);
                continue;
            }
            debug!(?failure, messages = request.len(), "a publish request failed");
            fail(&mut outcomes, &request, &failure);
            if let Some(kind) = failure.ends_the_call() {
                self.end(kind);
                fail_all(&mut outcomes, &requests, &Failure::GaveUp(kind));
                break;
            }
            if ordered {
                fail_all(&mut outcomes, &requests, &Failure::Behind);
                break;
            }
        }
        outcomes
    }

    async fn send(&self, messages: &Request) -> Result<(), Failure> {
        if let Some(kind) = *self.ended.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Failure::GaveUp(kind));
        }
        let codec = MarkingCodec::default();
        let answer = timeout_at(self.deadline, self.exchange(messages, codec.clone())).await;
        let late = Failure::Late { begun: codec.has_begun() };
        let answer = match answer {
            Ok(Ok(confirmed)) if confirmed == messages.len() => return Ok(()),
            Ok(Ok(confirmed)) => Failure::Miscounted { sent: messages.len(), confirmed },
            Ok(Err(_)) | Err(_) if Instant::now() >= self.deadline => late,
            Ok(Err(status)) => Failure::of(status, codec.has_begun()),
            Err(_) => late,
        };
        if answer.is_silence() {
            self.link.retire(&self.lease);
        }
        Err(answer)
    }

    /// How many messages the service has confirmed.
    async fn exchange(&self, messages: &Request, codec: MarkingCodec) -> Result<usize, tonic::Status> {
        let topic = messages.first().map(|message| message.topic.clone()).unwrap_or_default();
        let mut headers = self.headers.clone();
        if let Ok(value) = MetadataValue::try_from(format!("topic={}", encoded(&topic))) {
            headers.insert(ROUTING, value);
        }
        let messages = messages.iter().map(|outgoing| outgoing.message.clone()).collect();
        let body = PublishRequest { topic, messages };
        let mut request = GrpcRequest::from_parts(headers, Extensions::default(), body);
        // The service need not go on when nobody waits for it any more.
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        let mut client = Grpc::new(self.lease.channel.clone());
        client.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
        let response = client.unary(request, PathAndQuery::from_static(PUBLISH), codec).await?;
        Ok(response.into_inner().message_ids.len())
    }

    fn end(&self, kind: ErrorKind) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(kind);
    }
}

fn halves(mut request: Request) -> (Request, Request) {
    let second = request.split_off(request.len().div_ceil(2));
    (request, second)
}

fn fail(outcomes: &mut Vec<(usize, Outcome)>, messages: &[Outgoing], failure: &Failure) {
    outcomes.extend(messages.iter().map(|message| {
        let error = failure.to_error();
        (message.index, Err(error.with("topic", &message.topic)))
    }));
}

fn fail_all(outcomes: &mut Vec<(usize, Outcome)>, requests: &VecDeque<Request>, failure: &Failure) {
    requests.iter().for_each(|request| fail(outcomes, request, failure));
}

/// For use in a query: what a name of a topic may have beyond letters, digits, `-`, `_`, `.` and `~` is escaped.
pub(crate) fn encoded(topic: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    topic.bytes().fold(String::with_capacity(topic.len() + 8), |mut text, byte| {
        if plain(byte) {
            text.push(char::from(byte))
        } else {
            text.push_str(&format!("%{byte:02X}"))
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_topics_are_escaped_for_the_query() {
        assert_eq!(encoded("projects/p-1/topics/a.b_c~d+e%f"), "projects%2Fp-1%2Ftopics%2Fa.b_c~d%2Be%25f");
    }
}
