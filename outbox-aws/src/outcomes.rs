//! The outcomes of a whole call.

use outbox_core::publishing::answered;
use outbox_core::{ErrorKind, Outcome, Scope};

/// Whether the message was refused for being too many.
pub fn is_throttled(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::Throttled)
}

/// Puts the outcomes of a batch together, of which those at `sent` were asked of the service. If all of these were
/// throttled, it is the service that throttles.
pub fn complete(outcomes: Vec<Option<Outcome>>, sent: &[usize]) -> Vec<Outcome> {
    let mut outcomes = answered(outcomes);
    // Of nothing, nothing is throttled.
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

#[cfg(test)]
mod tests {
    use outbox_core::{Error, Verdict};

    use super::*;

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

    #[test]
    fn what_was_forgotten_may_have_been_sent() {
        let forgotten = complete(vec![None], &[0]).remove(0).unwrap_err();
        assert_eq!((forgotten.kind(), forgotten.verdict()), (ErrorKind::Internal, Verdict::Unknown));
    }
}
