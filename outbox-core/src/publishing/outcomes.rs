//! The outcomes of a whole call.

use crate::error::{Error, ErrorKind, Verdict};
use crate::publisher::Outcome;

/// Gives an outcome to the messages of a batch that have none: the publisher forgot them, which is a bug in it, and they
/// may have been sent.
pub fn answered(outcomes: Vec<Option<Outcome>>) -> Vec<Outcome> {
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(forgotten()))).collect()
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
}
