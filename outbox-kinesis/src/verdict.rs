//! From the answer to outcomes.

use std::time::Duration;

use aws_sdk_kinesis::operation::put_records::PutRecordsOutput;
use aws_sdk_kinesis::types::PutRecordsResultEntry;
use outbox_aws::Meaning;
use outbox_core::{Error, ErrorKind, Outcome, Scope, Verdict};

/// When to come again with a record whose shard is busy. Shards have a quota per second.
const BUSY: Duration = Duration::from_secs(1);

/// The outcomes of a request's records, which the answer has in their order.
pub(crate) fn outcomes(answer: &PutRecordsOutput, records: usize) -> Vec<Outcome> {
    let entries = answer.records();
    (0..records).map(|place| entries.get(place).map_or_else(|| Err(unanswered()), outcome)).collect()
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Internal, "the answer of the service says nothing about the message")
        .with_verdict(Verdict::Unknown)
}

fn outcome(entry: &PutRecordsResultEntry) -> Outcome {
    match (entry.error_code(), entry.sequence_number()) {
        (Some(code), _) => Err(refused(code, entry.error_message())),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(unanswered()),
    }
}

/// What the service says of one record. It has not taken it, whatever the reason
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html>).
fn refused(code: &str, text: Option<&str>) -> Error {
    let error = match Meaning::of_code(code) {
        // It is the shard that is busy; records of others may have been taken.
        Some(Meaning::Throttled) => Error::new(
            ErrorKind::Throttled,
            "the shard takes no more for now; add shards, or use on-demand mode",
        )
        .with_scope(Scope::Message)
        .with_retry_after(BUSY),
        Some(meaning @ (Meaning::Unavailable | Meaning::Broken)) => {
            meaning.error().with_scope(Scope::Message).with_verdict(Verdict::Retry)
        }
        Some(meaning) => meaning.error(),
        None => Error::new(ErrorKind::Rejected, "the service did not take the message"),
    };
    let error = error.with("code", code);
    match text {
        Some(text) if !text.is_empty() => error.with("said", text),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(entries: &[Result<&str, &str>]) -> PutRecordsOutput {
        let entry = |entry: &Result<&str, &str>| match entry {
            Ok(number) => PutRecordsResultEntry::builder().sequence_number(*number).shard_id("s").build(),
            Err(code) => PutRecordsResultEntry::builder().error_code(*code).error_message("why").build(),
        };
        PutRecordsOutput::builder().set_records(Some(entries.iter().map(entry).collect())).build().unwrap()
    }

    #[test]
    fn the_table() {
        use Scope::{Endpoint, Message};
        use Verdict::{Permanent, Retry};

        for (code, kind, verdict, scope) in [
            ("ProvisionedThroughputExceededException", ErrorKind::Throttled, Retry, Message),
            ("KMSThrottlingException", ErrorKind::Throttled, Retry, Message),
            ("InternalFailure", ErrorKind::Unavailable, Retry, Message),
            ("ServiceUnavailable", ErrorKind::Unavailable, Retry, Message),
            ("KMSDisabledException", ErrorKind::Permission, Retry, Endpoint),
            ("ValidationException", ErrorKind::Malformed, Permanent, Message),
            ("SomethingNew", ErrorKind::Rejected, Retry, Message),
        ] {
            let judged = outcomes(&answer(&[Err(code)]), 1).remove(0).unwrap_err();
            assert_eq!((judged.kind(), judged.verdict(), judged.scope()), (kind, verdict, scope), "{code}");
            assert!(judged.to_string().contains(code) && judged.to_string().contains("why"), "{judged}");
        }
    }

    #[test]
    fn each_outcome_comes_to_its_record_and_silence_confirms_nothing() {
        let answer = answer(&[Ok("1"), Err("InternalFailure"), Ok("2")]);
        let outcomes = outcomes(&answer, 4);
        let kinds: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().err().map(Error::kind)).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::Unavailable), None, Some(ErrorKind::Internal)]);
        assert_eq!(outcomes[3].as_ref().unwrap_err().verdict(), Verdict::Unknown);
        let nothing = PutRecordsResultEntry::builder().build();
        assert_eq!(outcome(&nothing).unwrap_err().verdict(), Verdict::Unknown);
    }
}
