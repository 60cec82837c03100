//! The messages of one publish call on one connection.

use async_nats::client::RequestErrorKind;
use async_nats::{Client, Request};
use futures_util::StreamExt as _;
use outbox_core::{Error, Outcome};
use tokio::time::Instant;

use crate::answer::{Answer, acknowledgement};
use crate::connection::{Connection, silence_of};
use crate::missing::Reasons;
use crate::outgoing::Outgoing;
use crate::verdict::{self, Silence};

/// Messages of a call that wait for their acknowledgement at the same time. The client library keeps 128 errors of the server
/// until they are read, and drops more of them; each message can cause one.
const IN_FLIGHT: usize = 100;

/// What the messages of one call share.
struct Call<'a> {
    connection: &'a Connection,
    reasons: Reasons,
    deadline: Instant,
}

/// Sends messages and waits until each has its outcome. Returns the outcomes with their places in the batch, and whether the
/// connection may be used again.
pub(crate) async fn run(
    connection: &Connection,
    messages: Vec<Outgoing>,
    deadline: Instant,
) -> (Vec<(usize, Outcome)>, bool) {
    let call = Call { connection, reasons: Reasons::default(), deadline };
    let call = &call;
    let version = unable_to_delete(&connection.client);
    let version = version.as_deref();
    // Made ahead, and begun by being polled: a stream of closures would not be `Send`.
    let all: Vec<_> = messages
        .into_iter()
        .map(|message| async move {
            let index = message.index;
            match version {
                Some(version) if message.has_ttl => (index, Err(verdict::no_ttl(version)), false),
                _ => {
                    let (outcome, pending) = call.send(message).await;
                    (index, outcome, pending)
                }
            }
        })
        .collect();
    let mut outcomes = Vec::with_capacity(all.len());
    let mut pending = false;
    let mut running = futures_util::stream::iter(all).buffer_unordered(IN_FLIGHT);
    while let Some((index, outcome, waits)) = running.next().await {
        outcomes.push((index, outcome));
        pending |= waits;
    }
    (outcomes, !pending && connection.is_usable())
}

/// The version of a server that ignores the TTL of a message.
fn unable_to_delete(client: &Client) -> Option<String> {
    (!client.is_server_compatible(2, 11, 0)).then(|| client.server_info().version)
}

impl Call<'_> {
    /// Sends a message. Returns its outcome, and whether its answer may still arrive.
    async fn send(&self, message: Outgoing) -> (Outcome, bool) {
        let Outgoing { subject, headers, payload, .. } = message;
        let failed = |error: Error, subject: &str| Err(error.with("subject", subject));
        let mut signs = self.connection.signs();
        let before = if signs.borrow().closed {
            Some(Silence::ClosedBefore)
        } else {
            (Instant::now() >= self.deadline).then_some(Silence::NotSent)
        };
        if let Some(silence) = before {
            return (failed(verdict::silence(silence), &subject), false);
        }

        let request = Request::new().headers(headers).payload(payload).timeout(None);
        let answered = tokio::select! {
            biased;
            answer = self.connection.client.send_request(subject.clone(), request) => answer,
            silence = silence_of(&mut signs, &subject) => {
                return (failed(verdict::silence(silence), &subject), true);
            }
            () = tokio::time::sleep_until(self.deadline) => {
                return (failed(verdict::silence(Silence::Late), &subject), true);
            }
        };
        let outcome = match answered {
            Ok(answer) => match acknowledgement(&answer.payload) {
                Answer::Stored => Ok(()),
                Answer::Refused(refusal) => failed(verdict::refused(&refusal), &subject),
                Answer::NotUnderstood => failed(verdict::not_understood(), &subject),
            },
            Err(error) => match error.kind() {
                RequestErrorKind::NoResponders => {
                    let missing = self.reasons.of(self.connection, &subject, self.deadline).await;
                    failed(verdict::missing(&missing), &subject)
                }
                RequestErrorKind::MaxPayloadExceeded => {
                    failed(verdict::silence(Silence::TooLarge).with_source(error), &subject)
                }
                // Checked before, so the library and this crate differ over what a subject is.
                RequestErrorKind::InvalidSubject => failed(
                    Error::malformed("the client library refuses the subject").with_source(error),
                    &subject,
                ),
                // The request has no time limit.
                RequestErrorKind::TimedOut => {
                    return (failed(verdict::silence(Silence::Late), &subject), true);
                }
                RequestErrorKind::Other => {
                    return (failed(verdict::silence(Silence::Closed).with_source(error), &subject), true);
                }
            },
        };
        (outcome, false)
    }
}
