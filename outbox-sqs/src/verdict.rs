//! From the answer to outcomes.

use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchOutput;
use aws_sdk_sqs::types::BatchResultErrorEntry;
use outbox_aws::Meaning;
use outbox_core::{Error, ErrorKind, Outcome, Scope, Verdict};

/// The outcomes of a request's entries, by their places in it.
pub(crate) fn outcomes(answer: &SendMessageBatchOutput, entries: usize) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = (0..entries).map(|_| Err(unanswered())).collect();
    let mut set = |id: &str, outcome: Outcome| {
        if let Some(place) = id.parse::<usize>().ok().and_then(|place| outcomes.get_mut(place)) {
            *place = outcome;
        }
    };
    for entry in answer.successful() {
        set(entry.id(), Ok(()));
    }
    // Should an entry be in both lists, it has failed.
    for entry in answer.failed() {
        set(entry.id(), Err(entry_error(entry)));
    }
    outcomes
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Internal, "the answer of the service says nothing about the message")
        .with_verdict(Verdict::Unknown)
}

/// What the service says of one entry. It has not taken it, whatever the reason.
fn entry_error(entry: &BatchResultErrorEntry) -> Error {
    let error = match Meaning::of_code(entry.code()) {
        // The others of the request may have been taken.
        Some(meaning @ (Meaning::Throttled | Meaning::Unavailable | Meaning::Broken)) => {
            meaning.error().with_scope(Scope::Message).with_verdict(Verdict::Retry)
        }
        Some(meaning) => meaning.error(),
        None if entry.sender_fault() => Meaning::Invalid.error(),
        None => Error::new(ErrorKind::Rejected, "the service did not take the message"),
    };
    let error = error.with("code", entry.code());
    match entry.message() {
        Some(text) if !text.is_empty() => error.with("said", text),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::SendMessageBatchResultEntry;

    use super::*;

    fn failed(id: usize, code: &str, sender_fault: bool) -> BatchResultErrorEntry {
        let entry = BatchResultErrorEntry::builder().id(id.to_string()).code(code).sender_fault(sender_fault);
        entry.message("why").build().unwrap()
    }

    fn answer(successful: &[usize], failed: Vec<BatchResultErrorEntry>) -> SendMessageBatchOutput {
        let entry = |id: &usize| {
            let entry = SendMessageBatchResultEntry::builder().id(id.to_string());
            entry.message_id("m").md5_of_message_body("5").build().unwrap()
        };
        SendMessageBatchOutput::builder()
            .set_successful(Some(successful.iter().map(entry).collect()))
            .set_failed(Some(failed))
            .build()
            .unwrap()
    }

    #[test]
    fn the_table() {
        use Scope::{Endpoint, Message};
        use Verdict::{Permanent, Retry};

        #[rustfmt::skip]
        let table = [
            ("InternalError", false, ErrorKind::Unavailable, Retry, Message),
            ("ServiceUnavailable", false, ErrorKind::Unavailable, Retry, Message),
            ("RequestThrottled", true, ErrorKind::Throttled, Retry, Message),
            ("ThrottlingException", false, ErrorKind::Throttled, Retry, Message),
            ("AccessDenied", true, ErrorKind::Permission, Retry, Endpoint),
            ("KmsDisabled", true, ErrorKind::Permission, Retry, Endpoint),
            ("InvalidMessageContents", true, ErrorKind::Malformed, Permanent, Message),
            ("InvalidParameterValue", true, ErrorKind::Malformed, Permanent, Message),
            ("AWS.SimpleQueueService.BatchRequestTooLong", true, ErrorKind::TooLarge, Permanent, Message),
            ("SomethingNew", true, ErrorKind::Malformed, Permanent, Message),
            ("SomethingNew", false, ErrorKind::Rejected, Retry, Message),
        ];
        for (code, sender_fault, kind, verdict, scope) in table {
            let answer = answer(&[], vec![failed(0, code, sender_fault)]);
            let judged = outcomes(&answer, 1).remove(0).unwrap_err();
            assert_eq!((judged.kind(), judged.verdict(), judged.scope()), (kind, verdict, scope), "{code}");
            assert!(judged.to_string().contains(code) && judged.to_string().contains("why"), "{judged}");
        }
    }

    #[test]
    fn each_outcome_comes_to_its_message() {
        let answer = answer(&[3, 0], vec![failed(2, "InternalError", false)]);
        let outcomes = outcomes(&answer, 5);
        let kinds: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().err().map(Error::kind)).collect();
        let (unsaid, broken) = (Some(ErrorKind::Internal), Some(ErrorKind::Unavailable));
        assert_eq!(kinds, [None, unsaid, broken, None, unsaid]);
        assert_eq!(outcomes[1].as_ref().unwrap_err().verdict(), Verdict::Unknown);
    }

    #[test]
    fn nonsense_in_the_answer_confirms_nothing() {
        let answer = answer(&[7, 0], vec![failed(0, "SomethingNew", true), failed(9, "", true)]);
        assert!(outcomes(&answer, 2).iter().all(Result::is_err));
    }
}
