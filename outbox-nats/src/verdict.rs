//! What failures mean to an outbox.

use std::sync::Arc;

use async_nats::ConnectErrorKind;
use outbox_core::{Error, ErrorKind, Scope, Verdict};

use crate::answer::Refusal;
use crate::connection::OpenFailure;
use crate::dial::DialFailure;

/// The error of a call without a connection. Nothing of its messages has been sent.
pub(crate) fn not_connected(failure: &DialFailure) -> Error {
    match failure {
        DialFailure::NoneFree => Error::new(
            ErrorKind::Timeout,
            "no connection was free within ack_timeout; raise `connections` to the number of calls at a time",
        )
        .with_verdict(Verdict::Retry),
        DialFailure::Late(servers) => Error::new(
            ErrorKind::Unavailable,
            "the server did not accept the connection within connect_timeout; check that it runs and that its address is right",
        )
        .with("server", servers),
        DialFailure::Failed(servers, failure) => not_opened(failure).with("server", servers),
        DialFailure::Certificates(error) => {
            Error::config("the certificates for encrypted connections cannot be used").with_source(Arc::clone(error))
        }
    }
}

fn not_opened(failure: &OpenFailure) -> Error {
    match failure {
        OpenFailure::Connect(error) => {
            let (kind, message) = match error.kind() {
                ConnectErrorKind::AuthorizationViolation => (
                    ErrorKind::Permission,
                    "the server refused the login; check user, password, token or credentials",
                ),
                ConnectErrorKind::Authentication => {
                    (ErrorKind::Permission, "the login cannot be signed; check the nkey or the credentials")
                }
                ConnectErrorKind::Tls => (
                    ErrorKind::Unavailable,
                    "no encrypted connection to the server; check its certificate, its name, and the authorities",
                ),
                ConnectErrorKind::ServerParse => (ErrorKind::Config, "the address of the server is invalid"),
                ConnectErrorKind::Dns => (
                    ErrorKind::Unavailable,
                    "the server's name has no address; check the name, and that DNS works",
                ),
                _ => (
                    ErrorKind::Unavailable,
                    "the server cannot be reached; check that it runs and that its address is right",
                ),
            };
            Error::new(kind, message).with_source(Arc::clone(error))
        }
        OpenFailure::Thread(error) => Error::new(
            ErrorKind::Unavailable,
            "the system does not give a thread for the connection; raise its limits or lower `connections`",
        )
        .with_source(Arc::clone(error)),
        OpenFailure::Ended => Error::new(ErrorKind::Internal, "the client library failed while it connected")
            .with_scope(Scope::Endpoint),
    }
}

/// How a message ended that got no answer of JetStream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The call's time was over before it was sent.
    NotSent,
    /// The call's time was over.
    Late,
    /// The connection ended before it was sent.
    ClosedBefore,
    /// The connection ended.
    Closed,
    /// The user may not publish to the subject.
    Forbidden,
    /// The user may not receive answers.
    Unheard,
    /// The message and its headers are larger than the server allows.
    TooLarge,
}

pub(crate) fn silence(silence: Silence) -> Error {
    match silence {
        Silence::NotSent => Error::new(ErrorKind::Timeout, "the message was not sent within ack_timeout")
            .with_verdict(Verdict::Retry),
        Silence::Late => Error::new(
            ErrorKind::Timeout,
            "no acknowledgement within ack_timeout; check that a stream with a leader stores this subject, and not only \
             a subscriber listens to it",
        ),
        Silence::ClosedBefore => {
            Error::new(ErrorKind::Unavailable, "the message was not sent: the connection had ended")
        }
        Silence::Closed => {
            Error::new(ErrorKind::Interrupted, "the connection ended before the acknowledgement arrived")
        }
        // Rights differ from subject to subject, so this does not concern the server as a whole.
        Silence::Forbidden => Error::new(
            ErrorKind::Permission,
            "the user may not publish to this subject; allow it in the server's permissions",
        )
        .with_scope(Scope::Message),
        Silence::Unheard => Error::new(
            ErrorKind::Permission,
            "the user may not receive acknowledgements; allow it to subscribe to _INBOX.>, or set an inbox_prefix that it may \
             subscribe to",
        )
        .with_verdict(Verdict::Unknown),
        Silence::TooLarge => Error::new(
            ErrorKind::TooLarge,
            "the message with its headers is larger than the server's max_payload; raise that, or store the payload \
             elsewhere and send a reference",
        ),
    }
}

/// Why nothing took the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// JetStream is off, for the server or for the account.
    JetStream,
    /// No stream has the subject.
    Stream,
    /// The stream has no leader at present.
    Leader(String),
    /// JetStream itself has no leader, or refuses to answer.
    Cluster(String),
    /// JetStream did not answer.
    Silent,
    /// The user may not ask.
    Unexplained,
}

/// The error of a message for which the server has no receiver. It was not stored.
pub(crate) fn missing(missing: &Missing) -> Error {
    match missing {
        Missing::JetStream => Error::new(
            ErrorKind::Unavailable,
            "JetStream is not enabled on the server, or not for this account; add jetstream to its configuration",
        ),
        Missing::Stream => Error::new(
            ErrorKind::NotFound,
            "no stream stores this subject; create one, or add the subject to one",
        ),
        Missing::Leader(stream) => Error::new(
            ErrorKind::Unavailable,
            "the stream has no leader at present; check that most of its servers run",
        )
        .with("stream", stream),
        Missing::Cluster(said) => Error::new(
            ErrorKind::Unavailable,
            "JetStream is unavailable at present; check that most servers of the cluster run",
        )
        .with("said", said),
        Missing::Silent => Error::new(
            ErrorKind::Unavailable,
            "JetStream does not answer at present; check that most servers of the cluster run",
        ),
        Missing::Unexplained => Error::new(
            ErrorKind::NotFound,
            "nothing stores this subject: no stream has it, or its stream has no leader at present, or JetStream is not \
             enabled. To be told which, allow the user to publish to $JS.API.STREAM.NAMES",
        ),
    }
}

/// The error of a message that JetStream did not store.
pub(crate) fn refused(refusal: &Refusal) -> Error {
    let error = match refusal.code {
        10_008 | 10_004..=10_007 | 10_009 | 10_041 => {
            Error::new(ErrorKind::Unavailable, "the stream is unavailable at present; check the servers of the cluster")
        }
        10_035 | 10_039 | 10_076 => missing(&Missing::JetStream),
        10_002 | 10_023 | 10_028 | 10_047 => Error::new(
            ErrorKind::Throttled,
            "JetStream has no room left; raise the limits of the account or the server, or delete messages",
        ),
        10_167 => {
            Error::new(ErrorKind::Throttled, "the stream gets messages faster than it stores them").with_scope(Scope::Message)
        }
        // The error of a stream that discards new messages. Its consumers, its age limit or people make room.
        10_077 if refusal.text.starts_with("maximum ") && refusal.text.ends_with(" exceeded") => Error::new(
            ErrorKind::Throttled,
            "the stream is full and does not discard old messages; let its consumers acknowledge, or raise its limits",
        )
        .with_scope(Scope::Message),
        10_054 | 10_097 => Error::new(
            ErrorKind::TooLarge,
            "the message is larger than the stream takes; raise its max_msg_size, or store the payload elsewhere and send \
             a reference",
        ),
        10_060 => Error::new(
            ErrorKind::Rejected,
            "the subject belongs to another stream than expected; correct the stream's subjects or the expected stream",
        ),
        10_165 => Error::malformed("the server does not accept this TTL"),
        10_166 => Error::new(
            ErrorKind::Rejected,
            "the stream does not allow a TTL for single messages; set allow_msg_ttl on the stream",
        ),
        // An earlier attempt, whose outcome is unknown, waits for a majority of the stream's servers.
        10_158 => Error::new(
            ErrorKind::Unavailable,
            "the stream is still storing an earlier copy of the message; check the servers of the cluster",
        ),
        10_059 => missing(&Missing::Stream),
        _ => Error::new(ErrorKind::Rejected, "the stream did not store the message"),
    };
    error.with("code", refusal.code).with("said", &refusal.text)
}

/// The error of an answer that is not one of JetStream: something else listens to the subject, and may have answered first.
pub(crate) fn not_understood() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the answer is not an acknowledgement of JetStream; check that no service answers to this subject",
    )
    .with_verdict(Verdict::Unknown)
}

/// The error of a TTL that the server would ignore.
pub(crate) fn no_ttl(version: &str) -> Error {
    Error::new(
        ErrorKind::Rejected,
        "the server is older than 2.11 and would ignore the TTL of the message; update it, or leave ttl_seconds out",
    )
    .with("version", version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_refusals() {
        use Scope::{Endpoint, Message};
        use Verdict::{Permanent, Retry};

        #[rustfmt::skip]
        let table = [
            (10_008, "JetStream system temporarily unavailable", ErrorKind::Unavailable, Retry, Endpoint),
            (10_009, "JetStream cluster can not handle request", ErrorKind::Unavailable, Retry, Endpoint),
            (10_039, "JetStream not enabled for account", ErrorKind::Unavailable, Retry, Endpoint),
            (10_047, "insufficient storage resources available", ErrorKind::Throttled, Retry, Endpoint),
            (10_167, "too many requests", ErrorKind::Throttled, Retry, Message),
            (10_077, "maximum messages exceeded", ErrorKind::Throttled, Retry, Message),
            (10_077, "maximum bytes exceeded", ErrorKind::Throttled, Retry, Message),
            (10_077, "write /data/1.blk: no space left on device", ErrorKind::Rejected, Retry, Message),
            (10_054, "message size exceeds maximum allowed", ErrorKind::TooLarge, Permanent, Message),
            (10_060, "expected stream does not match", ErrorKind::Rejected, Retry, Message),
            (10_165, "invalid per-message TTL", ErrorKind::Malformed, Permanent, Message),
            (10_166, "per-message TTL is disabled", ErrorKind::Rejected, Retry, Message),
            (10_158, "duplicate message id is in process", ErrorKind::Unavailable, Retry, Endpoint),
            (10_059, "stream not found", ErrorKind::NotFound, Retry, Message),
            (10_109, "invalid operation on sealed stream", ErrorKind::Rejected, Retry, Message),
            (19_999, "something new", ErrorKind::Rejected, Retry, Message),
        ];
        for (code, text, kind, verdict, scope) in table {
            let error = refused(&Refusal { code, text: text.to_owned() });
            assert_eq!((error.kind(), error.verdict(), error.scope()), (kind, verdict, scope), "{code}");
            assert!(
                error.to_string().contains(&code.to_string()) && error.to_string().contains(text),
                "{error}"
            );
        }
    }

    #[test]
    fn the_table_of_silence() {
        use Scope::{Endpoint, Message};
        use Verdict::{Permanent, Retry, Unknown};

        for (of, kind, verdict, scope) in [
            (Silence::NotSent, ErrorKind::Timeout, Retry, Endpoint),
            (Silence::Late, ErrorKind::Timeout, Unknown, Endpoint),
            (Silence::ClosedBefore, ErrorKind::Unavailable, Retry, Endpoint),
            (Silence::Closed, ErrorKind::Interrupted, Unknown, Endpoint),
            (Silence::Forbidden, ErrorKind::Permission, Retry, Message),
            (Silence::Unheard, ErrorKind::Permission, Unknown, Endpoint),
            (Silence::TooLarge, ErrorKind::TooLarge, Permanent, Message),
        ] {
            let error = silence(of);
            assert_eq!((error.kind(), error.verdict(), error.scope()), (kind, verdict, scope), "{of:?}");
        }
        for (of, kind, scope) in [
            (Missing::JetStream, ErrorKind::Unavailable, Endpoint),
            (Missing::Stream, ErrorKind::NotFound, Message),
            (Missing::Leader("S".to_owned()), ErrorKind::Unavailable, Endpoint),
            (Missing::Cluster("no".to_owned()), ErrorKind::Unavailable, Endpoint),
            (Missing::Silent, ErrorKind::Unavailable, Endpoint),
            (Missing::Unexplained, ErrorKind::NotFound, Message),
        ] {
            let error = missing(&of);
            assert_eq!((error.kind(), error.verdict(), error.scope()), (kind, Retry, scope), "{of:?}");
        }
    }
}
