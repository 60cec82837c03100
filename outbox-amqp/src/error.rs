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
    /// As `Alone`, after the broker had closed an earlier channel with this message on it.
    AloneAgain,
}

/// The one place where the client library's errors are judged.
///
/// Before anything was written a failure is a plain retry. Afterwards the outcome is unknown, unless the broker
/// refused this very message.
pub(crate) fn judge(error: &lapin::Error, stage: Stage) -> Error {
    use Stage::{After, Alone, AloneAgain, Before, Connecting, Exchange};

    let code = code(error);
    let judged = match (stage, &code) {
        (Connecting, Some(Code::Soft(Soft::ACCESSREFUSED))) => {
            Error::new(ErrorKind::Permission, "the broker refused the login; check user name and password")
        }
        (Connecting, Some(Code::Hard(Hard::NOTALLOWED)))
            if reason(error).starts_with("vhost ") && reason(error).ends_with(" not found") =>
        {
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

        (Exchange | Alone | AloneAgain, Some(Code::Soft(Soft::NOTFOUND))) => {
            Error::new(ErrorKind::NotFound, "the exchange does not exist")
        }
        (Exchange, Some(Code::Soft(Soft::ACCESSREFUSED))) => {
            Error::new(ErrorKind::Permission, "the user may not declare the exchange")
                .with_scope(Scope::Message)
        }
        // RabbitMQ 3 closes the connection (503), RabbitMQ 4 the channel (406).
        (Exchange, Some(Code::Hard(Hard::COMMANDINVALID))) => unknown_exchange_type(),
        (Exchange, Some(Code::Soft(Soft::PRECONDITIONFAILED)))
            if reason(error).starts_with("invalid exchange type")
                || reason(error).starts_with("unknown exchange type") =>
        {
            unknown_exchange_type()
        }
        (Exchange, Some(Code::Soft(Soft::PRECONDITIONFAILED)))
            if reason(error).starts_with("inequivalent arg") =>
        {
            Error::new(
                ErrorKind::Rejected,
                "the exchange exists with other properties; change the message's options, or delete the exchange",
            )
        }
        (Exchange, Some(Code::Soft(_) | Code::Hard(Hard::NOTALLOWED | Hard::NOTIMPLEMENTED))) => {
            Error::new(ErrorKind::Rejected, "the broker refused to declare the exchange")
        }
        (Exchange, _) => {
            Error::new(ErrorKind::Unavailable, "the message was not sent: its exchange could not be checked")
        }

        (Alone | AloneAgain, Some(Code::Soft(Soft::ACCESSREFUSED))) => {
            // Rights differ from exchange to exchange, so this says nothing about the broker as a whole.
            Error::new(
                ErrorKind::Permission,
                "the user may not publish to this exchange, or with this routing key",
            )
            .with_scope(Scope::Message)
        }
        (Alone | AloneAgain, Some(Code::Soft(Soft::CONTENTTOOLARGE))) => too_large(),
        (Alone | AloneAgain, Some(Code::Soft(Soft::PRECONDITIONFAILED)))
            if reason(error).starts_with("message size") =>
        {
            too_large()
        }
        (AloneAgain, Some(Code::Soft(_))) => {
            Error::malformed("the broker closes the channel whenever it gets this message")
        }
        (Alone, Some(Code::Soft(_))) => Error::new(ErrorKind::Rejected, "the broker refused the message"),
        // The whole connection ended, and whose fault that was cannot be told for sure. It counts as the message's
        // own attempt: one that breaks the connection time and again must end somewhere. An internal error can be
        // the broker's own, so one is not enough.
        (Alone, Some(Code::Hard(Hard::INTERNALERROR))) => {
            Error::new(ErrorKind::Interrupted, "the broker closed the connection with an internal error")
        }
        (Alone | AloneAgain, Some(Code::Hard(_))) if closed(error) == Some(Closed::Connection) => {
            Error::new(ErrorKind::Interrupted, "the broker closed the connection when it got this message")
                .with_scope(Scope::Message)
        }
        (After | Alone | AloneAgain, _) => {
            Error::new(ErrorKind::Interrupted, "the connection or channel ended before the broker confirmed")
        }
    };
    debug_assert!(stage != Before || judged.verdict() == Verdict::Retry);
    judged.with_source(error.clone())
}

fn unknown_exchange_type() -> Error {
    Error::malformed("the broker does not know this exchange type")
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

/// The broker's words after its code's name, such as `message size …` of `PRECONDITION_FAILED - message size …`.
fn reason(error: &lapin::Error) -> &str {
    let text = text(error);
    text.split_once(" - ").map_or(text, |(_, reason)| reason)
}

/// The exchange to which the user may not publish, if the broker named it. The rights of all its messages are the same,
/// unlike those that depend on the routing key.
pub(crate) fn forbidden_exchange(error: &lapin::Error) -> Option<&str> {
    match code(error) {
        Some(Code::Soft(Soft::ACCESSREFUSED)) => {
            // RabbitMQ 4 puts `write` before it.
            let reason = reason(error).trim_start_matches("write ");
            Some(reason.strip_prefix("access to exchange '")?.split_once("' in vhost '")?.0)
        }
        _ => None,
    }
}

/// Whether the exchange was not there.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    matches!(code(error), Some(Code::Soft(Soft::NOTFOUND)))
}

/// What the broker closed, other than because it fails or shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// A channel, over one of the messages on it.
    Channel,
    /// The connection, perhaps over one of the messages on it.
    Connection,
    /// The connection, because the client library sent something on a channel that was closed already. No message is
    /// to blame; see [`Link::retire`](crate::link::Link::retire).
    Stray,
}

/// What the broker closed over something that it was sent.
pub(crate) fn closed(error: &lapin::Error) -> Option<Closed> {
    match code(error)? {
        Code::Soft(_) => Some(Closed::Channel),
        Code::Hard(Hard::CHANNELERROR) => Some(Closed::Stray),
        Code::Hard(Hard::CONNECTIONFORCED) => None,
        Code::Hard(_) => Some(Closed::Connection),
    }
}

/// Whether a second message would tell nothing new: the error names what is wrong.
pub(crate) fn is_explained(error: &lapin::Error) -> bool {
    match code(error) {
        Some(Code::Soft(Soft::NOTFOUND | Soft::ACCESSREFUSED | Soft::CONTENTTOOLARGE)) => true,
        Some(Code::Soft(Soft::PRECONDITIONFAILED)) => reason(error).starts_with("message size"),
        _ => false,
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
        use Stage::{After, Alone, AloneAgain, Before, Connecting, Exchange};
        use Verdict::{Permanent, Retry, Unknown};

        let vhost = "NOT_ALLOWED - vhost orders not found";
        let refused = "NOT_ALLOWED - access to vhost 'not found' refused for user 'u'";
        let size = "PRECONDITION_FAILED - message size 20 is larger than configured max size 10";
        let differs = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/'";
        let type_3 = "COMMAND_INVALID - unknown exchange type 'x'";
        let type_4 = "PRECONDITION_FAILED - unknown exchange type 'x'";
        // The name of an exchange is anybody's choice.
        let trap =
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'invalid exchange type' in vhost '/'";
        #[rustfmt::skip]
        let table = [
            (Connecting, io(), Kind::Unavailable, Retry, Endpoint),
            (Connecting, soft(Soft::ACCESSREFUSED, "login refused"), Kind::Permission, Retry, Endpoint),
            (Connecting, hard(Hard::NOTALLOWED, vhost), Kind::NotFound, Retry, Endpoint),
            (Connecting, hard(Hard::NOTALLOWED, refused), Kind::Permission, Retry, Endpoint),
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
            (Exchange, soft(Soft::PRECONDITIONFAILED, differs), Kind::Rejected, Retry, Message),
            (Exchange, soft(Soft::PRECONDITIONFAILED, trap), Kind::Rejected, Retry, Message),
            (Exchange, soft(Soft::PRECONDITIONFAILED, "PRECONDITION_FAILED - else"), Kind::Rejected, Retry, Message),
            (Exchange, soft(Soft::PRECONDITIONFAILED, type_4), Kind::Malformed, Permanent, Message),
            (Exchange, soft(Soft::RESOURCELOCKED, "locked"), Kind::Rejected, Retry, Message),
            (Exchange, hard(Hard::COMMANDINVALID, type_3), Kind::Malformed, Permanent, Message),
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
            (AloneAgain, soft(Soft::PRECONDITIONFAILED, "invalid expiration"), Kind::Malformed, Permanent, Message),
            (AloneAgain, soft(Soft::PRECONDITIONFAILED, size), Kind::TooLarge, Permanent, Message),
            (AloneAgain, soft(Soft::NOTFOUND, "no exchange"), Kind::NotFound, Retry, Message),
            (AloneAgain, soft(Soft::ACCESSREFUSED, "refused"), Kind::Permission, Retry, Message),
            (AloneAgain, io(), Kind::Interrupted, Unknown, Endpoint),
            (Alone, hard(Hard::SYNTAXERROR, "table"), Kind::Interrupted, Unknown, Message),
            (AloneAgain, hard(Hard::SYNTAXERROR, "table"), Kind::Interrupted, Unknown, Message),
            (Alone, hard(Hard::INTERNALERROR, "INTERNAL_ERROR"), Kind::Interrupted, Unknown, Endpoint),
            (AloneAgain, hard(Hard::INTERNALERROR, "INTERNAL_ERROR"), Kind::Interrupted, Unknown, Message),
            (AloneAgain, hard(Hard::CONNECTIONFORCED, "shutdown"), Kind::Interrupted, Unknown, Endpoint),
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
    fn only_some_closes_are_the_fault_of_a_message() {
        assert_eq!(closed(&soft(Soft::PRECONDITIONFAILED, "")), Some(Closed::Channel));
        assert_eq!(closed(&hard(Hard::FRAMEERROR, "")), Some(Closed::Connection));
        assert_eq!(closed(&hard(Hard::INTERNALERROR, "")), Some(Closed::Connection));
        assert_eq!(closed(&hard(Hard::CHANNELERROR, "")), Some(Closed::Stray));
        assert_eq!(closed(&hard(Hard::CONNECTIONFORCED, "")), None);
        assert_eq!(closed(&io()), None);
    }

    #[test]
    fn a_forbidden_exchange_is_told_from_a_forbidden_routing_key() {
        let refused = |text: &str| soft(Soft::ACCESSREFUSED, &format!("ACCESS_REFUSED - {text}"));
        let exchange = refused("access to exchange 'e' in vhost 'v' refused for user 'u'");
        assert_eq!(forbidden_exchange(&exchange), Some("e"));
        let version_4 = refused("write access to exchange 'e' in vhost 'v' refused for user 'u'");
        assert_eq!(forbidden_exchange(&version_4), Some("e"));
        let key = refused("write access to topic 'k' in exchange 'e' in vhost 'v' refused for user 'u'");
        assert_eq!(forbidden_exchange(&key), None);
        let not_found = soft(Soft::NOTFOUND, "NOT_FOUND - no exchange 'e' in vhost 'v'");
        assert_eq!(forbidden_exchange(&not_found), None);
    }
}
