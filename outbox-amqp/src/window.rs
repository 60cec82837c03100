//! One window: messages sent on one channel, and the broker's answers to them.
//!
//! The broker returns an unroutable message before it confirms it. The client library attaches a returned message to
//! whichever confirm completes next, which may be another message's. So no outcome is given before all confirms are
//! in, and a returned message is recognised by its message id. Ids are unique within a window.

use std::collections::{HashMap, HashSet};
use std::pin::pin;

use futures_util::poll;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::{Confirmation, PublisherConfirm};
use outbox_core::{Error, ErrorKind, Outcome, Verdict};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::error::{Stage, is_complaint, judge};
use crate::link::Lease;
use crate::outgoing::Outgoing;

/// What came of a window.
pub(crate) struct Answers {
    /// One outcome for each message, in their order.
    pub(crate) outcomes: Vec<Outcome>,
    /// The broker's complaint about something in the window, if it closed the channel or the connection over one.
    pub(crate) complaint: Option<Complaint>,
}

/// The broker closed the channel or the connection over something in the window.
pub(crate) struct Complaint {
    pub(crate) error: lapin::Error,
    /// The messages it can have meant, by their place in the window.
    pub(crate) suspects: Vec<usize>,
}

/// How far a message came.
enum Sent {
    /// Waiting for its confirm.
    Waiting(PublisherConfirm),
    Answered(Confirmation),
    /// It was handed over, and then its channel ended.
    Lost(lapin::Error),
    /// It was handed over, and could not be written in time.
    Stuck,
    /// It was written, and nothing came back in time.
    Late,
}

/// Why messages were not handed over.
enum Unsent {
    Failed(lapin::Error),
    Blocked(String),
    Late,
}

/// Sends the messages and waits for all answers, at most until the deadline.
///
/// # Cancel safety
/// Dropped, it leaves the lease to close the channel, and to cut the connection if a message is half written.
pub(crate) async fn run(mut lease: Lease, window: Vec<Outgoing<'_>>, deadline: Instant) -> Answers {
    let routes: Vec<(String, String)> =
        window.iter().map(|message| (message.exchange.name.clone(), message.routing_key.clone())).collect();
    let ids: Vec<String> = window.iter().map(|message| message.id.to_string()).collect();

    let (mut sent, unsent) = send(&mut lease, window, deadline).await;
    collect(&mut sent, deadline).await;
    cut_if_silent(&lease, &sent);
    let answers = Verdicts { ids: &ids, routes: &routes }.give(sent, unsent);
    if answers.clean {
        lease.give_back();
    }
    Answers { outcomes: answers.outcomes, complaint: answers.complaint }
}

/// Gives the connection up if the broker owes answers and has no excuse.
///
/// To close the channel would not do: what the broker has not read yet must not be published later, and a connection
/// that does not answer must not be used again. Only where the broker has said that it is blocked, and all is written,
/// the connection is kept, for on it we learn when the alarm is over; a new one would learn of the alarm only by
/// another message whose outcome is unknown.
fn cut_if_silent(lease: &Lease, sent: &[Sent]) {
    let stuck = sent.iter().any(|sent| matches!(sent, Sent::Stuck));
    let late = sent.iter().filter(|sent| matches!(sent, Sent::Stuck | Sent::Late)).count();
    if stuck || (late > 0 && lease.link().blocked().is_none()) {
        warn!(messages = late, "no answer in time, cutting the connection");
        lease.link().cut();
    }
}

/// Hands the messages over one by one, until one cannot be.
async fn send(
    lease: &mut Lease,
    window: Vec<Outgoing<'_>>,
    deadline: Instant,
) -> (Vec<Sent>, Option<Unsent>) {
    let mut sent = Vec::with_capacity(window.len());
    let Some(channel) = lease.channel().cloned() else { return (sent, Some(Unsent::Late)) };
    for message in window {
        if let Some(reason) = lease.link().blocked() {
            return (sent, Some(Unsent::Blocked(reason)));
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut publish = pin!(channel.basic_publish(
            message.exchange.name.as_str().into(),
            message.routing_key.as_str().into(),
            options,
            message.payload,
            message.properties,
        ));
        // The first look either queues the whole message or finds that nothing can be sent any more.
        let written = match poll!(&mut publish) {
            std::task::Poll::Ready(Err(error)) => return (sent, Some(Unsent::Failed(error))),
            std::task::Poll::Ready(Ok(confirm)) => Ok(Ok(confirm)),
            std::task::Poll::Pending => {
                lease.set_writing(true);
                let written = timeout_at(deadline, publish).await;
                lease.set_writing(false);
                written
            }
        };
        match written {
            Ok(Ok(confirm)) => sent.push(Sent::Waiting(confirm)),
            Ok(Err(error)) => {
                sent.push(Sent::Lost(error.clone()));
                return (sent, Some(Unsent::Failed(error)));
            }
            Err(_) => {
                sent.push(Sent::Stuck);
                let unsent = lease.link().blocked().map_or(Unsent::Late, Unsent::Blocked);
                return (sent, Some(unsent));
            }
        }
    }
    (sent, None)
}

/// Waits for the confirms. In turn is as good as any order: every one of them is waited for.
async fn collect(sent: &mut [Sent], deadline: Instant) {
    for sent in sent {
        if let Sent::Waiting(confirm) = sent {
            *sent = match timeout_at(deadline, confirm).await {
                Ok(Ok(confirmation)) => Sent::Answered(confirmation),
                Ok(Err(error)) => Sent::Lost(error),
                Err(_) => Sent::Late,
            };
        }
    }
}

/// Turns answers into outcomes.
struct Verdicts<'a> {
    ids: &'a [String],
    routes: &'a [(String, String)],
}

struct Given {
    outcomes: Vec<Outcome>,
    complaint: Option<Complaint>,
    /// Every message was sent and answered, so the channel can be used again.
    clean: bool,
}

/// The broker's reason for returning a message.
type Return = (u16, String);

impl Verdicts<'_> {
    fn give(&self, mut sent: Vec<Sent>, unsent: Option<Unsent>) -> Given {
        let returns = self.returns(&mut sent);
        let complete = sent.iter().all(|sent| matches!(sent, Sent::Answered(_)));
        let suspects: Vec<usize> =
            (0..sent.len()).filter(|place| !matches!(sent[*place], Sent::Answered(_))).collect();
        let alone = suspects.len() == 1;
        let complaint = sent
            .iter()
            .find_map(|sent| match sent {
                Sent::Lost(error) if is_complaint(error) => Some(error.clone()),
                _ => None,
            })
            .map(|error| Complaint { error, suspects });

        let mut outcomes: Vec<Outcome> = Vec::with_capacity(self.ids.len());
        for (place, sent) in sent.into_iter().enumerate() {
            let outcome = match sent {
                Sent::Answered(confirmation) => self.answered(place, &confirmation, &returns, complete),
                Sent::Lost(error) => Err(judge(&error, if alone { Stage::Alone } else { Stage::After })),
                Sent::Stuck | Sent::Late | Sent::Waiting(_) => {
                    Err(Error::new(ErrorKind::Timeout, "the broker did not confirm in time"))
                }
            };
            outcomes.push(outcome.map_err(|error| self.route(place, error)));
        }
        let clean = complete && returns.trusted && unsent.is_none();
        if let Some(unsent) = unsent {
            for place in outcomes.len()..self.ids.len() {
                outcomes.push(Err(self.route(place, not_sent(&unsent))));
            }
        }
        Given { outcomes, complaint, clean }
    }

    /// Takes the returned messages out of the confirms they happen to sit on.
    fn returns(&self, sent: &mut [Sent]) -> Returns {
        let known: HashSet<&str> = self.ids.iter().map(String::as_str).collect();
        let mut returns = Returns { by_id: HashMap::new(), carriers: HashSet::new(), trusted: true };
        for (place, sent) in sent.iter_mut().enumerate() {
            let Sent::Answered(Confirmation::Ack(carried) | Confirmation::Nack(carried)) = sent else {
                continue;
            };
            let Some(returned) = carried.take() else { continue };
            match id(&returned).filter(|id| known.contains(id)) {
                Some(id) => {
                    let reason = (returned.reply_code, returned.reply_text.to_string());
                    returns.carriers.insert(place);
                    returns.by_id.insert(id.to_owned(), reason);
                }
                None => {
                    warn!(id = id(&returned), "the broker returned a message which is not of this window");
                    returns.trusted = false;
                }
            }
        }
        returns
    }

    fn answered(
        &self,
        place: usize,
        confirmation: &Confirmation,
        returns: &Returns,
        complete: bool,
    ) -> Outcome {
        if let Some((code, text)) = returns.by_id.get(&self.ids[place]) {
            return Err(Error::new(
                ErrorKind::Unroutable,
                "the exchange has no queue for this routing key; bind one, or correct the routing",
            )
            .with("reply", format_args!("{code} {text}")));
        }
        match confirmation {
            Confirmation::Nack(_) => {
                Err(Error::new(ErrorKind::Rejected, "the broker could not take the message (nack)"))
            }
            Confirmation::NotRequested => Err(Error::new(
                ErrorKind::Internal,
                "the channel gives no confirms, so nobody knows whether the broker has the message",
            )
            .with_verdict(Verdict::Unknown)),
            // In a window cut short, this message's own return may have been waiting behind the one that took its
            // place on this confirm.
            Confirmation::Ack(_) if !complete && returns.carriers.contains(&place) => Err(Error::new(
                ErrorKind::Interrupted,
                "the channel ended before it was clear whether the message was routed",
            )),
            Confirmation::Ack(_) if !returns.trusted => Err(Error::new(
                ErrorKind::Internal,
                "the broker returned a message without its id, which may have been this one",
            )
            .with_verdict(Verdict::Unknown)),
            Confirmation::Ack(_) => Ok(()),
        }
    }

    fn route(&self, place: usize, error: Error) -> Error {
        let (exchange, key) = &self.routes[place];
        error.with("exchange", exchange).with("routing_key", key)
    }
}

struct Returns {
    by_id: HashMap<String, Return>,
    /// The places of the messages on whose confirms they sat.
    carriers: HashSet<usize>,
    /// Whether each returned message could be assigned.
    trusted: bool,
}

fn id(returned: &BasicReturnMessage) -> Option<&str> {
    returned.properties.message_id().as_ref().map(|id| id.as_str())
}

fn not_sent(unsent: &Unsent) -> Error {
    match unsent {
        Unsent::Failed(error) => judge(error, Stage::Before),
        Unsent::Blocked(reason) => blocked(reason),
        Unsent::Late => Error::new(
            ErrorKind::Unavailable,
            "the message was not sent: the broker did not read earlier ones in time",
        ),
    }
}

/// The broker takes no messages for now.
pub(crate) fn blocked(reason: &str) -> Error {
    let error = Error::new(
        ErrorKind::Throttled,
        "the broker has a resource alarm and takes no messages; free memory or disk space on it",
    );
    if reason.is_empty() { error } else { error.with("alarm", reason) }
}
