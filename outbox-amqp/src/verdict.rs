//! From the broker's answers to outcomes.
//!
//! The broker returns an unroutable message before it confirms it. The client library attaches a returned message to
//! whichever confirm completes next, which may be another message's. So no outcome is given before all confirms are
//! in, and a returned message is recognised by its message id. Ids are unique within a window.

use std::collections::{HashMap, HashSet};

use lapin::{Confirmation, PublisherConfirm};
use outbox_core::{Error, ErrorKind, Outcome, Verdict};
use tracing::warn;

use crate::error::{Closed, Stage, closed, judge};

/// What came of a window.
pub(crate) struct Answers {
    /// One outcome for each message, in their order.
    pub(crate) outcomes: Vec<Outcome>,
    /// The broker's complaint about something in the window, if it closed the channel or the connection over one.
    pub(crate) complaint: Option<Complaint>,
    /// Every message was sent and answered, so the channel can be used again.
    pub(crate) clean: bool,
}

/// The broker closed the channel or the connection over something that it was sent.
pub(crate) struct Complaint {
    pub(crate) error: lapin::Error,
    pub(crate) closed: Closed,
    /// The messages it can have meant, by their place in the window.
    pub(crate) suspects: Vec<usize>,
    /// How many messages were handed over. The broker has nothing of those after them.
    pub(crate) sent: usize,
}

/// How far a message came.
pub(crate) enum Sent {
    /// Waiting for its confirm.
    Waiting(PublisherConfirm),
    /// Confirmed or not, with the returned message that happened to be there.
    Answered(Answer, Option<Returned>),
    /// It was handed over, and then its channel ended.
    Lost(lapin::Error),
    /// It was handed over, and could not be written in time.
    Stuck,
    /// It was written, and nothing came back in time.
    Late,
}

/// The broker's answer to one message.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Ack,
    Nack,
    /// The channel gives no confirms.
    None,
}

/// A returned message that sat on some message's confirm. Its payload is not kept.
pub(crate) struct Returned {
    id: Option<String>,
    reason: String,
}

impl From<Confirmation> for Sent {
    fn from(confirmation: Confirmation) -> Self {
        let answer = match &confirmation {
            Confirmation::Ack(_) => Answer::Ack,
            Confirmation::Nack(_) => Answer::Nack,
            Confirmation::NotRequested => Answer::None,
        };
        let returned = confirmation.take_message().map(|message| Returned {
            id: message.properties.message_id().as_ref().map(ToString::to_string),
            reason: format!("{} {}", message.reply_code, message.reply_text),
        });
        Self::Answered(answer, returned)
    }
}

/// Why messages were not handed over.
pub(crate) enum Unsent {
    Failed(lapin::Error),
    Blocked(String),
    Late,
}

/// Turns answers into outcomes.
pub(crate) struct Verdicts<'a> {
    /// The ids of all messages of the window.
    pub(crate) ids: &'a [String],
    /// Their exchanges and routing keys.
    pub(crate) routes: &'a [(String, String)],
    /// What to judge by if the broker can have meant one message only.
    pub(crate) alone: Stage,
}

impl Verdicts<'_> {
    /// Judges all messages at once. `unsent` is the reason for which those after the last of `sent` were not sent.
    pub(crate) fn give(&self, mut sent: Vec<Sent>, unsent: Option<Unsent>) -> Answers {
        let returns = self.returns(&mut sent);
        let complete = sent.iter().all(|sent| matches!(sent, Sent::Answered(..)));
        let suspects: Vec<usize> =
            (0..sent.len()).filter(|place| !matches!(sent[*place], Sent::Answered(..))).collect();
        let alone = suspects.len() == 1;
        let complaint = sent
            .iter()
            .find_map(|sent| match sent {
                Sent::Lost(error) => Some((error.clone(), closed(error)?)),
                _ => None,
            })
            .map(|(error, closed)| Complaint { error, closed, suspects, sent: sent.len() });

        let mut outcomes: Vec<Outcome> = Vec::with_capacity(self.ids.len());
        for (place, sent) in sent.into_iter().enumerate() {
            let returned = returns.by_id.get(&self.ids[place]);
            let outcome = match (returned, sent) {
                (Some(reason), _) => Err(unroutable(reason)),
                (None, Sent::Answered(answer, _)) => self.answered(place, answer, &returns, complete),
                (None, Sent::Lost(error)) => {
                    Err(judge(&error, if alone { self.alone } else { Stage::After }))
                }
                (None, Sent::Stuck | Sent::Late | Sent::Waiting(_)) => {
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
        Answers { outcomes, complaint, clean }
    }

    /// Takes the returned messages out of the confirms they happen to sit on.
    fn returns(&self, sent: &mut [Sent]) -> Returns {
        let known: HashSet<&str> = self.ids.iter().map(String::as_str).collect();
        let mut returns = Returns { by_id: HashMap::new(), carriers: HashSet::new(), trusted: true };
        for (place, sent) in sent.iter_mut().enumerate() {
            let Sent::Answered(_, Some(returned)) = sent else { continue };
            match returned.id.take().filter(|id| known.contains(id.as_str())) {
                Some(id) => {
                    returns.carriers.insert(place);
                    returns.by_id.insert(id, std::mem::take(&mut returned.reason));
                }
                None => {
                    warn!("the broker returned a message which is not of this window");
                    returns.trusted = false;
                }
            }
        }
        returns
    }

    fn answered(&self, place: usize, answer: Answer, returns: &Returns, complete: bool) -> Outcome {
        match answer {
            Answer::Nack => {
                Err(Error::new(ErrorKind::Rejected, "the broker could not take the message (nack)"))
            }
            Answer::None => Err(Error::new(
                ErrorKind::Internal,
                "the channel gives no confirms, so nobody knows whether the broker has the message",
            )
            .with_verdict(Verdict::Unknown)),
            // In a window cut short, this message's own return may have been waiting behind the one that took its
            // place on this confirm.
            Answer::Ack if !complete && returns.carriers.contains(&place) => Err(Error::new(
                ErrorKind::Interrupted,
                "the channel ended before it was clear whether the message was routed",
            )),
            Answer::Ack if !returns.trusted => Err(Error::new(
                ErrorKind::Internal,
                "the broker returned a message without its id, which may have been this one",
            )
            .with_verdict(Verdict::Unknown)),
            Answer::Ack => Ok(()),
        }
    }

    fn route(&self, place: usize, error: Error) -> Error {
        let (exchange, key) = &self.routes[place];
        error.with("exchange", exchange).with("routing_key", key)
    }
}

struct Returns {
    /// The broker's reasons.
    by_id: HashMap<String, String>,
    /// The places of the messages on whose confirms they sat.
    carriers: HashSet<usize>,
    /// Whether each returned message could be assigned.
    trusted: bool,
}

fn unroutable(reason: &str) -> Error {
    let text = "the exchange has no queue for this routing key; bind one, or correct the routing";
    Error::new(ErrorKind::Unroutable, text).with("reply", reason)
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

/// The broker takes no messages at present.
pub(crate) fn blocked(reason: &str) -> Error {
    let error = Error::new(
        ErrorKind::Throttled,
        "the broker has a resource alarm and takes no messages; free memory or disk space on it",
    );
    if reason.is_empty() { error } else { error.with("alarm", reason) }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPSoftError};
    use outbox_core::Scope;

    use super::*;

    /// Judges a window of messages `0`, `1`, ….
    fn judged(count: usize, sent: Vec<Sent>, unsent: Option<Unsent>) -> Answers {
        let ids: Vec<String> = (0..count).map(|place| place.to_string()).collect();
        let routes: Vec<(String, String)> = ids.iter().map(|id| (String::new(), id.clone())).collect();
        Verdicts { ids: &ids, routes: &routes, alone: Stage::Alone }.give(sent, unsent)
    }

    fn ack() -> Sent {
        Sent::Answered(Answer::Ack, None)
    }

    fn ack_with(returned: Option<&str>) -> Sent {
        let id = returned.map(str::to_owned);
        Sent::Answered(Answer::Ack, Some(Returned { id, reason: "312 NO_ROUTE".to_owned() }))
    }

    fn lost() -> Sent {
        Sent::Lost(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())
    }

    fn refused() -> Sent {
        let error = AMQPError::new(AMQPSoftError::PRECONDITIONFAILED.into(), "no".into());
        Sent::Lost(lapin::ErrorKind::ProtocolError(error).into())
    }

    fn kinds(answers: &Answers) -> Vec<Option<ErrorKind>> {
        answers.outcomes.iter().map(|outcome| outcome.as_ref().err().map(Error::kind)).collect()
    }

    use ErrorKind::{Internal, Interrupted, Rejected, Throttled, Timeout, Unavailable, Unroutable};

    #[test]
    fn a_returned_message_fails_wherever_it_was_found() {
        let answers = judged(4, vec![ack_with(Some("2")), ack(), ack(), ack_with(Some("3"))], None);
        assert_eq!(kinds(&answers), [None, None, Some(Unroutable), Some(Unroutable)]);
        assert!(answers.clean && answers.complaint.is_none());
    }

    #[test]
    fn in_a_window_cut_short_a_confirm_with_the_return_of_another_message_proves_nothing() {
        // The return of message 1 may have been waiting behind that of message 0.
        let answers = judged(3, vec![lost(), ack_with(Some("0")), ack()], None);
        assert_eq!(kinds(&answers), [Some(Unroutable), Some(Interrupted), None]);
        assert!(!answers.clean);
    }

    #[test]
    fn a_return_that_cannot_be_assigned_leaves_no_confirm_trusted() {
        for id in [None, Some("foreign")] {
            let answers = judged(2, vec![ack_with(id), ack()], None);
            assert_eq!(kinds(&answers), [Some(Internal), Some(Internal)]);
            assert!(answers.outcomes.iter().flatten().next().is_none() && !answers.clean);
        }
    }

    #[test]
    fn a_refusal_is_the_fault_of_the_only_one_left() {
        let answers = judged(3, vec![ack(), refused(), ack()], None);
        assert_eq!(kinds(&answers), [None, Some(Rejected), None]);
        assert_eq!(answers.complaint.unwrap().suspects, [1]);

        let answers = judged(3, vec![ack(), refused(), refused()], None);
        assert_eq!(kinds(&answers), [None, Some(Interrupted), Some(Interrupted)]);
        assert_eq!(answers.complaint.unwrap().suspects, [1, 2]);
    }

    #[test]
    fn what_was_not_sent_is_known_not_to_be_there() {
        for (unsent, kind) in [
            (Unsent::Late, Unavailable),
            (Unsent::Blocked("low on memory".to_owned()), Throttled),
            (Unsent::Failed(lapin::ErrorKind::MissingHeartbeatError.into()), Unavailable),
        ] {
            let answers = judged(4, vec![ack(), Sent::Late, Sent::Stuck], Some(unsent));
            assert_eq!(kinds(&answers), [None, Some(Timeout), Some(Timeout), Some(kind)]);
            let last = answers.outcomes[3].as_ref().unwrap_err();
            assert_eq!((last.verdict(), last.scope()), (Verdict::Retry, Scope::Endpoint));
            assert!(!answers.clean);
        }
    }

    #[test]
    fn without_confirms_nothing_is_delivered() {
        let answers = judged(1, vec![Sent::Answered(Answer::None, None)], None);
        assert_eq!(answers.outcomes[0].as_ref().unwrap_err().verdict(), Verdict::Unknown);
        let answers = judged(1, vec![Sent::Answered(Answer::Nack, None)], None);
        assert_eq!(kinds(&answers), [Some(Rejected)]);
    }
}
