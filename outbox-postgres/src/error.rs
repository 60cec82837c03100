//! From sqlx's errors to ours.

use std::io;

use outbox_core::{Error, ErrorKind};
use outbox_sql::postgres::server_error;
use sqlx::error::DatabaseError;

/// Turns an error of sqlx into one of this workspace.
///
/// For closures given to [`Outbox::transaction`](crate::Outbox::transaction) whose error type is
/// [`outbox_core::Error`]: `query.execute(&mut *connection).await.map_err(outbox_postgres::map_error)?`.
///
/// The server's message is kept, and its details and hints are not printed, because they may quote rows.
/// [`Error::driver_error`] returns the error of sqlx.
pub fn map_error(error: sqlx::Error) -> Error {
    use sqlx::Error as E;
    let (kind, message) = match &error {
        E::Database(database) => return from_server(&**database).with_driver_error(error),
        // Refused is the one thing that surely happened before anything was sent.
        E::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
            (ErrorKind::Unavailable, "the server refused the connection")
        }
        E::Io(io) if io.kind() == io::ErrorKind::TimedOut => {
            (ErrorKind::Timeout, "the server did not answer")
        }
        E::Io(_) | E::WorkerCrashed => (ErrorKind::Interrupted, "the connection to the server broke"),
        E::PoolTimedOut => (
            ErrorKind::Unavailable,
            "no connection in time: the server cannot be reached, or the pool is too small for what uses it",
        ),
        E::PoolClosed => (ErrorKind::Unavailable, "the pool of connections was closed"),
        E::Tls(_) => (ErrorKind::Unavailable, "no TLS connection to the server"),
        E::Configuration(_) | E::InvalidArgument(_) => {
            (ErrorKind::Config, "the connection's settings are wrong")
        }
        E::Encode(_) => (ErrorKind::Malformed, "a value cannot be sent to the database"),
        // Another program's protocol, or a pooler that mixes up sessions.
        E::Protocol(_) | E::BeginFailed => (ErrorKind::Interrupted, "the server answered out of turn"),
        E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } | E::TypeNotFound { .. } => {
            (ErrorKind::Schema, "the tables are not what this library expects")
        }
        _ => (ErrorKind::Internal, "the database driver failed"),
    };
    // The driver's text for wrong settings may quote the connection string.
    match error {
        E::Configuration(_) => Error::new(kind, message),
        error => Error::new(kind, message).with_source(error),
    }
}

fn from_server(error: &dyn DatabaseError) -> Error {
    server_error(&error.code().unwrap_or_default(), error.message(), error.table(), error.constraint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_driver_are_told_apart() {
        let io = |kind| sqlx::Error::Io(io::Error::from(kind));
        for (error, kind) in [
            (io(io::ErrorKind::ConnectionRefused), ErrorKind::Unavailable),
            (io(io::ErrorKind::ConnectionReset), ErrorKind::Interrupted),
            (io(io::ErrorKind::UnexpectedEof), ErrorKind::Interrupted),
            (io(io::ErrorKind::TimedOut), ErrorKind::Timeout),
            (sqlx::Error::PoolTimedOut, ErrorKind::Unavailable),
            (sqlx::Error::PoolClosed, ErrorKind::Unavailable),
            (sqlx::Error::ColumnNotFound("x".into()), ErrorKind::Schema),
            (sqlx::Error::RowNotFound, ErrorKind::Internal),
        ] {
            assert_eq!(map_error(error).kind(), kind);
        }
    }

    #[test]
    fn wrong_settings_are_not_quoted() {
        let error = map_error(sqlx::Error::Configuration("postgres://me:secret@host".into()));
        assert!(!format!("{error:?} {}", error.report()).contains("secret"));
    }
}
