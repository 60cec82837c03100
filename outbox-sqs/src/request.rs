//! The requests of one publish call.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder as Overrides;
use aws_sdk_sqs::operation::send_message_batch::{SendMessageBatchError, SendMessageBatchOutput};
use outbox_aws::{Call, Failure};
use outbox_core::Outcome;

use crate::outgoing::Outgoing;
use crate::queue::Queue;
use crate::verdict;

/// What the requests of one call share.
pub(crate) struct Requests<'a> {
    pub(crate) client: &'a Client,
    /// Turns retries off, whatever the client does by itself.
    pub(crate) overrides: &'a Overrides,
    pub(crate) call: Call,
}

/// Some messages to one queue, few enough for a request.
pub(crate) struct Request<'a> {
    pub(crate) queue: &'a Queue,
    pub(crate) url: &'a str,
    pub(crate) messages: &'a [Outgoing],
}

impl Requests<'_> {
    /// Sends a request, and gives an outcome to each of its messages.
    pub(crate) async fn run(&self, request: &Request<'_>) -> Vec<Outcome> {
        let failure = match self.send(request).await {
            Ok(answer) => return located(verdict::outcomes(&answer, request.messages.len()), request.queue),
            Err(failure) => failure,
        };
        // Of several messages a single one may be to blame. The service has told that it took none of them.
        if failure.may_be_one_of_them() && request.messages.len() > 1 {
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

    async fn send(
        &self,
        request: &Request<'_>,
    ) -> Result<SendMessageBatchOutput, Failure<SendMessageBatchError>> {
        let entries = request.messages.iter().enumerate().map(|(place, message)| message.at(place)).collect();
        let sent = self.call.send(|transmission| {
            self.client
                .send_message_batch()
                .queue_url(request.url)
                .set_entries(Some(entries))
                .customize()
                .config_override(self.overrides.clone())
                .interceptor(transmission)
                .send()
        });
        sent.await
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
