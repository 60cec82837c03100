//! One publish call: its requests, several at a time, until something says that further ones are of no use.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder as Overrides;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::operation::send_message_batch::{SendMessageBatchError, SendMessageBatchOutput};
use outbox_aws::{Transmission, sdk_error};
use outbox_core::{Error, ErrorKind, Outcome, Scope};
use tokio::time::Instant;

use crate::outgoing::Outgoing;
use crate::routing::Queue;
use crate::verdict;

/// What the requests of one call share.
pub(crate) struct Call<'a> {
    pub(crate) client: &'a Client,
    /// Turns retries off, whatever the client does by itself.
    pub(crate) overrides: &'a Overrides,
    pub(crate) deadline: Instant,
    stop: Mutex<Option<Stop>>,
}

/// Why no further request of the call is begun.
#[derive(Clone, Copy)]
struct Stop {
    kind: ErrorKind,
    retry_after: Option<Duration>,
}

/// Some messages to one queue, few enough for a request.
pub(crate) struct Request<'a> {
    pub(crate) queue: &'a Queue,
    pub(crate) url: &'a str,
    pub(crate) messages: &'a [Outgoing],
}

impl<'a> Call<'a> {
    pub(crate) fn new(client: &'a Client, overrides: &'a Overrides, deadline: Instant) -> Self {
        Self { client, overrides, deadline, stop: Mutex::default() }
    }

    /// Sends a request, and gives an outcome to each of its messages.
    pub(crate) async fn run(&self, request: &Request<'_>) -> Vec<Outcome> {
        let failure = match self.send(request).await {
            Ok(answer) => return located(verdict::outcomes(&answer, request.messages.len()), request.queue),
            Err(failure) => failure,
        };
        let error = failure.to_error();
        // Of several messages a single one may be to blame. The service has told that it took none of them.
        let one_of_them = error.scope() == Scope::Message && error.kind() != ErrorKind::NotFound;
        if one_of_them && request.messages.len() > 1 {
            return self.run_one_by_one(request).await;
        }
        located(request.messages.iter().map(|_| Err(failure.to_error())).collect(), request.queue)
    }

    async fn run_one_by_one(&self, request: &Request<'_>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(request.messages.len());
        for message in request.messages {
            let alone = Request { messages: std::slice::from_ref(message), ..*request };
            let outcome = match self.send(&alone).await {
                Ok(answer) => verdict::outcomes(&answer, 1),
                Err(failure) => vec![Err(failure.to_error())],
            };
            outcomes.extend(located(outcome, request.queue));
        }
        outcomes
    }

    async fn send(&self, request: &Request<'_>) -> Result<SendMessageBatchOutput, Failure> {
        if let Some(stop) = *self.lock() {
            return Err(Failure::NotBegun(stop));
        }
        if Instant::now() >= self.deadline {
            return Err(Failure::NotBegun(Stop { kind: ErrorKind::Unavailable, retry_after: None }));
        }
        let entries = request.messages.iter().enumerate().map(|(place, message)| message.at(place)).collect();
        let transmission = Transmission::new();
        let sending = self
            .client
            .send_message_batch()
            .queue_url(request.url)
            .set_entries(Some(entries))
            .customize()
            .config_override(self.overrides.clone())
            .interceptor(transmission.clone())
            .send();
        let failure = match tokio::time::timeout_at(self.deadline, sending).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::Sdk(Box::new(error), transmission),
            Err(_) => Failure::Late(transmission),
        };
        let error = failure.to_error();
        if error.scope() == Scope::Endpoint {
            *self.lock() = Some(Stop { kind: error.kind(), retry_after: error.retry_after() });
        }
        Err(failure)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Stop>> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to errors which queue they are about.
fn located(mut outcomes: Vec<Outcome>, queue: &Queue) -> Vec<Outcome> {
    for outcome in &mut outcomes {
        let taken = std::mem::replace(outcome, Ok(()));
        *outcome = taken.map_err(|error| error.with("queue", queue.as_str()));
    }
    outcomes
}

/// Why a request has no answer that could be read.
enum Failure {
    Sdk(Box<SdkError<SendMessageBatchError, HttpResponse>>, Transmission),
    Late(Transmission),
    NotBegun(Stop),
}

impl Failure {
    fn to_error(&self) -> Error {
        match self {
            Self::Sdk(error, transmission) => sdk_error(error, transmission),
            Self::Late(transmission) if transmission.has_begun() => {
                Error::new(ErrorKind::Timeout, "the service did not answer in time")
            }
            Self::Late(_) => Error::new(
                ErrorKind::Unavailable,
                "the message was not sent: there were no credentials or no endpoint in time",
            ),
            Self::NotBegun(stop) => stop.to_error(),
        }
    }
}

impl Stop {
    fn to_error(self) -> Error {
        let text =
            "the message was not sent, because another request of its call has failed or time was over";
        // What is unknown of the other one is known of this.
        let kind = match self.kind {
            ErrorKind::Throttled | ErrorKind::Permission => self.kind,
            _ => ErrorKind::Unavailable,
        };
        let error = Error::new(kind, text);
        match self.retry_after {
            Some(after) => error.with_retry_after(after),
            None => error,
        }
    }
}
