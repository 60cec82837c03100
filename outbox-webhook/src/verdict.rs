//! What an answer, or its absence, means for a message.

use std::error::Error as StdError;

use http::StatusCode;
use outbox_core::{Error, ErrorKind, Scope, Verdict};

use crate::answer::Answer;
use crate::connector;
use crate::destination::{Concern, Reach};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a message was not delivered, or may not have been.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The receiver answered, and not with success.
    Answered(Answer),
    /// There was no connection, so nothing was sent.
    NotConnected(BoxError),
    /// The connection ended before the answer arrived.
    Broken(BoxError),
    /// No answer arrived within the time of the call.
    Late,
    /// The time of the call had passed before the request could begin.
    NotBegun,
    /// Not sent: another request of the call failed for a reason that concerns this one, too.
    GaveUp(ErrorKind, Concern),
    /// Not sent: an earlier message of the key failed.
    Behind,
    /// The request could not be made.
    Impossible(http::Error),
}

impl Failure {
    /// Tells an error of the client apart.
    pub(crate) fn of(error: hyper_util::client::legacy::Error) -> Self {
        if error.is_connect() { Self::NotConnected(error.into()) } else { Self::Broken(error.into()) }
    }

    fn concern(&self) -> Concern {
        match self {
            Self::Answered(answer) => judge(answer.status).concern,
            Self::NotConnected(_) | Self::Broken(_) | Self::Late => Concern::Host,
            Self::GaveUp(_, concern) => *concern,
            Self::NotBegun | Self::Behind | Self::Impossible(_) => Concern::Message,
        }
    }

    /// As what further requests of the call to the same URL fail, if they would.
    pub(crate) fn ends_the_destination(&self) -> Option<(ErrorKind, Concern)> {
        let concern = self.concern();
        if concern == Concern::Message {
            return None;
        }
        let kind = match self {
            Self::Answered(answer) => match judge(answer.status).kind {
                kind @ (ErrorKind::Throttled | ErrorKind::Permission | ErrorKind::NotFound) => kind,
                _ => ErrorKind::Unavailable,
            },
            Self::GaveUp(kind, _) => *kind,
            _ => ErrorKind::Unavailable,
        };
        Some((kind, concern))
    }

    /// The outcome of its message.
    pub(crate) fn to_error(&self, reach: Reach) -> Error {
        let scope = reach.scope(self.concern());
        let error = match self {
            Self::Answered(Answer { status, retry_after, text }) => {
                let Judgement { kind, verdict, problem, .. } = judge(*status);
                let mut error = Error::new(kind, problem).with_verdict(verdict).with("status", status.as_u16());
                if let Some(after) = retry_after {
                    error = error.with_retry_after(*after);
                }
                if text.is_empty() { error } else { error.with("answer", text) }
            }
            Self::NotConnected(source) if connector::is_refused(&**source) => Error::new(
                ErrorKind::Permission,
                "nothing was sent: the host has no public address; add its network to allowed_networks if requests may be \
                 sent there",
            )
            .with_source(causes(&**source)),
            Self::NotConnected(source) => {
                Error::new(ErrorKind::Unavailable, "nothing was sent: the receiver cannot be reached")
                    .with_source(causes(&**source))
            }
            Self::Broken(source) => {
                Error::new(ErrorKind::Interrupted, "the connection ended before the answer arrived")
                    .with_source(causes(&**source))
            }
            Self::Late => Error::new(ErrorKind::Timeout, "no answer arrived within call_timeout"),
            // It is nobody's attempt, and says nothing about the destination.
            Self::NotBegun => Error::new(
                ErrorKind::Throttled,
                "not sent: other requests of the call took all of call_timeout; raise requests_in_flight, or lower \
                 max_batch_messages",
            ),
            Self::GaveUp(kind, _) => {
                // Among several destinations nothing but this kind is spared an attempt.
                let kind = if scope == Scope::Endpoint { *kind } else { ErrorKind::Throttled };
                Error::new(kind, "not sent, because another request of the call to the same receiver failed")
            }
            Self::Behind => Error::new(ErrorKind::Rejected, "not sent, because an earlier message of its key failed"),
            Self::Impossible(source) => Error::new(
                ErrorKind::Internal,
                "the request could not be made; this is a bug in the publisher",
            )
            .with_source(source.to_string()),
        };
        error.with_scope(scope)
    }
}

/// The causes of a client's error. Its own words say only in which part of the client it occurred.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let all = std::iter::successors(error.source(), |error| (*error).source()).map(ToString::to_string);
    let mut parts: Vec<String> = Vec::new();
    for part in all {
        if !parts.iter().any(|earlier| earlier.contains(&part)) {
            parts.push(part);
        }
    }
    if parts.is_empty() { error.to_string() } else { parts.join(": ") }
}

/// What a status means.
struct Judgement {
    kind: ErrorKind,
    verdict: Verdict,
    concern: Concern,
    problem: &'static str,
}

/// The table of statuses other than success.
fn judge(status: StatusCode) -> Judgement {
    use Concern::{Host, Message, Url};
    use ErrorKind as K;
    use Verdict::{Permanent, Retry, Unknown};

    let (kind, verdict, concern, problem) = match status.as_u16() {
        400 | 415 | 422 => (K::Malformed, Permanent, Message, "the receiver does not accept the message"),
        413 | 431 => (K::TooLarge, Permanent, Message, "the message is larger than the receiver accepts"),
        401 | 403 | 407 => (
            K::Permission,
            Retry,
            Url,
            "the receiver refuses our requests; check the endpoint's secret and headers",
        ),
        404 | 405 => {
            (K::NotFound, Retry, Url, "the receiver has nothing at this URL; correct the endpoint's URL")
        }
        410 => (
            K::NotFound,
            Retry,
            Url,
            "the receiver wants no more webhooks; remove the endpoint, or ask the receiver to accept them again",
        ),
        300..=399 => (
            K::NotFound,
            Retry,
            Url,
            "the receiver redirects to another URL, which is not followed; set that URL at the endpoint",
        ),
        408 | 425 | 429 | 503 => (K::Throttled, Retry, Host, "the receiver asks for fewer requests"),
        // A gateway does not know what became of the request behind it.
        502 | 504 => (K::Unavailable, Unknown, Host, "what stands before the receiver cannot reach it"),
        409 => (K::Conflict, Retry, Message, "the receiver reports a conflict with concurrent work"),
        400..=499 => (K::Rejected, Retry, Message, "the receiver rejected the message"),
        _ => (K::Rejected, Unknown, Message, "the receiver failed over the message"),
    };
    Judgement { kind, verdict, concern, problem }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answered(status: u16) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        Failure::Answered(Answer { status, retry_after: None, text: "as it said".to_owned() })
    }

    const ONE: Reach = Reach { one_url: true, one_host: true };
    const SEVERAL: Reach = Reach { one_url: false, one_host: false };

    fn judged(failure: &Failure, reach: Reach) -> (ErrorKind, Verdict, Scope) {
        let error = failure.to_error(reach);
        (error.kind(), error.verdict(), error.scope())
    }

    #[test]
    fn the_table() {
        use Concern::{Host, Message, Url};
        use ErrorKind as K;
        use Verdict::{Permanent, Retry, Unknown};

        #[rustfmt::skip]
        let table: &[(&[u16], K, Verdict, Concern)] = &[
            (&[400, 415, 422], K::Malformed, Permanent, Message),
            (&[413, 431], K::TooLarge, Permanent, Message),
            (&[401, 403, 407], K::Permission, Retry, Url),
            (&[301, 302, 303, 304, 307, 308, 404, 405, 410], K::NotFound, Retry, Url),
            (&[408, 425, 429, 503], K::Throttled, Retry, Host),
            (&[502, 504], K::Unavailable, Unknown, Host),
            (&[409], K::Conflict, Retry, Message),
            (&[402, 406, 411, 412, 418, 423, 451], K::Rejected, Retry, Message),
            (&[100, 500, 501, 505, 507, 599, 999], K::Rejected, Unknown, Message),
        ];
        for (statuses, kind, verdict, concern) in table {
            for status in *statuses {
                let failure = answered(*status);
                assert_eq!(failure.concern(), *concern, "{status}");
                for reach in [ONE, SEVERAL] {
                    let scope = reach.scope(*concern);
                    assert_eq!(judged(&failure, reach), (*kind, *verdict, scope), "{status}");
                }
                assert_eq!(failure.ends_the_destination().is_some(), *concern != Message, "{status}");
                let text = failure.to_error(ONE).report();
                assert!(text.contains(&format!("status: {status}, answer: as it said")), "{text}");
            }
        }
    }

    #[test]
    fn without_an_answer_the_host_is_concerned() {
        use ErrorKind as K;
        let source = || BoxError::from("gone");
        for (failure, kind, verdict) in [
            (Failure::NotConnected(source()), K::Unavailable, Verdict::Retry),
            (Failure::Broken(source()), K::Interrupted, Verdict::Unknown),
            (Failure::Late, K::Timeout, Verdict::Unknown),
        ] {
            assert_eq!(judged(&failure, ONE), (kind, verdict, Scope::Endpoint), "{failure:?}");
            assert_eq!(judged(&failure, SEVERAL), (kind, verdict, Scope::Message), "{failure:?}");
            assert_eq!(failure.ends_the_destination(), Some((K::Unavailable, Concern::Host)));
        }
    }

    #[test]
    fn what_was_not_sent_is_a_retry_that_says_so() {
        use ErrorKind as K;
        let gave_up = |kind| Failure::GaveUp(kind, Concern::Url);
        for (failure, one, several) in [
            (gave_up(K::Unavailable), (K::Unavailable, Scope::Endpoint), (K::Throttled, Scope::Message)),
            (gave_up(K::NotFound), (K::NotFound, Scope::Endpoint), (K::Throttled, Scope::Message)),
            (Failure::NotBegun, (K::Throttled, Scope::Message), (K::Throttled, Scope::Message)),
            (Failure::Behind, (K::Rejected, Scope::Message), (K::Rejected, Scope::Message)),
        ] {
            for (reach, (kind, scope)) in [(ONE, one), (SEVERAL, several)] {
                assert_eq!(judged(&failure, reach), (kind, Verdict::Retry, scope), "{failure:?}");
                let text = failure.to_error(reach).report();
                assert!(text.contains("not sent"), "{text}");
            }
        }
    }

    #[test]
    fn what_fails_next_fails_for_the_reason_that_was_given() {
        for (failure, kind) in [
            (answered(429), ErrorKind::Throttled),
            (answered(401), ErrorKind::Permission),
            (answered(410), ErrorKind::NotFound),
            (answered(502), ErrorKind::Unavailable),
            (Failure::GaveUp(ErrorKind::Throttled, Concern::Host), ErrorKind::Throttled),
        ] {
            assert_eq!(failure.ends_the_destination().map(|(kind, _)| kind), Some(kind), "{failure:?}");
        }
    }

    #[test]
    fn retry_after_is_handed_on() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let retry_after = Some(Duration::from_secs(120));
        let failure = Failure::Answered(Answer { status, retry_after, text: String::new() });
        assert_eq!(failure.to_error(ONE).retry_after(), retry_after);
    }
}
