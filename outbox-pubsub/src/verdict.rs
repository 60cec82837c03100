//! What an answer of the service, or none, means to an outbox.

use outbox_core::{Error, ErrorKind, Verdict};
use tonic::{Code, Status};

/// Why messages of one request have not been confirmed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The service answered, and did not take the request.
    Refused(Status),
    /// The connection failed. `begun`: the service may have the request.
    Broken { status: Status, begun: bool },
    /// The time was over. `begun` as above.
    Late { begun: bool },
    /// The answer does not fit the request.
    Miscounted { sent: usize, confirmed: usize },
    /// The credentials gave nothing to show. `passing`: they may soon.
    NoCredentials { passing: bool },
    /// Never sent, because something of this kind befell another request of the call.
    GaveUp(ErrorKind),
    /// Never sent, because an earlier message of its key failed.
    Behind,
}

impl Failure {
    /// Tells an answer of the service from a failure on the way.
    pub(crate) fn of(status: Status, begun: bool) -> Self {
        // What the service says has no cause on this side.
        let ours = std::error::Error::source(&status).is_some();
        // A refusal may come before the request has left, and is one all the same.
        let unclear = !begun && refused(status.code()).verdict() == Verdict::Unknown;
        if ours || unclear { Self::Broken { status, begun } } else { Self::Refused(status) }
    }

    /// Whether the service takes offence at what is in the request, which may be the fault of one message in it.
    pub(crate) fn is_about_content(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::InvalidArgument)
    }

    /// Whether the other requests of the call would fare the same.
    pub(crate) fn ends_the_call(&self) -> Option<ErrorKind> {
        let error = self.to_error();
        if error.scope() == outbox_core::Scope::Message {
            return None;
        }
        // What is told of those that are not sent must say so.
        Some(match error.kind() {
            kind @ (ErrorKind::Throttled | ErrorKind::Permission | ErrorKind::Unsupported) => kind,
            _ => ErrorKind::Unavailable,
        })
    }

    /// Whether the connection is suspect and the next request had better use a new one.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Late { .. })
    }

    /// The outcome of one of its messages.
    pub(crate) fn to_error(&self) -> Error {
        match self {
            Self::Refused(status) => refused(status.code())
                .with("code", status.code().description())
                .with("service", status.message()),
            Self::Broken { status, begun: true } => Error::new(
                ErrorKind::Interrupted,
                "the connection ended before the answer to the request was there",
            )
            .with_source(status.clone()),
            Self::Broken { status, begun: false } => {
                Error::new(ErrorKind::Unavailable, "the message was not sent: Pub/Sub cannot be reached")
                    .with_source(status.clone())
            }
            Self::Late { begun: true } => {
                Error::new(ErrorKind::Timeout, "no answer to the request within call_timeout")
            }
            Self::Late { begun: false } => Error::new(
                ErrorKind::Unavailable,
                "the message was not sent: there was no connection, or no room on it, within call_timeout",
            ),
            Self::Miscounted { sent, confirmed } => Error::new(
                ErrorKind::Internal,
                "the service confirmed another number of messages than it was sent, so nobody knows which",
            )
            .with_verdict(Verdict::Unknown)
            .with("sent", sent)
            .with("confirmed", confirmed),
            Self::NoCredentials { passing: true } => Error::new(
                ErrorKind::Unavailable,
                "nothing was sent: the credentials give no token at present; Google's default ones ask the metadata server \
                 of the machine if no file has them",
            ),
            Self::NoCredentials { passing: false } => Error::new(
                ErrorKind::Permission,
                "nothing was sent: the credentials give no token; ask them for one by hand to see why",
            ),
            Self::GaveUp(kind) => {
                let error = Error::new(
                    *kind,
                    "the message was not sent, since another request of the call had failed",
                );
                error.with_verdict(Verdict::Retry)
            }
            Self::Behind => {
                Error::new(ErrorKind::Rejected, "not sent, because an earlier message of its key failed")
            }
        }
    }
}

/// The table of codes: <https://cloud.google.com/pubsub/docs/reference/error-codes>.
fn refused(code: Code) -> Error {
    match code {
        Code::InvalidArgument => Error::malformed("the service does not take the message"),
        Code::NotFound => {
            Error::new(ErrorKind::NotFound, "the topic does not exist; create it, or correct the routing")
        }
        Code::ResourceExhausted => {
            Error::new(ErrorKind::Throttled, "the service asks for fewer requests; a quota is used up")
        }
        Code::Unauthenticated => {
            Error::new(ErrorKind::Permission, "the service does not know the credentials, or no more")
        }
        Code::PermissionDenied => Error::new(
            ErrorKind::Permission,
            "the credentials may not publish to this topic; grant pubsub.topics.publish",
        ),
        // The service is well, and this topic is not: a message transform or a key of encryption, for instance.
        Code::FailedPrecondition | Code::AlreadyExists => {
            Error::new(ErrorKind::Rejected, "the topic takes no messages at present")
        }
        Code::Unimplemented => Error::new(ErrorKind::Unsupported, "the endpoint is no Pub/Sub; correct it")
            .with_verdict(Verdict::Retry),
        // It may have been taken by a part of the service that then could not say so.
        Code::Unavailable | Code::Aborted => {
            Error::new(ErrorKind::Unavailable, "the service is not available").with_verdict(Verdict::Unknown)
        }
        Code::DeadlineExceeded => Error::new(ErrorKind::Timeout, "the service was not done in time"),
        _ => Error::new(ErrorKind::Interrupted, "the service failed over the request"),
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::Scope;

    use super::*;

    fn judged(failure: &Failure) -> (ErrorKind, Verdict, Scope) {
        let error = failure.to_error();
        (error.kind(), error.verdict(), error.scope())
    }

    #[test]
    fn the_table() {
        use Code as C;
        use ErrorKind as K;
        use Scope::{Endpoint, Message};
        use Verdict::{Permanent, Retry, Unknown};

        #[rustfmt::skip]
        let table = [
            (C::InvalidArgument, K::Malformed, Permanent, Message),
            (C::NotFound, K::NotFound, Retry, Message),
            (C::FailedPrecondition, K::Rejected, Retry, Message),
            (C::AlreadyExists, K::Rejected, Retry, Message),
            (C::ResourceExhausted, K::Throttled, Retry, Endpoint),
            (C::Unauthenticated, K::Permission, Retry, Endpoint),
            (C::PermissionDenied, K::Permission, Retry, Endpoint),
            (C::Unimplemented, K::Unsupported, Retry, Endpoint),
            (C::Unavailable, K::Unavailable, Unknown, Endpoint),
            (C::Aborted, K::Unavailable, Unknown, Endpoint),
            (C::DeadlineExceeded, K::Timeout, Unknown, Endpoint),
            (C::Cancelled, K::Interrupted, Unknown, Endpoint),
            (C::Unknown, K::Interrupted, Unknown, Endpoint),
            (C::Internal, K::Interrupted, Unknown, Endpoint),
            (C::DataLoss, K::Interrupted, Unknown, Endpoint),
            (C::OutOfRange, K::Interrupted, Unknown, Endpoint),
        ];
        for (code, kind, verdict, scope) in table {
            let failure = Failure::of(Status::new(code, "as it said"), true);
            assert_eq!(judged(&failure), (kind, verdict, scope), "{code:?}");
            assert!(failure.to_error().to_string().contains("as it said"));
            assert_eq!(failure.is_about_content(), code == C::InvalidArgument);
            assert_eq!(failure.ends_the_call().is_some(), scope == Endpoint);
        }
    }

    #[test]
    fn before_anything_was_sent_a_failure_is_a_plain_retry() {
        for code in 1..=16 {
            let mut status = Status::new(Code::from_i32(code), "");
            let early = judged(&Failure::of(status.clone(), false));
            assert_ne!(early.1, Verdict::Unknown, "{code}");
            status
                .set_source(std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
            let failure = Failure::of(status, false);
            assert_eq!(judged(&failure), (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint));
        }
        let early = Failure::of(Status::permission_denied(""), false);
        assert_eq!(judged(&early).0, ErrorKind::Permission);
        for failure in [
            Failure::Late { begun: false },
            Failure::NoCredentials { passing: true },
            Failure::NoCredentials { passing: false },
            Failure::GaveUp(ErrorKind::Unavailable),
            Failure::GaveUp(ErrorKind::Unsupported),
        ] {
            let (_, verdict, scope) = judged(&failure);
            assert_eq!((verdict, scope), (Verdict::Retry, Scope::Endpoint), "{failure:?}");
        }
        assert_eq!(judged(&Failure::Behind), (ErrorKind::Rejected, Verdict::Retry, Scope::Message));
    }

    #[test]
    fn a_broken_connection_says_nothing_whatever_its_code() {
        for code in 1..=16 {
            let mut status = Status::new(Code::from_i32(code), "");
            status.set_source(std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
            let failure = Failure::of(status, true);
            assert_eq!(judged(&failure), (ErrorKind::Interrupted, Verdict::Unknown, Scope::Endpoint));
        }
        assert_eq!(judged(&Failure::Late { begun: true }).1, Verdict::Unknown);
        assert_eq!(judged(&Failure::Miscounted { sent: 2, confirmed: 1 }).1, Verdict::Unknown);
    }

    #[test]
    fn what_is_not_sent_any_more_says_so() {
        for (failure, kind) in [
            (Failure::Late { begun: true }, ErrorKind::Unavailable),
            (Failure::of(Status::resource_exhausted(""), true), ErrorKind::Throttled),
            (Failure::of(Status::permission_denied(""), true), ErrorKind::Permission),
            (Failure::of(Status::internal(""), true), ErrorKind::Unavailable),
        ] {
            assert_eq!(failure.ends_the_call(), Some(kind));
        }
        assert_eq!(Failure::of(Status::not_found(""), true).ends_the_call(), None);
    }
}
