//! The outcomes of a whole call.

use crate::error::{Error, ErrorKind, Scope, Verdict};
use crate::publisher::Outcome;

/// Gives an outcome to the messages of a batch that have none: the publisher forgot them, which is a bug in it, and they
/// may have been sent.
pub fn answered(outcomes: Vec<Option<Outcome>>) -> Vec<Outcome> {
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(forgotten()))).collect()
}

/// Whether the broker refused the message because it gets too many.
pub fn is_throttled(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::Throttled)
}

/// Completes the outcomes of a batch, as [`answered`] does. `sent` holds the places of the messages that were sent. If all of
/// these were throttled, the broker as a whole is throttling: their errors get [`Scope::Endpoint`].
pub fn complete(outcomes: Vec<Option<Outcome>>, sent: &[usize]) -> Vec<Outcome> {
    let mut outcomes = answered(outcomes);
    let all = !sent.is_empty() && sent.iter().all(|index| outcomes.get(*index).is_some_and(is_throttled));
    if all {
        for index in sent {
            if let Some(outcome) = outcomes.get_mut(*index) {
                let taken = std::mem::replace(outcome, Ok(()));
                *outcome = taken.map_err(|error| error.with_scope(Scope::Endpoint));
            }
        }
    }
    outcomes
}

fn forgotten() -> Error {
    Error::new(ErrorKind::Internal, "the publisher forgot a message; this is a bug in it")
        .with_verdict(Verdict::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_may_have_been_sent() {
        let mut outcomes = answered(vec![None, Some(Ok(()))]);
        assert!(outcomes.remove(1).is_ok());
        let forgotten = outcomes.remove(0).unwrap_err();
        assert_eq!((forgotten.kind(), forgotten.verdict()), (ErrorKind::Internal, Verdict::Unknown));
    }

    fn throttled() -> Option<Outcome> {
        Some(Err(Error::new(ErrorKind::Throttled, "").with_scope(Scope::Message)))
    }

    fn scopes(outcomes: Vec<Option<Outcome>>, sent: &[usize]) -> Vec<Option<Scope>> {
        complete(outcomes, sent).iter().map(|outcome| outcome.as_ref().err().map(Error::scope)).collect()
    }

    #[test]
    fn one_answer_of_another_kind_and_the_service_does_not_throttle() {
        let (endpoint, message) = (Some(Scope::Endpoint), Some(Scope::Message));
        assert_eq!(scopes(vec![throttled(), throttled()], &[0, 1]), [endpoint, endpoint]);
        assert_eq!(scopes(vec![throttled(), Some(Ok(()))], &[0, 1]), [message, None]);
        assert_eq!(scopes(vec![throttled(), Some(Err(Error::malformed("")))], &[0, 1]), [message, message]);
        // What was never sent says nothing about the service.
        assert_eq!(scopes(vec![throttled(), Some(Err(Error::malformed("")))], &[0]), [endpoint, message]);
        assert!(scopes(vec![], &[]).is_empty());
    }
}
