//! What the client library's errors mean to an outbox.

use lapin::ErrorKind as Lapin;
use lapin::protocol::{AMQPErrorKind, AMQPHardError as Hard, AMQPSoftError as Soft};
use outbox_core::{Error, ErrorKind, Scope, Verdict};

/// How far we had come, which decides what an error can have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Dialling, logging in, declaring the configured topology.
    Connecting,
    /// Connected, with nothing of the message written.
    Before,
    /// Checking or declaring the exchange of the message, with nothing of the message written.
    Exchange,
    /// The message was handed to the connection, and other messages with it.
    After,
    /// The message was handed to the connection and was the only one the broker can have meant.
    Alone,
}

/// The one place where the client library's errors are judged.
///
/// Before anything was written a failure is a plain retry. Afterwards the outcome is unknown, unless the broker
/// refused this very message.
pub(crate) fn judge(error: &lapin::Error, stage: Stage) -> Error {
    use Stage::{After, Alone, Before, Connecting, Exchange};

    let code = code(error);
    let judged = match (stage, &code) {
        (Connecting, Some(Code::Soft(Soft::ACCESSREFUSED))) => {
            Error::new(ErrorKind::Permission, "the broker refused the login; check user name and password")
        }
        (Connecting, Some(Code::Hard(Hard::NOTALLOWED))) if text(error).contains("not found") => {
            Error::new(ErrorKind::NotFound, "the virtual host does not exist").with_scope(Scope::Endpoint)
        }
        (Connecting, Some(Code::Hard(Hard::NOTALLOWED))) => Error::new(
            ErrorKind::Permission,
            "the broker does not let this user connect, or not to this virtual host",
        ),
        (Connecting, _) if matches!(error.kind(), Lapin::AuthProviderError(_)) => {
            // Its text is the user's own code's, and may hold a token.
            return Error::new(ErrorKind::Permission, "the authentication provider failed");
        }
        (Connecting, _) if matches!(error.kind(), Lapin::IOError(_)) => {
            Error::new(ErrorKind::Unavailable, "the broker cannot be reached")
        }
        (Connecting, _) => Error::new(ErrorKind::Unavailable, "the broker did not let us connect"),

        (Before, _) => {
            Error::new(ErrorKind::Unavailable, "the message was not sent: the channel cannot be used")
        }

        (Exchange | Alone, Some(Code::Soft(Soft::NOTFOUND))) => {
            Error::new(ErrorKind::NotFound, "the exchange does not exist")
        }
        (Exchange, Some(Code::Soft(Soft::ACCESSREFUSED))) => {
            Error::new(ErrorKind::Permission, "the user may not declare the exchange")
                .with_scope(Scope::Message)
        }
        (Exchange, Some(Code::Soft(Soft::PRECONDITIONFAILED))) => Error::new(
            ErrorKind::Rejected,
            "the exchange exists with other properties; change the message's options, or delete the exchange",
        ),
        (Exchange, Some(Code::Hard(Hard::COMMANDINVALID))) => {
            Error::malformed("the broker does not know this type of exchange")
        }
        (Exchange, Some(Code::Soft(_) | Code::Hard(Hard::NOTALLOWED | Hard::NOTIMPLEMENTED))) => {
            Error::new(ErrorKind::Rejected, "the broker refused to declare the exchange")
        }
        (Exchange, _) => {
            Error::new(ErrorKind::Unavailable, "the message was not sent: its exchange could not be checked")
        }

        (Alone, Some(Code::Soft(Soft::ACCESSREFUSED))) => {
            // Rights differ from exchange to exchange, so this says nothing about the broker as a whole.
            Error::new(
                ErrorKind::Permission,
                "the user may not publish to this exchange, or with this routing key",
            )
            .with_scope(Scope::Message)
        }
        (Alone, Some(Code::Soft(Soft::CONTENTTOOLARGE))) => too_large(),
        (Alone, Some(Code::Soft(Soft::PRECONDITIONFAILED))) if text(error).contains("message size") => {
            too_large()
        }
        (Alone, Some(Code::Soft(_))) => Error::new(ErrorKind::Rejected, "the broker refused the message"),
        // The whole connection ended, and whose fault that was cannot be told for sure. It counts as the message's
        // own attempt: one that breaks the connection time and again must end somewhere.
        (Alone, Some(Code::Hard(_))) if is_complaint(error) => {
            Error::new(ErrorKind::Interrupted, "the broker closed the connection when it got this message")
                .with_scope(Scope::Message)
        }
        (After | Alone, _) => {
            Error::new(ErrorKind::Interrupted, "the connection or channel ended before the broker confirmed")
        }
    };
    debug_assert!(stage != Before || judged.verdict() == Verdict::Retry);
    judged.with_source(error.clone())
}

fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, "the message is larger than the broker takes; see its max_message_size")
}

/// The broker's own code, where the error is one the broker gave.
enum Code {
    /// It closed the channel.
    Soft(Soft),
    /// It closed the connection.
    Hard(Hard),
}

fn code(error: &lapin::Error) -> Option<Code> {
    let Lapin::ProtocolError(error) = error.kind() else { return None };
    Some(match error.kind() {
        AMQPErrorKind::Soft(soft) => Code::Soft(soft.clone()),
        AMQPErrorKind::Hard(hard) => Code::Hard(hard.clone()),
    })
}

/// What the broker said.
pub(crate) fn text(error: &lapin::Error) -> &str {
    match error.kind() {
        Lapin::ProtocolError(error) => error.get_message().as_str(),
        _ => "",
    }
}

/// Whether the exchange was not there.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    matches!(code(error), Some(Code::Soft(Soft::NOTFOUND)))
}

/// Whether the broker took offence at a message, rather than fail, shut down or find a channel gone: the latter happens
/// to the connection after another channel was closed, see [`Link::retire`](crate::link::Link::retire).
pub(crate) fn is_complaint(error: &lapin::Error) -> bool {
    match code(error) {
        Some(Code::Soft(_)) => true,
        Some(Code::Hard(hard)) => {
            !matches!(hard, Hard::CONNECTIONFORCED | Hard::INTERNALERROR | Hard::CHANNELERROR)
        }
        None => false,
    }
}

/// Whether trying to connect again at once makes sense: not if the broker has answered, and said no.
pub(crate) fn is_transient(error: &lapin::Error) -> bool {
    matches!(error.kind(), Lapin::IOError(_) | Lapin::MissingHeartbeatError)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use lapin::protocol::AMQPError;
    use lapin::{ChannelState, ConnectionState};

    use super::*;

    fn soft(soft: Soft, text: &str) -> lapin::Error {
        Lapin::ProtocolError(AMQPError::new(soft.into(), text.into())).into()
    }

    fn hard(hard: Hard, text: &str) -> lapin::Error {
        Lapin::ProtocolError(AMQPError::new(hard.into(), text.into())).into()
    }

    fn io() -> lapin::Error {
        Lapin::IOError(Arc::new(io::ErrorKind::ConnectionRefused.into())).into()
    }

    #[test]
    fn the_table() {
        use outbox_core::ErrorKind as Kind;

        use Scope::{Endpoint, Message};
        use Stage::{After, Alone, Before, Connecting, Exchange};
        use Verdict::{Permanent, Retry, Unknown};

        let vhost = "vhost orders not found";
        let size = "message size 20 is larger than configured max size 10";
        #[rustfmt::skip]
        let table = [
            (Connecting, io(), Kind::Unavailable, Retry, Endpoint),
            (Connecting, soft(Soft::ACCESSREFUSED, "login refused"), Kind::Permission, Retry, Endpoint),
            (Connecting, hard(Hard::NOTALLOWED, vhost), Kind::NotFound, Retry, Endpoint),
            (Connecting, hard(Hard::NOTALLOWED, "access to vhost refused"), Kind::Permission, Retry, Endpoint),
            (Connecting, hard(Hard::CONNECTIONFORCED, "shutdown"), Kind::Unavailable, Retry, Endpoint),
            (Connecting, Lapin::AuthProviderError("s3cret".to_owned()).into(), Kind::Permission, Retry, Endpoint),
            (Connecting, Lapin::MissingHeartbeatError.into(), Kind::Unavailable, Retry, Endpoint),
            (Connecting, Lapin::InvalidConnectionState(ConnectionState::Closed).into(), Kind::Unavailable, Retry, Endpoint),

            (Before, io(), Kind::Unavailable, Retry, Endpoint),
            (Before, Lapin::ChannelsLimitReached.into(), Kind::Unavailable, Retry, Endpoint),
            (Before, Lapin::InvalidChannelState(ChannelState::Closed, "x").into(), Kind::Unavailable, Retry, Endpoint),
            (Before, soft(Soft::NOTFOUND, "no exchange"), Kind::Unavailable, Retry, Endpoint),

            (Exchange, io(), Kind::Unavailable, Retry, Endpoint),
            (Exchange, soft(Soft::NOTFOUND, "no exchange"), Kind::NotFound, Retry, Message),
            (Exchange, soft(Soft::ACCESSREFUSED, "refused"), Kind::Permission, Retry, Message),
            (Exchange, soft(Soft::PRECONDITIONFAILED, "inequivalent arg"), Kind::Rejected, Retry, Message),
            (Exchange, soft(Soft::RESOURCELOCKED, "locked"), Kind::Rejected, Retry, Message),
            (Exchange, hard(Hard::COMMANDINVALID, "unknown type"), Kind::Malformed, Permanent, Message),
            (Exchange, hard(Hard::CONNECTIONFORCED, "shutdown"), Kind::Unavailable, Retry, Endpoint),

            (After, io(), Kind::Interrupted, Unknown, Endpoint),
            (After, soft(Soft::NOTFOUND, "no exchange"), Kind::Interrupted, Unknown, Endpoint),
            (After, soft(Soft::PRECONDITIONFAILED, size), Kind::Interrupted, Unknown, Endpoint),
            (After, hard(Hard::CONNECTIONFORCED, "shutdown"), Kind::Interrupted, Unknown, Endpoint),
            (After, Lapin::InvalidChannelState(ChannelState::Closed, "x").into(), Kind::Interrupted, Unknown, Endpoint),

            (Alone, io(), Kind::Interrupted, Unknown, Endpoint),
            (Alone, soft(Soft::NOTFOUND, "no exchange"), Kind::NotFound, Retry, Message),
            (Alone, soft(Soft::ACCESSREFUSED, "refused"), Kind::Permission, Retry, Message),
            (Alone, soft(Soft::PRECONDITIONFAILED, size), Kind::TooLarge, Permanent, Message),
            (Alone, soft(Soft::CONTENTTOOLARGE, ""), Kind::TooLarge, Permanent, Message),
            (Alone, soft(Soft::PRECONDITIONFAILED, "invalid expiration"), Kind::Rejected, Retry, Message),
            (Alone, hard(Hard::SYNTAXERROR, "table"), Kind::Interrupted, Unknown, Message),
            (Alone, hard(Hard::CONNECTIONFORCED, "shutdown"), Kind::Interrupted, Unknown, Endpoint),
            (Alone, hard(Hard::CHANNELERROR, "expected 'channel.open'"), Kind::Interrupted, Unknown, Endpoint),
        ];
        for (stage, error, kind, verdict, scope) in table {
            let judged = judge(&error, stage);
            assert_eq!(
                (judged.kind(), judged.verdict(), judged.scope()),
                (kind, verdict, scope),
                "{stage:?} {error}"
            );
            assert!(!judged.report().contains("s3cret"));
        }
    }

    #[test]
    fn the_broker_s_own_words_are_in_the_report() {
        let error = judge(&soft(Soft::NOTFOUND, "no exchange 'x' in vhost '/'"), Stage::Alone);
        assert!(error.report().contains("no exchange 'x' in vhost '/'"), "{}", error.report());
    }

    #[test]
    fn a_shutdown_is_no_complaint() {
        assert!(is_complaint(&soft(Soft::PRECONDITIONFAILED, "")));
        assert!(is_complaint(&hard(Hard::FRAMEERROR, "")));
        assert!(!is_complaint(&hard(Hard::CONNECTIONFORCED, "")));
        assert!(!is_complaint(&hard(Hard::CHANNELERROR, "")));
        assert!(!is_complaint(&io()));
    }
}
