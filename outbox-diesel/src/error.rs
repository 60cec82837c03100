//! From diesel's errors to ours.

use std::fmt;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use outbox_core::{Error, ErrorKind};

/// Turns an error of diesel into one of this workspace.
///
/// Diesel keeps a kind of the server's error and its message, and no SQLSTATE. An error of a kind that diesel does not know, such
/// as a missing table or a deadlock, is [`ErrorKind::Internal`] with the server's message. The server's details and hints are not
/// printed, because they may quote rows. [`Error::driver_error`] returns the error of diesel.
pub fn map_error(error: DieselError) -> Error {
    use DatabaseErrorKind as K;
    let (kind, message) = match &error {
        DieselError::DatabaseError(kind, _) => match kind {
            K::UniqueViolation
            | K::ForeignKeyViolation
            | K::NotNullViolation
            | K::CheckViolation
            | K::RestrictViolation
            | K::ExclusionViolation => (ErrorKind::Malformed, "the database does not take a value"),
            K::SerializationFailure => (ErrorKind::Conflict, "a conflict with concurrent work"),
            K::ReadOnlyTransaction => (
                ErrorKind::Unavailable,
                "the database or the transaction is read-only; this may be a standby",
            ),
            K::UnableToSendCommand | K::ClosedConnection => {
                (ErrorKind::Interrupted, "the connection to the server broke")
            }
            _ => (ErrorKind::Internal, "the database refused a statement"),
        },
        DieselError::BrokenTransactionManager => {
            (ErrorKind::Interrupted, "the connection is in an unknown transaction state; take a new one")
        }
        DieselError::SerializationError(_) => {
            (ErrorKind::Malformed, "a value cannot be sent to the database")
        }
        _ => (ErrorKind::Internal, "the database driver failed"),
    };
    let mut mapped = Error::new(kind, message);
    if let DieselError::DatabaseError(_, server) = &error {
        mapped = mapped.with("server", server.message());
        if let Some(table) = server.table_name() {
            mapped = mapped.with("table", table);
        }
        if let Some(constraint) = server.constraint_name() {
            mapped = mapped.with("constraint", constraint);
        }
    }
    mapped.with_driver_error(error)
}

/// The error of a closure for `transaction`, which needs diesel's errors and ours in one type.
///
/// The question mark converts both. `From<TransactionError>` makes an [`outbox_core::Error`] of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransactionError {
    /// An error of the outbox.
    Outbox(Error),
    /// An error of diesel.
    Diesel(DieselError),
}

impl From<Error> for TransactionError {
    fn from(error: Error) -> Self {
        Self::Outbox(error)
    }
}

impl From<DieselError> for TransactionError {
    fn from(error: DieselError) -> Self {
        Self::Diesel(error)
    }
}

impl From<TransactionError> for Error {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Outbox(error) => error,
            TransactionError::Diesel(error) => map_error(error),
        }
    }
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbox(error) => error.fmt(f),
            Self::Diesel(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TransactionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Outbox(error) => error.source(),
            Self::Diesel(error) => error.source(),
        }
    }
}
