//! From tokio-postgres' errors to ours.

use std::error::Error as _;
use std::io;

use outbox_core::{Error, ErrorKind};
use outbox_sql::postgres::server_error;

/// Turns an error of tokio-postgres into one of this workspace.
///
/// The server's message is kept. Its details and hints are not printed, because they may quote rows.
/// [`Error::driver_error`] returns the error of tokio-postgres:
///
/// ```
/// use outbox_tokio_postgres::tokio_postgres::{self, error::SqlState};
///
/// fn is_worth_another_try(error: &outbox_core::Error) -> bool {
///     let error = error.driver_error::<tokio_postgres::Error>();
///     error.and_then(tokio_postgres::Error::code) == Some(&SqlState::T_R_SERIALIZATION_FAILURE)
/// }
/// ```
pub fn map_error(error: tokio_postgres::Error) -> Error {
    if let Some(server) = error.as_db_error() {
        let (code, message) = (server.code().code(), server.message());
        return server_error(code, message, server.table(), server.constraint()).with_driver_error(error);
    }
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let (kind, message) = match io.map(io::Error::kind) {
        // Values that the driver cannot encode, such as one that is longer than the protocol allows.
        Some(io::ErrorKind::InvalidInput) => {
            (ErrorKind::TooLarge, "a value is larger than the protocol allows")
        }
        Some(io::ErrorKind::TimedOut) => (ErrorKind::Timeout, "the server did not answer"),
        Some(_) => (ErrorKind::Interrupted, "the connection to the server broke"),
        None if error.is_closed() => {
            (ErrorKind::Interrupted, "the connection to the server is closed; take a new one")
        }
        None => (ErrorKind::Internal, "the database driver failed"),
    };
    Error::new(kind, message).with_source(error)
}
